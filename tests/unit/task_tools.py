"""Runs of small models for the tests of evaluation tasks, without training."""

import numpy as np
import torch

from anymask import keyed
from anymask.data import infer_schema, open_source
from anymask.engine import Part, Tokens
from anymask.recipe import SIZES, find
from anymask.run import Run

SMALL = SIZES["nano"]._replace(width=32, depth=2, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2)


def made(source, folder, recipe="mae", changes=None):
    """A run of a recipe with the weights of its start."""
    source = open_source(source)
    run = Run(folder, find(recipe).but(changes or {}), SMALL, infer_schema(source), {"seed": 1, "precision": "fp32"})
    run.save()
    run.save_weights(run.build())
    return run


def digits(n=200, seed=0):
    whole = open_source("digits")
    return whole.subset(np.sort(np.random.default_rng(seed).permutation(len(whole))[:n]))


class Words(Part):
    """The pixels of an image in four levels, as integer tokens without a grid."""

    streams, grid, pitch = {"words": -4}, None, (1.0,)

    def forward(self, sample):
        x = sample["image"].flatten(1)
        levels = (x.float() / 4).clamp(0, 3).long()
        pos = torch.arange(x.shape[1], dtype=torch.float32)[None, :, None]
        return Tokens({"words": levels}, pos, sample.get("valid"))


def sample_of(images, **fields):
    images = torch.as_tensor(images)
    return {"image": images, "key": keyed.keys(0, 0, torch.arange(len(images))), **fields}
