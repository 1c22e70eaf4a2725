"""Targets and positions against plain references."""

import numpy as np
import pytest
import torch
from reference import hog, mae_positions

from anymask.contract.data import SMALL, batch_of, picture_schema
from anymask.recipe import find


@pytest.mark.parametrize(("shape", "width"), [((3, 24, 32), 32), ((1, 40, 24), 48)])
def test_sincos(shape, width):
    model = find("mae").but({"tokenizer.patch": 8}).build(picture_schema(shape), SMALL._replace(width=width))
    tokens = model.tokenizer(batch_of(model.schema))
    ours = model.stem.positions(tokens)[0].numpy()
    gap = np.abs(ours - mae_positions(width, *tokens.grid)).max()
    print(f"sin-cos: {gap:.1e}")
    assert gap < 1e-6


@pytest.mark.parametrize(("cells", "bins"), [(2, 9), (1, 9), (4, 6)])
def test_hog(cells, bins):
    recipe = find("maskfeat").but({"target.cells": cells, "target.bins": bins})
    model = recipe.build(picture_schema(), SMALL)
    step = model.hide(batch_of(model.schema, count=2))
    goal = model.target(step, model)["hog"].numpy()
    images = model.tokenizer.whole(step.tokens.x["image"], step.tokens.grid).double().numpy()
    columns = step.tokens.grid[1]
    gaps = []
    for b in range(2):
        whole = hog(images[b], model.tokenizer.patch // cells, bins)  # C h w bins
        for m, n in enumerate(step.mask.ask[b].tolist()):
            top, left = n // columns * cells, n % columns * cells
            patch = whole[:, top : top + cells, left : left + cells]  # C c c bins
            gaps.append(np.abs(goal[b, m] - patch.transpose(0, 3, 1, 2).reshape(-1)).max())
    print(f"hog: {max(gaps):.1e}")
    assert max(gaps) < 1e-5


def test_normalised_pixels():
    """Mean and unbiased variance of each patch, 1e-6 added to the variance (MAE's code)."""
    model = find("mae").build(picture_schema(), SMALL)
    step = model.hide(batch_of(model.schema))
    goal = model.target(step, model)["pixels"].numpy()
    for b in range(len(goal)):
        patches = step.tokens.x["image"][b].double().numpy()[step.mask.ask[b].numpy()]
        mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
        assert np.abs(goal[b] - (patches - mean) / np.sqrt(variance + 1e-6)).max() < 1e-4
    assert torch.isfinite(step.tokens.x["image"]).all()
