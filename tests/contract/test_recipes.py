"""Every recipe passes every item of the contract. A new recipe file is found here by itself."""

import pytest

from anymask.contract import ITEMS, subject_of
from anymask.recipe import catalogue

SLUGS = list(catalogue())


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("slug", SLUGS)
def test_contract(slug, item):
    ITEMS[item](subject_of(slug))


def test_recipes_are_found():
    assert {"mae", "simmim", "maskfeat", "gmml", "crossmae"} <= set(SLUGS)
