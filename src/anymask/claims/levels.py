"""How far a recipe is: 1 runs (it passes the contract), 2 its claim is shown, 3 it reproduces a published figure or the
outputs of another implementation. Read from the evidence beside the source checkout, never typed by hand."""

from __future__ import annotations

import json
from pathlib import Path

EVIDENCE = Path(__file__).resolve().parents[3] / "evidence"
PARITY = "parity.json"  # recipe -> what its outputs were compared with, and the largest difference


def level(slug: str, folder: Path = EVIDENCE) -> int:
    """1 to 3; 1 where no evidence is at hand (an installed package carries none)."""
    parity = folder / PARITY
    if parity.is_file() and slug in json.loads(parity.read_text())["recipes"]:
        return 3
    claim = folder / f"{slug}.json"
    return 2 if claim.is_file() and json.loads(claim.read_text())["verdict"] == "shown" else 1
