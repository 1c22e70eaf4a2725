"""Recipes whose masks, rows or views are more than one row a sample: they train, are evaluated and reported."""

import pytest

from anymask.contract.data import SMALL
from anymask.evaluation import embed, evaluate
from anymask.reports import report
from anymask.train import pretrain

FEW = {"target.out": 16, "decoder.out": 16, "decoder.hidden": 16, "decoder.bottleneck": 8}
CHANGES = {
    "attmask": FEW,
    "capi": {"target.clusters": 16},
    "cropmae": {},
    "data2vec-2": {"mask.masks": 2},
    "ibot": FEW,
    "mixedae": {},
    "spark": {},
}


@pytest.mark.parametrize("slug", CHANGES)
def test_trained_evaluated_and_reported(slug, tmp_path):
    run = pretrain(
        "digits", recipe=slug, steps=3, size=SMALL, batch_size=32, changes=CHANGES[slug], out=tmp_path / "run",
        probe_labels=None, progress=False,
    )  # fmt: skip
    assert embed(run, "digits").shape == (1797 - 500, run.model().encoder.width)
    table = evaluate(run, "digits", labels=(1,), draws=2)
    assert {row[0] for row in table.rows} == {"raw input", "untrained encoder", "pre-trained encoder"}
    page = report(run, "digits", tmp_path / "r.html", samples=40).read_text()
    assert "<svg" in page and "Traceback" not in page
