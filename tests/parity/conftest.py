"""`pytest tests/parity --record evidence/parity.json` also writes down the largest differences, by recipe."""

import json
import os
from datetime import date
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
GAPS = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--record", metavar="FILE", help="where to write the largest differences")


@pytest.fixture
def record(request):
    """record(recipe, against, {what: largest difference}) notes a comparison."""
    gaps = request.config.stash.setdefault(GAPS, {})

    def note(recipe, against, differences):
        gaps.setdefault(recipe, []).append({"test": request.node.name, "against": against, "largest": differences})

    return note


def pytest_sessionfinish(session, exitstatus):
    path = session.config.getoption("--record", None)
    if path and exitstatus == 0:
        import transformers

        about = {
            "command": f"pytest tests/parity --record {path}",
            "date": str(date.today()),
            "device": "cpu, fp32",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "recipes": session.config.stash.get(GAPS, {}),
        }
        Path(path).write_text(json.dumps(about, indent=1) + "\n")
