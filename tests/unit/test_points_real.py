"""Point clouds and lidar sweeps as they are on disk; see shared/data/README.md."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from anymask.data import infer_schema, open_source
from anymask.recipe import find
from anymask.train.measure import first_batch

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")]


def test_modelnet_is_opened_and_learnt_from():
    source = open_source(DATA / "modelnet10_chair_monitor")
    schema = infer_schema(source)
    assert schema.count == 1032 and schema.labels == {"names": ["chair", "monitor"], "counts": [674, 358]}
    assert schema.fields["points"].shape == (1024, 3) and len(source.split("test")) == 258
    torch.manual_seed(0)
    model = find("point-mae").build(schema, "nano")
    batch = first_batch(source, schema, 8)
    tokens = model.tokenizer(batch)
    assert tokens.x["points"].shape == (8, 64, 99) and tokens.valid is None
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        losses.append(model(batch).loss)
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]


def test_kitti_sweeps_are_windows_of_pillars():
    source = open_source(DATA / "kitti_odometry" / "velodyne")
    assert len(source) == 4 * 49 and len(np.unique(source.groups)) == 4
    sweeps = [source.columns["lidar"].sweep(n) for n in range(4)]
    assert [len(sweep) for sweep in sweeps] == [124_668, 124_605, 124_478, 124_167]
    model = find("voxel-mae-lidar").build(infer_schema(source), "nano").eval()
    whole = {"lidar": torch.from_numpy(sweeps[0])[None], "key": torch.zeros(1, dtype=torch.long)}
    begun = time.process_time()
    tokens = model.tokenizer(whole)
    assert time.process_time() - begun < 1
    pillars = np.unique(np.floor(sweeps[0][:, :2].astype(np.float64) / 0.5), axis=0)
    assert int(tokens.valid.sum()) == len(pillars)
    count = torch.expm1(tokens.x["lidar"][..., -1]).sum()
    assert float(count) == pytest.approx(len(sweeps[0]), rel=1e-5)
