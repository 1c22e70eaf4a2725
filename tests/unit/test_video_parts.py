"""Masks, targets and pictures of videos, against brute force."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from anymask.contract import subject_of
from anymask.contract.data import batch_of, example_schema
from anymask.data.kind import kind_of
from anymask.engine import everything
from anymask.parts.masks import whole_units
from anymask.recipe import SIZES, find
from anymask.reports.renderer import Panel, contents, filled, renderer_of

SCHEMA = example_schema("video")  # 6 x 24 x 32 in cubes of 2 x 4 x 4


def step_of(slug, changes=None, *, extent=True):
    recipe = find(slug).but(changes or {})
    torch.manual_seed(0)
    model = recipe.build(SCHEMA, SIZES["nano"]).eval()
    batch = batch_of(SCHEMA, 8)
    if not extent:
        del batch["extent"]
    with torch.no_grad():
        return model, model(batch)


def test_tubes_are_whole_and_differ_by_sample():
    _, step = step_of("videomae", extent=False)
    assert step.tokens.grid == (3, 6, 8) and step.tokens.valid is None
    shown = step.mask.visible.unflatten(1, (3, 48))
    assert (shown == shown[:, :1]).all()
    assert (shown[:, 0].sum(1) == 4).all()  # of 48, a tenth
    assert len({tuple(row.tolist()) for row in shown[:, 0]}) == 8


def test_tubes_of_short_clips():
    """A clip that lacks its last frames shows as many tubes, as long as it is."""
    _, step = step_of("videomae")
    valid = step.tokens.valid.unflatten(1, (3, 48))
    assert valid[3, :2].all() and not valid[3, 2].any() and valid[0].all()
    shown = step.mask.visible.unflatten(1, (3, 48))
    for clip, real in zip(shown, valid):
        depth = int(real[:, 0].sum())
        assert (clip[:depth] == clip[0]).all() and not clip[depth:].any() and clip[0].sum() == 4
    mask = step.mask
    kept, asked = mask.keep[3][mask.keep_ok[3]], mask.ask[3][mask.ask_ok[3]]
    assert sorted(kept.tolist() + asked.tolist()) == list(range(96))


def test_frames_are_whole():
    _, step = step_of("mae-st", {"mask.unit": (1, 0, 0)})
    shown = step.mask.visible.unflatten(1, (3, 48))
    assert (shown.all(2) == shown.any(2)).all() and (shown.any(2).sum(1) == 1).all()


def test_whole_units_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    names = torch.randint(0, 7, (20, 40), generator=generator)
    score = torch.rand(20, 7, generator=generator).gather(1, names)
    valid = torch.rand(20, 40, generator=generator) < 0.7
    for ratio in (0.1, 0.5, 0.9):
        for row, shown in enumerate(whole_units(score, valid, ratio).tolist()):
            there = {int(n): float(s) for n, s in zip(names[row][valid[row]], score[row][valid[row]])}
            first = sorted(there, key=there.get)[: max(1, int(len(there) * (1 - ratio) + 1e-4))]
            assert shown == sum(int(n) in first for n in names[row][valid[row]])


def test_cubes_and_positions():
    """A token holds two frames of 4 x 4 pixels, the channels fastest, and knows its middle in time and space."""
    model, step = step_of("mae-st")
    video = (step.sample["video"].float() - model.tokenizer.mean) / model.tokenizer.std
    cube = video[2, :, 2:4, 8:12, 20:24]  # C t h w
    token = (1 * 6 + 2) * 8 + 5
    assert torch.equal(step.tokens.x["video"][2, token], cube.permute(1, 2, 3, 0).flatten())
    assert step.tokens.pos[0, token].tolist() == [3.0, 10.0, 22.0]


@pytest.mark.parametrize("slug", ["mae-st", "videomae"])
def test_goals(slug):
    model, step = step_of(slug)
    goal = model.target(step, model)["pixels"]
    x = step.tokens.x["video"][1, step.mask.ask[1, 5]].double().numpy()  # 2 * 4 * 4 * 3
    if slug == "mae-st":  # the first of the two frames, by its mean and spread
        frame = x[:48]
        expected = (frame - frame.mean()) / np.sqrt(frame.var(ddof=1) + 1e-6)
    else:  # both, each channel by its own
        values = x.reshape(32, 3)
        expected = ((values - values.mean(0)) / np.sqrt(values.var(0, ddof=1) + 1e-6)).ravel()
    assert np.allclose(goal[1, 5].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("slug", ["mae-st", "videomae"])
def test_content_inverts_the_goal(slug):
    model, step = step_of(slug)
    perfect = step._replace(pred=model.target(step, model))
    made = model.target.content(perfect)
    truth = step.tokens.x["video"].gather(1, step.mask.ask[..., None].expand(*step.mask.ask.shape, 96))
    if slug == "mae-st":  # that frame stands for both
        truth = truth[..., :48].repeat(1, 1, 2)
    assert torch.allclose(made, truth, atol=1e-4)


def test_features_of_a_short_clip_do_not_depend_on_what_is_behind_it():
    model, step = step_of("mae-st")
    batch = dict(step.sample)
    before = model.embed(batch).mean()
    batch["video"] = batch["video"].clone()
    batch["video"][3, :, 4:] = 255 - batch["video"][3, :, 4:]
    assert torch.equal(model.embed(batch).mean(), before)
    batch["video"][2, :, 4:] = 255 - batch["video"][2, :, 4:]
    assert not torch.equal(model.embed(batch).mean()[2], before[2])


def test_pictures():
    subject = subject_of("videomae")
    model = subject.build().eval()
    with torch.no_grad():
        step = model(subject.batch)
    content, visible, made = contents(model, step)
    renderer = renderer_of(model)
    values = torch.rand(content.shape[:2])
    panels = [
        Panel("original", content), Panel("seen", content, visible),
        Panel("rebuilt", filled(content, *made), visible | made[1], predicted=made[1]),
        Panel("norm", content, None, values),
    ]  # fmt: skip
    drawings = renderer.draw(panels)
    sheets = [np.asarray(Image.open(BytesIO(d.png)).convert("RGBA")) for d in drawings]
    zoom = 3  # 24 pixels, drawn at 64 at least
    assert all(s.shape == (4 * (24 * zoom + 4) - 4, 6 * (32 * zoom + 2) - 2, 4) for s in sheets)
    first = subject.batch["video"][0, :, 2].permute(1, 2, 0).numpy().astype(float)
    start = 2 * (32 * zoom + 2)
    drawn = sheets[0][: 24 * zoom : zoom, start : start + 32 * zoom : zoom, :3].astype(float)
    assert np.corrcoef(first.ravel(), drawn.ravel())[0, 1] > 0.99
    last = sheets[0][3 * (24 * zoom + 4) :, 4 * (32 * zoom + 2) :]
    assert (last[..., 3] == 0).all()  # behind the end of the short clip there is nothing
    assert "92% of the patches hidden" in drawings[1].alt and "from left to right" in drawings[0].alt
    assert "hidden" not in drawings[2].alt and "coloured by its value" in drawings[3].alt


def test_plain_input():
    kind, field = kind_of("video"), SCHEMA.fields["video"]
    batch = batch_of(SCHEMA, 2)["video"]
    assert kind.flat(batch, field, 20_000).shape == (2, 3 * 6 * 24 * 32)
    few = kind.flat(batch, field, 4_000).unflatten(1, (3, 6, 12, 16))
    assert torch.allclose(few[1, 2, 3, 4, 5], batch[1, 2, 3, 8:10, 10:12].float().mean())


def test_everything_is_embedded_in_evaluation():
    model, step = step_of("mae-st", extent=False)
    assert model.embed(step.sample).x.shape[1] == everything(step.tokens).visible.shape[1] == 144
