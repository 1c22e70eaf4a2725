"""Real samples of several parts; see shared/data/README.md."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from anymask.data import infer_schema, open_source
from anymask.data.mix import mix
from anymask.recipe import find
from anymask.train.measure import first_batch

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")]


def learns(recipe, source, steps=6, size="pico", share=0.97):
    schema = infer_schema(source)
    torch.manual_seed(0)
    model = find(recipe).build(schema, size)
    batch = first_batch(source, schema, min(8, len(source)))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        losses.append(model(batch).loss)
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < share * losses[0]
    return schema


def test_frames_of_colour_and_depth():
    source = open_source(DATA / "redwood_livingroom")
    assert source.ids == [f"0000{n}" for n in range(5)]
    schema = learns("multimae", source)
    assert {name: field.kind for name, field in schema.fields.items()} == {"color": "image", "depth": "depth"}
    depth = schema.fields["depth"]
    assert 900 < depth.low < depth.high < 3000 and 0.1 < depth.gaps[0] < 0.15  # millimetres of a room


def test_pairs_by_pattern():
    about = {"rgb": {"path": "{id}_color.*"}, "depth": {"path": "{id}_depth.png"}}
    source = mix({"fields": about}, root=DATA / "rgbd_pairs")
    assert source.ids == ["SUN", "TUM"] and np.isnan(source[0]["depth"]).any()


def test_pictures_with_texts():
    source = open_source(DATA / "openmoji", kind="mix")
    assert set(source.kinds) == {"image", "text"} and len(source) == 1522 and len(source.split("test")) == 357
    learns("m3ae", source)
    alone = open_source(DATA / "openmoji")
    assert set(alone.kinds) == {"image"} and any("--kind mix" in note for note in alone.notes)


def test_parts_derived_from_pictures():
    source = open_source(DATA / "cifar10", derive="luma,edges,colours").subset(range(64))
    schema = learns("multimae", source)
    shapes = {name: field.shape for name, field in schema.fields.items()}
    assert shapes == {"luma": (1, 32, 32), "edges": (2, 32, 32), "colours": (1, 32, 32)}
    assert schema.fields["colours"].more["classes"] == 8
