"""Parts of skeleton sequences against brute force: tokens, motion, masks, positions, turning, pictures, training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_tools import run

from anymask import keyed
from anymask.contract import check_recipe
from anymask.contract.data import batch_of, example_schema
from anymask.data import infer_schema, open_source
from anymask.data.augment import CropTurn
from anymask.data.kinds.skeleton import walks
from anymask.engine import Step
from anymask.evaluation import embed, evaluate
from anymask.parts.skeleton import JointSegments, MotionAware
from anymask.parts.targets import spreads
from anymask.recipe import P, RecipeError, find
from anymask.reports import Panel, renderer_of, report
from anymask.sizes import Size

SMALL = Size(32, 2, 2, 32, 2, 2)


def sequences(n=6, frames=24, joints=5, channels=3):
    """As files hold them: (T, J, C)."""
    return list(walks(n, (channels, joints, frames), 1).transpose(0, 3, 2, 1))


def schema_of(x, **options):
    return infer_schema(open_source(x, kind="skeleton"), **options)


def batch(x):
    x = torch.from_numpy(np.stack(x).transpose(0, 3, 2, 1).copy())
    return {"skeleton": x, "key": keyed.keys(0, 0, torch.arange(len(x)))}


def tokenizer(x, **options):
    return JointSegments(SimpleNamespace(schema=schema_of(x)), **options)


def test_tokens_are_a_joint_over_a_segment():
    x = sequences(channels=4)
    part = tokenizer(x, segment=5, centre=False, scale=False)
    tokens = part(batch(x))
    assert tokens.grid == (5, 5) and part.streams == {"skeleton": 15}  # 24 frames: the last segment has 4
    size = part.size
    for b in range(6):
        for n in range(25):
            j, s = divmod(n, 5)
            true = np.full((5, 3), np.nan)
            piece = x[b][5 * s : 5 * s + 5, j, :3]
            true[: len(piece)] = piece / size
            np.testing.assert_allclose(tokens.x["skeleton"][b, n].view(5, 3), true, atol=1e-5)
            assert tokens.valid[b, n] == np.isfinite(true).any()
            assert tokens.pos[0, n].tolist() == [j + 0.5, 5 * s + 2.5]
    back = part.tracks(tokens.x["skeleton"]) * size
    np.testing.assert_allclose(back[:, :, :24], np.stack(x).transpose(0, 2, 1, 3)[..., :3], atol=1e-5)


def test_joints_that_are_hardly_seen_can_be_left_out():
    x = sequences(channels=4)
    part = tokenizer(x, least=0.5)
    content = part.tracks(part(batch(x)).x["skeleton"])
    unsure = np.stack(x).transpose(0, 2, 1, 3)[..., 3] < 0.5
    assert content[torch.from_numpy(unsure)].isnan().all()
    assert torch.equal(content[..., 0].isnan(), content[..., 2].isnan())
    with pytest.raises(RecipeError, match="no confidence"):
        tokenizer(sequences(), least=0.5)
    with pytest.raises(RecipeError, match="at most 12"):
        tokenizer(sequences(), segment=13)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("normalise", [True, False])
def test_motion_is_the_step_to_a_later_frame(stride, normalise):
    x = sequences(4)
    recipe = find("mamp").but(target=dict(stride=stride, normalise=normalise))
    torch.manual_seed(0)
    model = recipe.build(schema_of(x), SMALL)
    step = model.hide(batch(x))
    goal = model.target(step, model)["segment"]
    track = model.tokenizer.scaled(step.sample["skeleton"]).numpy()  # B D J T
    for b in range(4):
        for m, n in enumerate(step.mask.ask[b].tolist()):
            if step.mask.ask_ok is not None and not step.mask.ask_ok[b, m]:
                continue
            j, s = divmod(n, 6)
            true = np.full((4, 3), np.nan)
            for f in range(4):
                t = 4 * s + f
                if t + stride < 24:
                    true[f] = track[b, :, j, t + stride] - track[b, :, j, t]
            true = true.ravel()
            known = true[np.isfinite(true)]
            if normalise and len(known) > 1:
                true = (true - known.mean()) / np.sqrt(known.var(ddof=1) + 1e-6)
            np.testing.assert_allclose(goal[b, m], true, atol=2e-4)


def test_content_of_true_motion_is_the_true_sequence():
    x = [one[~np.isnan(one).any((1, 2))][:16] for one in sequences(3)]
    for target in ({}, {"target.normalise": False}, {"target.stride": 2}):
        model = find("mamp").but(target).build(schema_of(x), SMALL)
        step = model.hide(batch(x))
        step = step._replace(pred={name: y.nan_to_num() for name, y in model.target(step, model).items()})
        truth = torch.gather(step.tokens.x["skeleton"], 1, step.mask.ask[..., None].expand(-1, -1, 12))
        made = model.target.content(step)
        assert (made - truth).abs().max() < 1e-3


def test_the_mask_prefers_what_moves():
    frames, joints = 64, 10
    x = np.zeros((2, frames, joints, 3), "f4") + np.arange(joints)[:, None] + 1
    x[:, :, 3] += np.linspace(0, 5, frames)[:, None]  # one joint moves
    x[1, 40:, 3] = np.nan
    model = find("mamp").but({"mask.ratio": 0.5, "mask.tau": 0.2}).build(schema_of(list(x)), SMALL)
    step = Step({}, model.tokenizer(batch(list(x))))
    part: MotionAware = model.mask
    far = part.intensity(step.tokens).view(2, joints, 16)
    assert (far[0, 3] > 0).all() and far[0].sum() == far[0, 3].sum() and (far[1, 3, 10:] == 0).all()
    hidden = torch.zeros(joints)
    for draw in range(200):
        key = keyed.keys(0, draw, torch.arange(2))
        mask = part(step._replace(sample={"key": key}), model)
        hidden += (~mask.visible[0]).view(joints, 16).float().mean(1) / 200
    assert hidden[3] > 0.95 and np.delete(hidden.numpy(), 3).max() < 0.55
    even = find("mamp").but({"mask.tau": None}).build(schema_of(list(x)), SMALL)
    shown = torch.stack([even.mask(step._replace(sample={"key": keyed.keys(0, n, torch.arange(2))}), even).visible[0]
                         for n in range(400)]).float().mean(0)  # fmt: skip
    assert abs(float(shown.mean()) - 0.1) < 0.01 and shown.view(joints, 16).mean(1)[3] == pytest.approx(0.1, abs=0.03)


def test_draws_follow_the_softmax():
    """The first of the hidden tokens is drawn with the probability that the softmax gives it."""
    model = find("mamp").build(example_schema("skeleton"), SMALL)
    step = Step({}, model.tokenizer(batch_of(model.schema, 1)))
    far = model.mask.intensity(step.tokens)[0].double()
    wanted = torch.softmax(far / (0.8 * far.max()), 0)
    keys = keyed.keys(0, 0, torch.arange(20_000))
    wide = step.tokens._replace(x={"skeleton": step.tokens.x["skeleton"].expand(len(keys), -1, -1)}, valid=None)
    first = model.mask.score(step._replace(tokens=wide, sample={"key": keys}), model).argmax(1)
    share = first.bincount(minlength=len(wanted)) / len(keys)
    assert (share - wanted).abs().max() < 5 * (wanted.max() / len(keys)).sqrt()


def test_spreads_are_of_what_is_there():
    x = torch.randn(5, 8)
    x[0, 3:], x[1] = torch.nan, torch.nan
    mean, spread = spreads(x)
    assert float(spread[0]) == pytest.approx(float((x[0, :3].var() + 1e-6).sqrt()), rel=1e-4)
    assert float(mean[4]) == pytest.approx(float(x[4].mean()), abs=1e-6) and spread.isfinite().all()


def test_turning_keeps_bones_and_cropping_keeps_the_length():
    x = sequences(1, 40)[0].transpose(2, 1, 0)
    rng = np.random.default_rng(0)
    out = CropTurn(shortest=1.0, angle=0.5)(x, rng, x.shape)
    length = lambda v: np.linalg.norm(v[:, :, None] - v[:, None], axis=0)
    np.testing.assert_allclose(length(out), length(x), atol=1e-4)
    assert np.nanmax(np.abs(out - x)) > 0.1
    flat = CropTurn(shortest=1.0, angle=0.5)(x[:2], rng, x.shape)
    np.testing.assert_allclose(length(flat), length(x[:2]), atol=1e-4)
    t = np.tile(np.arange(40, dtype="f4"), (3, 5, 1))
    cut = CropTurn(shortest=0.5, angle=0.0)(t, np.random.default_rng(3), t.shape)
    assert cut.shape == t.shape and 19 <= cut[0, 0, -1] - cut[0, 0, 0] < 39
    np.testing.assert_allclose(np.diff(cut[0, 0]), (cut[0, 0, -1] - cut[0, 0, 0]) / 39, rtol=1e-3)


@pytest.mark.parametrize(
    "change",
    [dict(target=P(find("mamp").target.part, normalise=False)), {"tokenizer.centre": False, "tokenizer.scale": False}],
)
def test_variants_pass_the_contract(change):
    changed = find("mamp").but(change) if "target" not in change else find("mamp").but(**change)
    check_recipe(changed, items=("no leak", "reach", "padding", "gradients"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    x, y = sequences(12), [0, 1] * 6
    data = open_source((x, y), kind="skeleton")
    return run(tmp_path_factory.mktemp("skeleton") / "run", data, recipe="mamp", steps=4, batch_size=4), data


def test_a_run_embeds_and_evaluates_sequences_of_any_length(trained):
    made, data = trained
    whole = embed(made, data)
    assert np.isfinite(whole).all()
    short = open_source([one[: 10 + n] for n, one in enumerate(sequences(12))], kind="skeleton")
    alone = open_source([one[: 10 + n] for n, one in enumerate(sequences(12))][3:5], kind="skeleton")
    np.testing.assert_allclose(embed(made, short)[3:5], embed(made, alone), atol=1e-4)  # whoever is beside it
    table = evaluate(made, data, task="reconstruct", ratios=[0.5], draws=2)
    assert any("borrows its first 1 frame" in note for note in table.notes)
    assert {row[0] for row in table.rows} >= {"mean of the place", "pre-trained model"}


def test_figures_show_what_is_hidden_and_predicted(trained, tmp_path):
    made, data = trained
    model = made.model()
    step = model.hide(batch(sequences(12)[:3]))
    content = step.tokens.x["skeleton"]
    seen = step.mask.visible
    renderer = renderer_of(model)
    first, second, third, last = renderer.draw([
        Panel("original", content), Panel("visible", content, seen),
        Panel("rebuilt", content, torch.ones_like(seen), predicted=~seen), Panel("norm", content, values=seen.float()),
    ])  # fmt: skip
    assert "hidden" in second.alt and "predicted" in third.alt and "hidden" not in first.alt
    count = lambda drawing, colour: drawing.svg.count(f'fill="var(--{colour})"/>')
    assert count(first, "line") == count(first, "c2") == 0 < count(second, "line") and count(third, "c2") > 0
    assert count(first, "c1") == count(second, "c1") + count(second, "line") == count(third, "c1") + count(third, "c2")
    assert "fill-opacity" in last.svg and "nan" not in "".join(d.svg for d in (first, second, third, last))
    page = report(made, data, out=tmp_path / "report.html").read_text()
    assert "stroke-linecap" in page and "sequences" in page
