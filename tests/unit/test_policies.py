"""A network that draws the mask: what it draws, and that it learns where errors are."""

import pytest
import torch

from anymask import keyed
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.engine import Tokens
from anymask.parts.masks import Random
from anymask.parts.policies import Policy, Rewarded
from anymask.recipe import P, RecipeError, find


def built(schema="image", parent="mae", **stages):
    torch.manual_seed(0)
    stages = {"mask": P(Policy, ratio=0.75), "extras": (P(Rewarded, weight=1.0),)} | stages
    return find(parent).but(**stages).build(example_schema(schema), SMALL)


def test_it_begins_with_equal_chances_and_shows_the_share_it_should():
    model = built()
    step = model.hide(batch_of(example_schema("image"), 5))
    n = step.tokens.shape[1]
    torch.testing.assert_close(step.mask.logp.exp(), torch.full((5, n), 1 / n))
    assert (step.mask.visible.sum(1) == n // 4).all() and step.mask.ask.shape[1] == n - n // 4


def test_draws_follow_the_chances():
    model = built()
    n = 4
    chance = torch.tensor([0.5, 0.25, 0.15, 0.1])
    tokens = Tokens({"image": torch.zeros(4000, n, 1)}, torch.zeros(1, n, 2))
    step = model.hide(batch_of(example_schema("image"), 2))
    model.mask.logp = lambda tokens, model: chance.log().expand(tokens.shape[0], -1)
    step = step._replace(tokens=tokens, sample={"key": keyed.keys(0, 0, torch.arange(4000))})
    shown = model.mask(step, model).visible.float()
    assert (shown.sum(1) == 1).all()
    torch.testing.assert_close(shown.mean(0), chance, atol=0.03, rtol=0)


def test_the_loss_by_hand():
    model = built()
    step = model.learn(model.hide(batch_of(example_schema("image"), 3)))
    logp = model.mask.logp(step.tokens, model)
    total = sum(
        (logp[b, n] * step.error["pixels"][b, m]).item()
        for b in range(3)
        for m, n in enumerate(step.mask.ask[b].tolist())
    )
    assert step.aux["policy"].item() == pytest.approx(-total / step.mask.ask.numel(), rel=1e-4)


def test_what_is_not_valid_is_never_drawn():
    schema = example_schema("image")
    model = built()
    batch = batch_of(schema, 4)
    height, width = batch["image"].shape[2:]
    batch["extent"] = torch.tensor([[height, width], [height, width // 2]] * 2)
    step = model.hide(batch)
    assert not (step.mask.visible & ~step.tokens.valid).any()
    assert (step.mask.logp.exp()[~step.tokens.valid] == 0).all()
    assert model.learn(step).loss.isfinite()


def test_it_learns_to_look_where_reconstruction_fails():
    """Three tokens hold noise that nothing predicts, the others hold a constant."""
    model = built(extras=(P(Rewarded, weight=1.0),), target={"normalise": False})
    n = model.tokenizer(batch_of(example_schema("image"), 1)).shape[1]
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(n)
    for i in range(80):
        batch = batch_of(example_schema("image"), 16, i)
        step = model.hide(batch)
        x = torch.randn(step.tokens.x["image"].shape, generator=generator) * (place < 3)[:, None].float()
        step = step._replace(tokens=step.tokens._replace(x={"image": x}))
        step = model.learn(step._replace(mask=model.mask(step, model)))
        optimiser.zero_grad()
        step.loss.backward()
        optimiser.step()
    chance = model.mask.logp(step.tokens, model).exp().mean(0)
    assert chance[:3].mean() > 3 * chance[3:].mean()


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="use mask=P"):
        built(mask=P(Random, ratio=0.75))
    with pytest.raises(RecipeError, match="above 0 and below 1"):
        built(mask=P(Policy, ratio=1.0))
    with pytest.raises(RecipeError, match="above 0, not"):
        built(extras=(P(Rewarded, weight=0.0),))
