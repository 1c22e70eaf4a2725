"""Satellite scenes as they are on disk; see shared/data/README.md."""

import os
from pathlib import Path

import pytest
import torch

from anymask.data import infer_schema, open_source
from anymask.recipe import find
from anymask.train.measure import first_batch

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")]


@pytest.mark.parametrize("slug", ["satmae", "ca-mae"])
def test_eurosat_is_opened_and_learnt_from(slug):
    source = open_source(DATA / "eurosat_ms")
    schema = infer_schema(source)
    field = schema.fields["satellite"]
    assert field.shape == (13, 64, 64) and source.splits == ("test", "validation") and len(source) == 60
    assert field.more["resolution"] == pytest.approx(10, abs=0.01) and field.mean[9] < 50  # the cirrus band is dark
    # Visible and short-wave infrared vary together, near infrared does so, and two bands do as nothing else does.
    assert sorted(len(group) for group in field.more["groups"]) == [1, 1, 5, 6]
    torch.manual_seed(0)
    model = find(slug).build(schema, "nano")
    batch = first_batch(source, schema, 6)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        losses.append(model(batch).loss)
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]


def test_a_scene_of_five_dates_is_windows():
    source = open_source(DATA / "eolearn_patch" / "reference_scenes_s2_13band.npy", kind="satellite")
    field = infer_schema(source).fields["satellite"]
    assert field.shape == (13, 5, 32, 32) and len(source) == 36 and 0.4 < field.high < 0.6
    assert [10] in field.more["groups"]  # cirrus
