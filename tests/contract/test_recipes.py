"""Every recipe passes every item of the contract. A new recipe file is found here by itself."""

import pytest
import torch

from anymask.contract import ITEMS, subject_of
from anymask.recipe import catalogue

SLUGS = list(catalogue())


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose more by sharing their work than they gain; and tests may run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("slug", SLUGS)
def test_contract(slug, item):
    ITEMS[item](subject_of(slug))


def test_recipes_are_found():
    assert {"mae", "simmim", "maskfeat", "gmml", "crossmae"} <= set(SLUGS)
