"""bert, the default of proteins and molecules, passes the contract on both as it does on texts.

What is compiled is the same graph as that of texts, and compiling takes longer than all else here."""

import pytest

from anymask.contract import ITEMS, subject_of
from anymask.contract.data import example_schema

pytest.importorskip("tokenizers")


@pytest.mark.parametrize("item", [name for name in ITEMS if name not in ("facts", "stages", "compiles")])
@pytest.mark.parametrize("kind", ["protein", "molecule"])
def test_contract(kind, item):
    ITEMS[item](subject_of("bert", schema=example_schema(kind)))
