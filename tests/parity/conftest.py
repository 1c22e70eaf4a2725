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

        file = Path(path)
        recipes = json.loads(file.read_text())["recipes"] if file.exists() else {}  # of tests that were not run
        how = {
            "date": str(date.today()),
            "device": "cpu, fp32",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        for recipe, found in session.config.stash.get(GAPS, {}).items():
            run = [one["test"] for one in found]
            kept = [one for one in recipes.get(recipe, ()) if one["test"] not in run]
            recipes[recipe] = sorted(kept + [{**one, **how} for one in found], key=lambda one: one["test"])
        about = {"command": f"pytest tests/parity --record {path}", "recipes": dict(sorted(recipes.items()))}
        file.write_text(json.dumps(about, indent=1) + "\n")
