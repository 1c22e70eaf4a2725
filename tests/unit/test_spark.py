"""A sparse convolutional hierarchy: holes stay empty, statistics are of what is there, and every scale is decoded."""

import pytest
import torch

from anymask.contract.data import SMALL, batch_of, example_schema, picture_schema
from anymask.parts.convolutional import Residual, SparseBatchNorm
from anymask.recipe import RecipeError, find


def built(changes=None, schema=None):
    torch.manual_seed(0)
    return find("spark").but(changes or {}).build(schema or example_schema("image"), SMALL)


def test_every_cell_of_a_hidden_patch_is_empty_at_every_scale():
    model = built()
    step = model.predict(model.hide(batch_of(example_schema("image"), 4)))
    grid = step.tokens.grid
    hidden = ~step.mask.visible.view(4, 1, *grid)
    assert len(step.latent.maps) == len(model.encoder.widths) > 1
    for cells, width in zip(step.latent.maps, model.encoder.widths):
        times = cells.shape[2] // grid[0]
        holes = hidden.repeat_interleave(times, 2).repeat_interleave(times, 3).expand_as(cells)
        assert cells.shape[1] == width and (cells[holes] == 0).all() and (cells[~holes] != 0).any()
    coarse = step.latent.maps[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(step.latent.x[1], coarse[1, step.mask.keep[1]])


def test_normalisation_counts_what_is_there():
    torch.manual_seed(0)
    norm, plain = SparseBatchNorm(3).train(), torch.nn.BatchNorm1d(3).train()
    x, on = torch.randn(4, 3, 6, 6) * 2 + 1, (torch.rand(4, 1, 6, 6) < 0.4).float()
    found = norm.sparse(x, on)
    there = on[:, 0].bool()
    want = plain(x.movedim(1, -1)[there])
    torch.testing.assert_close(found.movedim(1, -1)[there], want, atol=1e-5, rtol=1e-4)
    assert (found.movedim(1, -1)[~there] == 0).all()
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    ordinary = torch.nn.BatchNorm2d(3)
    torch.testing.assert_close(SparseBatchNorm(3).train().sparse(x, None), ordinary(x))


def test_a_block_leaves_what_is_shown_untouched_by_the_content_of_holes():
    torch.manual_seed(0)
    block = Residual(4, 8, 2).train()
    on = (torch.rand(2, 1, 4, 4) < 0.5).float()
    fine = on.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = torch.randn(2, 4, 8, 8) * fine
    out = block(x, on)
    assert out.shape == (2, 8, 4, 4) and (out[(on == 0).expand_as(out)] == 0).all()


def test_the_scales_follow_the_patch():
    schema = picture_schema((3, 64, 64))
    for patch, strides in [(4, [1, 2, 4]), (8, [1, 2, 4, 8]), (16, [2, 4, 8, 16]), (32, [4, 8, 16, 32])]:
        model = built({"tokenizer.patch": patch, "mask.fewest": 1}, schema)
        assert model.encoder.strides == strides
        step = model(batch_of(schema, 2))
        assert step.pred["pixels"].shape[-1] == 3 * patch**2 and step.loss.isfinite()


def test_one_scale_is_decoded_alone():
    model = built({"decoder.hierarchical": False})
    step = model.hide(batch_of(example_schema("image"), 2))
    step = model.predict(step)
    fine = [torch.zeros_like(cells) for cells in step.latent.maps[:-1]]
    again = model.decoder(step._replace(latent=step.latent._replace(maps=(*fine, step.latent.maps[-1]))), model)
    assert torch.equal(again["pixels"], step.pred["pixels"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="scales that halve"):
        built({"tokenizer.patch": 6}, picture_schema((3, 24, 24)))
    with pytest.raises(RecipeError, match=r"encoder=P\(SparseResNet\)"):
        find("mae").but(decoder=find("spark").decoder).build(example_schema("image"), SMALL)
    with pytest.raises(RecipeError, match=r"target=P\(Pixels\)"):
        find("spark").but(target=find("maskfeat").target).build(example_schema("image"), SMALL)
    with pytest.raises(RecipeError, match=r"corruption=P\(Drop\)"):
        model = find("spark").but(corruption=find("simmim").corruption).build(example_schema("image"), SMALL)
        model(batch_of(example_schema("image"), 2))
