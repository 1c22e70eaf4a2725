"""What `verify` found, as a file, a table and a page."""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.judging import digits_of
from anymask.table import Figure, Table, interval

FORMAT = 2
ARMS = ("ours", "comparator")


@dataclass
class Evidence:
    """What `verify` found; `<slug>.json`, or `<slug>.<name>.json` of a further claim, has the same fields. Scores and
    effects are in the claim's `unit`."""

    recipe: str
    claim: str
    unit: str
    verdict: str
    note: str
    smallest_effect: float
    effect: Figure
    seeds: list[int]
    arms: dict[str, list[dict[str, Any]]]  # arm -> one dict a seed: score, seconds, scores (see `unpack`)
    context: dict[str, list[float]]  # scores of what the arms are seen beside: one, or one a seed
    difference: list[dict[str, str]]  # what separates the arms: argument, ours, comparator
    budget: dict[str, Any]
    data: dict[str, Any]
    command: str
    machine: dict[str, Any]
    date: str
    name: str = ""  # of a further claim; "" = the recipe's main one
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"effect": self.effect.to_json()}

    @classmethod
    def read(cls, path: str | Path) -> Evidence:
        """
        Raises:
            ClaimError: the file is not evidence of this format.
        """
        found = json.loads(Path(path).read_text())
        if found.get("format") != FORMAT:
            raise ClaimError(f"{path} is not evidence in format {FORMAT}; run `anymask verify {Path(path).stem}` again")
        effect = Figure(**found["effect"], digits=digits_of(found["smallest_effect"]))
        return cls(**{**found, "effect": effect})

    def save(self, folder: str | Path) -> Path:
        """Writes <folder>/<recipe>.json, or <recipe>.<name>.json of a further claim."""
        from anymask.run import write_atomically

        path = Path(folder).expanduser() / file_of(self.recipe, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(self.to_json(), indent=1).encode())
        return path

    def arm(self, name: str) -> Figure:
        """Mean score of an arm, and its interval over seeds."""
        return interval(np.array([one["score"] for one in self.arms[name]]), self.effect.digits)

    @property
    def seconds(self) -> float:
        """Of training and measuring all arms."""
        return sum(one["training seconds"] + one["measuring seconds"] for arm in self.arms.values() for one in arm)

    def table(self) -> Table:
        """The score of each arm, and the verdict as a note."""
        rows: list[Any] = [(name, interval(np.array(v), self.effect.digits)) for name, v in self.context.items()]
        rows += [(arm, self.arm(arm)) for arm in ARMS]
        changes = "; ".join(f"{d['argument']} {d['ours']} against {d['comparator']}" for d in self.difference)
        notes = [
            f"{self.verdict}: the difference is {self.effect}, the smallest that matters {self.smallest_effect:g}",
            *([self.note] if self.note else []),
            f"the arms differ in: {changes}",
        ]
        title = f"{self.recipe}: {self.claim} ({len(self.seeds)} seeds, {self.data['name']})"
        return Table(("arm", self.unit), rows, title=title, notes=notes)


def file_of(recipe: str, name: str = "") -> str:
    """The file with the evidence of a claim."""
    return f"{recipe}.{name}.json" if name else f"{recipe}.json"


def pack(scores: np.ndarray) -> dict[str, Any]:
    """(T,) scores as text: where all are 0 or 100 their bits, first sample in the highest bit, else little-endian
    float32; both in base 64, with the number of samples."""
    right = scores == 100
    if (right | (scores == 0)).all():
        return {"count": len(scores), "bits": base64.b64encode(np.packbits(right).tobytes()).decode()}
    return {"count": len(scores), "float32": base64.b64encode(scores.astype("<f4").tobytes()).decode()}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The inverse of `pack`: (T,) float64."""
    if "float32" in packed:
        return np.frombuffer(base64.b64decode(packed["float32"]), dtype="<f4").astype(np.float64)
    bits = np.frombuffer(base64.b64decode(packed["bits"]), dtype=np.uint8)
    return 100.0 * np.unpackbits(bits, count=packed["count"])


def page(folder: str | Path) -> str:
    """Markdown: every recipe with its level, and what its claim gave, read from the evidence in `folder`."""
    from anymask.claims.levels import level
    from anymask.recipe import catalogue, find

    folder = Path(folder)
    recipes = [find(slug) for slug in catalogue()]
    levels = {r.slug: level(r.slug, folder) for r in recipes}
    counts = ", ".join(f"{sum(v == n for v in levels.values())} at level {n}" for n in sorted(set(levels.values())))
    lines = [
        "# Evidence",
        "",
        "Written by `anymask evidence`; nothing in it is typed by hand. Level 1: passes the contract and trains. 2:",
        "its claim is shown. 3: a published figure, or the outputs of another implementation, are reproduced",
        "(`evidence/parity.json`). Differences are paired, with their 95 % interval (bootstrap over seeds and test",
        "samples). A recipe's further claims follow its main one and do not count for its level.",
        f"{len(recipes)} recipes: {counts}.",
        "",
        "| recipe | paper | level | claim | on | with | without | difference | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    runs = []
    for r, name, claim in ((found, *item) for found in recipes for item in found.claims.items()):
        file = folder / file_of(r.slug, name)
        head = f"| `{r.slug}` | {r.paper} | {levels[r.slug]} " if not name else "| | | "
        if not file.is_file():
            lines.append(head + f"| {claim.text} | {claim.on} | | | | not run |")
            continue
        found = Evidence.read(file)
        means = [f"{found.arm(arm).mean:.{found.effect.digits}f}" for arm in ARMS]
        lines.append(
            head + f"| {found.claim} | {found.data['name']} | {' | '.join(means)} | {found.effect} {found.unit} | "
            f"{found.verdict}{f' ({found.note})' if found.note else ''} |"
        )
        changes = "; ".join(f"{d['argument']} {d['ours']} against {d['comparator']}" for d in found.difference)
        runs += ["", f"`{r.slug}`: `{found.command}`; {found.data['training samples']:,} training samples, "
                 f"{found.budget['samples seen']:,} seen, size {found.budget['size']}, {found.budget['metric']}; the "
                 f"arms differ in {changes}. {found.machine['device']}, torch {found.machine['torch']}, commit "
                 f"{str(found.machine['commit'])[:12]}, {found.date[:10]}, {found.seconds / 60:.0f} minutes of "
                 f"{found.machine['threads']} thread(s)."]  # fmt: skip
    return "\n".join([*lines, *runs, ""])
