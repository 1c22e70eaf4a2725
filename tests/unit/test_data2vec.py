"""data2vec 2.0: targets against a plain reference, one teacher pass for many masks, squares that stay visible."""

import pytest
import torch
import torch.nn.functional as F

from anymask import keyed
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.engine import Tokens
from anymask.recipe import RecipeError, find


def built(**changes):
    torch.manual_seed(0)
    return (
        find("data2vec-2")
        .but({k.replace("__", "."): v for k, v in changes.items()})
        .build(example_schema("image"), SMALL)
    )


def stepped(model, count=6):
    step = model.hide(batch_of(example_schema("image"), count))
    return model.predict(step)


def test_targets_are_those_of_a_plain_reference():
    model = built(target__top=2, mask__masks=3)
    with torch.no_grad():
        for value in model.target.encoder.parameters():
            value.add_(0.1 * torch.randn_like(value))  # a teacher that is not its student
    step = stepped(model)
    goal = model.target(step, model)["codes"]
    teacher, outputs = model.target.encoder, []
    x = model.target.stem.embed["image"](step.tokens.x["image"]) + model.target.stem.positions(step.tokens)
    x = torch.cat([teacher.prefix.expand(len(x), -1, -1), x], 1)
    for block in teacher.blocks:
        x = block(x)
        outputs.append(x)
    outputs[-1] = teacher.norm(outputs[-1])
    # Instance norm over the tokens of each channel, mean over the blocks, layer norm of each token.
    last = [F.instance_norm(y[:, 1:].transpose(1, 2)).transpose(1, 2) for y in outputs[-2:]]
    codes = F.layer_norm(torch.stack(last).mean(0), x.shape[-1:])
    want = torch.stack([codes[of, ask] for of, ask in zip(step.mask.ask_of, step.mask.ask)])
    torch.testing.assert_close(goal, want, atol=1e-5, rtol=1e-5)
    sample = step.mask.keep_of
    cls = 0.01 * (step.latent.prefix[:, 0] - codes.mean(1)[sample]).square().mean()
    torch.testing.assert_close(step.aux["cls"], cls)


def test_one_teacher_pass_serves_all_masks():
    model, rows = built(mask__masks=5), []
    model.target.encoder.register_forward_hook(lambda part, given, latent: rows.append(len(latent.x)))
    step = model.learn(model.hide(batch_of(example_schema("image"), 6)))
    assert rows == [6] and len(step.latent.x) == 30 and step.loss.isfinite()


def test_a_shorter_training_forgets_the_same_part_of_itself():
    """3 steps in place of 300: each keeps what 100 of them would."""
    model = built(target__decay=0.99, target__final=0.99, target__over=300)
    before = {n: p.clone() for n, p in model.target.encoder.named_parameters()}
    with torch.no_grad():
        for value in model.encoder.parameters():
            value.add_(1.0)
    for n in (1, 2, 3):
        model.target.after_step(model, n / 3)
    for name, value in model.target.encoder.named_parameters():
        torch.testing.assert_close(value, before[name] + 1 - 0.99**300, atol=1e-5, rtol=1e-5)
    assert "target.before" in model.state_dict()  # so that a resumed run goes on alike


def masks_of(model, grid, samples=8):
    key = keyed.keys(0, 0, torch.arange(samples))
    n = grid[0] * grid[1]
    return key, model.mask.drawn(key, Tokens({"image": torch.zeros(samples, n, 1)}, torch.zeros(1, n, 2), grid=grid))


def test_squares_stay_visible_and_every_mask_shows_as_many():
    model = built(mask__masks=3)
    step = stepped(model)
    shown = step.mask.visible.sum(1)
    assert (shown == int(0.2 * step.tokens.shape[1] + 1e-4)).all() and len(shown) == 18
    first, second = step.mask.visible[0], step.mask.visible[1]
    assert not torch.equal(first, second)
    grid = (12, 12)
    _, score = masks_of(model, grid)
    inside = (score < 1).unflatten(1, grid)
    share = inside.float().mean().item()
    assert 0.15 < share < 0.27
    right = (inside[:, :, 1:] & inside[:, :, :-1]).sum() / inside[:, :, :-1].sum()
    assert right > 2 * share  # tokens beside a visible one are visible more often than chance


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(RecipeError, match=r"mask\.masks and mask\.side"):
        built(mask__masks=0)
    with pytest.raises(RecipeError, match=r"target\.by is"):
        built(target__by="row")
    with pytest.raises(RecipeError, match=r"decoder\.kernel"):
        built(decoder__kernel=4)
    with pytest.raises(RecipeError, match=r"target\.over"):
        built(target__over=0)


def test_convolutions_see_neighbours_only():
    """Two convolutions of three tokens reach two tokens far."""
    model = built(decoder__depth=2, decoder__noise=0.0, mask__masks=1)
    step = stepped(model, 2)
    grid = step.tokens.grid
    codes = torch.zeros(2, step.latent.x.shape[1], step.latent.x.shape[2], requires_grad=True)
    pred = model.decoder(step._replace(latent=step.latent._replace(x=codes)), model)["codes"]
    asked, kept = step.mask.ask[0], step.mask.keep[0]
    (gradient,) = torch.autograd.grad(pred[0, 0].sum(), codes)
    row, column = asked[0] // grid[1], asked[0] % grid[1]
    far = torch.maximum((kept // grid[1] - row).abs(), (kept % grid[1] - column).abs()) > 2
    assert (gradient[0][far] == 0).all() and (gradient[1] == 0).all() and far.any()
