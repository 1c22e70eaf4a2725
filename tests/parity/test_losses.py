"""A refactor changes no loss: those recorded in first_losses.json."""

import json

import pytest
from first_losses import FILE, first_loss

from anymask.recipe import catalogue

KNOWN = json.loads(FILE.read_text())


@pytest.mark.parametrize("slug", list(catalogue()))
def test_the_first_loss_is_the_recorded_one(slug):
    assert slug in KNOWN, f"record it: python tests/parity/first_losses.py {slug}"
    assert first_loss(slug) == pytest.approx(KNOWN[slug], rel=1e-3), (
        f"the loss of {slug} has changed; if that was meant, say why and run tests/parity/first_losses.py {slug}"
    )
