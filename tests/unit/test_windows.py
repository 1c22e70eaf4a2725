"""Shifted windows over a hierarchy: who reads whom, edges, and what does not fit."""

import pytest
import torch

from anymask.contract.data import SMALL, batch_of, example_schema, picture_schema
from anymask.engine import Step
from anymask.parts.windows import Merging, WindowBlock, layout
from anymask.recipe import P, RecipeError, Size, find


def built(changes=None, schema=None, size=SMALL):
    torch.manual_seed(0)
    return find("simmim-swin").but(changes or {}).build(schema or example_schema("image"), size)


def by_hand(block, side, shift, x, ok):
    """Each cell by itself: which cells lie in its window once windows are shifted, as the paper draws it (figure 2)."""
    r, high, wide, width = x.shape
    attn, out = block.attn, torch.zeros_like(x)
    q, k, v = (part.view(r, high, wide, attn.heads, -1) for part in attn.qkv(x).split(width, -1))
    window = [[((i - shift) // side, (j - shift) // side) for j in range(wide)] for i in range(high)]
    for n in range(r):
        for i in range(high):
            for j in range(wide):
                scores, values = [], []
                for a in range(high):
                    for b in range(wide):
                        if window[a][b] == window[i][j] and ok[n, a, b]:
                            place = (i - a + side - 1) * (2 * side - 1) + j - b + side - 1
                            score = (q[n, i, j] * k[n, a, b]).sum(-1) * q.shape[-1] ** -0.5
                            scores.append(score + attn.bias[place])
                            values.append(v[n, a, b])
                if scores:
                    share = torch.stack(scores).softmax(0)[..., None]  # keys, heads, 1
                    out[n, i, j] = (share * torch.stack(values)).sum(0).flatten()
    return attn.proj(out)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("high, wide", [(6, 6), (7, 5), (3, 8), (2, 2)])
def test_cells_read_their_window_only(shift, high, wide):
    torch.manual_seed(0)
    block = WindowBlock(8, 2, 3)
    torch.nn.init.normal_(block.attn.bias)
    way = layout(high * wide, (high, wide), (3, 3), (shift, shift), torch.device("cpu"))
    for share in (1.0, 0.7):
        x, ok = torch.randn(2, high, wide, 8), torch.rand(2, high, wide) < share
        read = way.join(block.attn(way.split(x.flatten(1, 2)), way.split(ok.flatten(1))), 2).view_as(x)
        torch.testing.assert_close(read[ok], by_hand(block, 3, shift, x, ok)[ok], atol=1e-5, rtol=1e-4)


def test_two_by_two_cells_are_merged():
    x = torch.arange(16.0).view(1, 16, 1)
    merging = Merging(1)
    corners = []
    merging.norm.register_forward_hook(lambda _, given, __: corners.append(given[0]))
    assert merging(x, (4, 4)).shape == (1, 4, 2)
    assert corners[0][0, 1].tolist() == [2, 6, 3, 7]  # the cells of the upper right, down before across


def test_scales_follow_the_patch_and_the_last_has_the_patches():
    schema = picture_schema((3, 64, 64))
    size = Size(32, 6, 4, 16, 1, 2)
    for patch, counts, side in [(4, (2, 2, 2), 1), (8, (2, 2, 2, 2), 1), (16, (2, 2, 2, 2), 2), (32, (2, 2, 2, 2), 4)]:
        model = built({"tokenizer.patch": patch, "mask.fewest": 1}, schema, size)
        assert model.stem.side == side and len(model.encoder.blocks) == sum(counts)
        assert [block.attn.heads for block in model.encoder.blocks][-1] == 4
        step = model(batch_of(schema, 2))
        assert step.latent.x.shape == (2, (64 // patch) ** 2, 32) and step.loss.isfinite()
    deep = built({"tokenizer.patch": 8}, schema, Size(32, 12, 4, 16, 1, 2))
    assert deep.encoder.counts == [2, 2, 6, 2] and deep.encoder.sides == [7, 7, 7, 7]
    assert deep.encoder.shifts == [3, 3, 3, 3]
    assert built({"tokenizer.patch": 16, "encoder.window": 5}, schema, size).encoder.shifts == [2, 2, 2, 0]


def test_hidden_content_is_not_read_and_a_cell_holds_its_pixels():
    model = built().eval()
    batch = batch_of(example_schema("image"), 3)
    step = model.predict(model.hide(batch))
    x = step.tokens.x["image"]
    junk = torch.where(step.mask.visible[..., None], x, 9.0)
    other = step._replace(tokens=step.tokens._replace(x={"image": junk}), aux={})
    assert torch.equal(model.predict(other).latent.x, step.latent.x)
    # One value moves the embedding of its own cell only: the first of the last pixel of the first patch.
    tokens = step.tokens
    moved = x.clone()
    moved[:, 0, -model.stem.channels] += 1
    whole = Step(batch, tokens, step.mask._replace(visible=torch.ones_like(step.mask.visible)), aux={})
    before, after = (
        model.stem(whole._replace(tokens=tokens._replace(x={"image": v}))).x.unflatten(2, (model.stem.across**2, -1))
        for v in (x, moved)
    )
    assert (before != after).any(-1).nonzero()[:, 1:].unique(dim=0).tolist() == [[0, model.stem.across**2 - 1]]


def test_what_does_not_fit_is_refused():
    schema = picture_schema((3, 24, 24))
    for changes, words in [
        ({"tokenizer.patch": 6}, "square patches of images"),
        ({"encoder.blocks": (1, 1)}, r"encoder\.blocks counts"),
        ({"encoder.window": 0}, r"encoder\.window cells"),
        ({"corruption": P(find("mae").stages["corruption"].part)}, "hidden patches are replaced"),
        ({"stem": P(find("mae").stages["stem"].part)}, "stem=P.CellEmbed"),
    ]:
        with pytest.raises(RecipeError, match=words):
            built({"tokenizer.patch": 4, **changes}, schema)
    with pytest.raises(RecipeError, match="need one that 4 divides"):
        built({"tokenizer.patch": 4}, schema, Size(18, 2, 2, 16, 1, 2))
