"""Volumes as they are on disk; see shared/data/README.md."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from anymask.data import infer_schema, open_source
from anymask.recipe import find
from anymask.train.measure import first_batch

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data")) / "volumes"
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")]


def test_volumes_are_opened_and_learnt_from():
    source = open_source(DATA)
    schema = infer_schema(source)
    field = schema.fields["volume"]
    assert len(np.unique(source.groups)) == field.more["cases"] == 11 and 400 < len(source) < 1000
    assert field.shape == (1, 48, 48, 48) and field.more["spacing"] == [0.88, 0.88, 1.0]
    assert abs(field.more["finest"] - 0.1) < 0.01 and abs(field.more["coarsest"] - 2.4) < 0.01
    assert 0.1 < field.mean[0] < 0.5
    torch.manual_seed(0)
    model = find("mae").build(schema, "nano")
    batch = first_batch(source, schema, 8)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        losses.append(model(batch).loss)
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]


def test_two_contrasts_of_one_head_lie_over_one_another(tmp_path):
    for name in ("t1", "PD"):
        (tmp_path / "chris").mkdir(exist_ok=True)
        (tmp_path / "chris" / f"{name}.nii.gz").symlink_to(DATA / f"chris_{name}.nii.gz")
    source = open_source(tmp_path)
    assert source.columns["volume"].modalities == ("PD", "t1")
    inside, agreed = 0, []
    for row in range(0, len(source), 4):
        pd, t1 = source[row]["volume"].read()
        both = ~np.isnan(pd) & ~np.isnan(t1)
        inside += both.sum()
        if both.sum() > 50_000:
            agreed.append(np.corrcoef((pd[both] > 0.15), (t1[both] > 0.15))[0, 1])
    assert inside > 500_000 and np.median(agreed) > 0.5  # foreground is foreground in both, though one lies askew
