"""Patches, masks and positions on grids of one, two and three axes."""

from types import SimpleNamespace

import pytest
import torch

from anymask import keyed
from anymask.engine import Step, Tokens
from anymask.parts.masks import Random
from anymask.parts.positions import SinCos
from anymask.parts.tokenizers import Patches
from anymask.recipe import RecipeError

SPACES = {(12,): 4, (6, 8): (3, 2), (4, 6, 8): (2, 3, 4)}


def patches(space, patch, channels=2):
    field = SimpleNamespace(
        name="image", kind="image", shape=(channels, *space), mean=(1.0,) * channels, std=(2.0,) * channels
    )
    return Patches(SimpleNamespace(schema=SimpleNamespace(fields={"image": field})), patch=patch)


@pytest.mark.parametrize(("space", "patch"), SPACES.items())
def test_every_value_lies_in_the_patch_whose_centre_is_nearest(space, patch):
    tokenizer = patches(space, patch)
    sides = torch.tensor(tokenizer.sides)
    places = torch.stack(torch.meshgrid(*[torch.arange(n) for n in space], indexing="ij"))  # P *space
    for axis in range(len(space)):
        values = places[axis].expand(1, 2, *space).float()
        tokens = tokenizer({"image": values})
        inside = tokens.x["image"] * 2.0 + 1.0  # 1 N values*C, the coordinate of each value along this axis
        gap = (inside + 0.5 - tokens.pos[..., axis, None]).abs()
        assert gap.max() < sides[axis] / 2
        assert tokens.shape[1] == torch.tensor(tokenizer.grid).prod()


@pytest.mark.parametrize(("space", "patch"), SPACES.items())
def test_whole_undoes_patches(space, patch):
    tokenizer = patches(space, patch)
    values = torch.randn(3, 2, *space)
    assert torch.equal(tokenizer.whole(tokenizer.patches(values), tokenizer.grid), values)
    assert torch.allclose(tokenizer.raw((values - tokenizer.mean) / tokenizer.std), values, atol=1e-6)


def test_within_a_patch_the_channels_come_last_and_the_last_axis_is_fastest():
    x = patches((2, 4), 2).patches(torch.arange(16.0).view(1, 2, 2, 4))
    assert x[0, 0].tolist() == [0, 8, 1, 9, 4, 12, 5, 13]


def test_what_lies_outside_the_extent_is_not_valid():
    tokens = patches((6, 8), (3, 2))({"image": torch.zeros(2, 2, 6, 8), "extent": torch.tensor([[6, 8], [3, 5]])})
    assert tokens.valid[0].all()
    assert tokens.valid[1].view(2, 4).tolist() == [[True, True, True, False], [False] * 4]


def test_patches_that_do_not_fit_say_which_do():
    with pytest.raises(RecipeError, match="patches of 5 x 5 do not fit 6 x 8; patches that fit: 2"):
        patches((6, 8), 5)
    with pytest.raises(RecipeError, match="a side for each of 3 axes"):
        patches((4, 6, 8), (2, 2))
    with pytest.raises(RecipeError, match="not squares"):
        _ = patches((6, 8), (3, 2)).patch


def hidden(grid, **options):
    """(B, *grid) bool."""
    n = torch.Size(grid).numel()
    model = SimpleNamespace(tokenizer=SimpleNamespace(grid=grid), corruption=SimpleNamespace(keep=0.0))
    tokens = Tokens({"x": torch.zeros(8, n, 1)}, torch.zeros(1, n, len(grid)), grid=grid)
    step = Step({"key": keyed.keys(0, 0, torch.arange(8))}, tokens)
    return ~Random(model, **options)(step, model).visible.unflatten(1, grid)


def test_a_unit_of_0_is_a_whole_axis():
    tubes = hidden((4, 3, 5), ratio=0.6, unit=(0, 1, 1))  # B T H W
    assert (tubes == tubes[:, :1]).all() and (tubes[:, 0].flatten(1).sum(1) == 9).all()
    frames = hidden((4, 3, 5), ratio=0.5, unit=(1, 0, 0)).flatten(2)
    assert (frames == frames[..., :1]).all() and (frames[..., 0].sum(1) == 2).all()
    assert len({tuple(row.tolist()) for row in tubes[:, 0].flatten(1)}) > 1


def test_units_that_say_nothing_sensible_are_refused():
    with pytest.raises(RecipeError, match="a number for each of the 2 axes"):
        hidden((4, 4), unit=(1, 1, 1))
    with pytest.raises(RecipeError, match="hide a whole grid"):
        hidden((4, 4), unit=(0, 0))
    with pytest.raises(RecipeError, match="at least 1"):
        hidden((4, 4), unit=0)


@pytest.mark.parametrize("width", [32, 96])
def test_positions_in_three_axes_differ_everywhere_and_fit_any_even_width(width):
    tokenizer = patches((4, 6, 8), (2, 3, 4))
    positions = SinCos(SimpleNamespace(tokenizer=tokenizer), width=width)
    tokens = tokenizer({"image": torch.zeros(1, 2, 4, 6, 8)})
    place = positions(tokens)[0]
    assert place.shape == (8, width)
    assert torch.cdist(place, place).add(torch.eye(8)).min() > 0.1
