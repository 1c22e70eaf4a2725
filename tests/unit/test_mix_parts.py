"""Parts of several fields: tokens, masks, targets, decoders, depth and class maps."""

import pytest
import torch
import torch.nn.functional as F

from anymask import keyed
from anymask.contract import ITEMS, SMALL, subject_of
from anymask.contract.data import batch_of, example_schema, mixed_schema
from anymask.data.kind import all_kinds
from anymask.engine import Step, Tokens
from anymask.parts.losses import class_maps, l1, observed_l1
from anymask.parts.mixed import ByField, Dirichlet
from anymask.parts.several import own, view_of
from anymask.recipe import P, RecipeError, find

MIXES = [("image", "text"), ("table", "series", "text"), ("image", "points", "table")]
multimae, m3ae = find("multimae"), find("m3ae")


def model_of(*kinds, recipe=multimae, **changes):
    torch.manual_seed(0)
    return recipe.but(**changes).build(mixed_schema(*kinds), SMALL)


def a_step(count=512, sizes=(30, 20), valid=None):
    """Tokens of two fields, without content."""
    b, n = count, sum(sizes)
    x = {name: torch.zeros(b, size, 1) for name, size in zip("ab", sizes)}
    kind = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    sample = {"key": keyed.keys(0, 0, torch.arange(b))}
    return Step(sample, Tokens(x, torch.zeros(1, n, 1), valid, kind), aux={})


class Stub:
    """What a mask asks of a model."""

    def __init__(self, **kinds):
        self.corruption = type("Corruption", (), {"keep": 0.0})
        self.tokenizer = type("Tokenizer", (), {"fields": list(kinds), "grid": None})
        fields = {name: type("Field", (), {"kind": kind}) for name, kind in kinds.items()}
        self.schema = type("Schema", (), {"fields": fields})


def test_dirichlet_shares():
    step, model = a_step(2048, (40, 40)), Stub(a="image", b="depth")
    spread = {}
    for alpha in (1, 50):
        mask = Dirichlet(model, ratio=0.75, alpha=alpha)(step, model)
        assert (mask.visible.sum(1) == 20).all()  # one number for both
        share = mask.visible[:, :40].sum(1) / 20
        assert share.mean() == pytest.approx(0.5, abs=0.02)
        spread[alpha] = share.std().item()
        assert mask.visible.float().mean(0) == pytest.approx(torch.full((80,), 0.25), abs=0.06)  # even within a field
    assert spread[1] == pytest.approx(12**-0.5, abs=0.02)  # uniform on 0..1: Dirichlet(1) of two
    assert spread[50] < 0.08
    with pytest.raises(RecipeError, match="whole number"):
        Dirichlet(model, alpha=0)


def test_a_missing_field_has_no_share():
    valid = torch.ones(64, 50, dtype=torch.bool)
    valid[::2, :30] = False
    model = Stub(a="image", b="text")
    for mask in (Dirichlet(model, ratio=0.75), ByField(model, ratios={"image": 0.75, "text": 0.5})):
        found = mask(a_step(64, valid=valid), model)
        assert not (found.visible & ~valid).any() and (found.visible.sum(1) > 0).all()
        asked = torch.zeros_like(valid).scatter(1, found.ask, found.ask_ok)
        assert torch.equal(asked, valid & ~found.visible)


def test_shares_by_field():
    model = Stub(a="image", b="text")
    mask = ByField(model, ratios={"image": 0.8, "b": 0.15})(a_step(4096, (30, 5)), model)
    assert (mask.visible[:, :30].sum(1) == 6).all()
    shown = mask.visible[:, 30:].sum(1)
    assert set(shown.tolist()) == {4, 5} and shown.float().mean() == pytest.approx(4.25, abs=0.03)
    with pytest.raises(RecipeError, match="'txt'"):
        ByField(model, ratios={"txt": 0.5})
    with pytest.raises(RecipeError, match="above 0 and below 1"):
        ByField(model, ratios={"text": 1.0})


def test_tokens_are_those_of_each_field():
    model = model_of("image", "depth", "text")
    batch = batch_of(model.schema)
    tokens = model.tokenizer(batch)
    assert tokens.kind.tolist() == [n for n, x in enumerate(tokens.x.values()) for _ in range(x.shape[1])]
    for name, recipe in model.tokenizer.recipes.items():
        alone = recipe.tokenizer.but(field=name)(view_of(model, name))(model.tokenizer.given(batch, name))
        part = model.tokenizer.part(tokens, name)
        assert torch.equal(part.x[name].nan_to_num(7), alone.x[name].nan_to_num(7))
        torch.testing.assert_close(part.pos, alone.pos)
        there = batch[f"{name}.present"][:, None]
        real = there if alone.valid is None else there & alone.valid
        assert torch.equal(part.valid, real.expand_as(part.valid))


def test_goals_and_losses_are_those_of_each_field():
    model = model_of("image", "depth", "text", target=dict(losses={"image": l1}, weights={"text": 0.5}))
    step = model(batch_of(model.schema))
    assert model.losses["image"] is l1 and model.losses["depth"] is observed_l1
    assert [head.weight for head in model.target.heads.values()] == [1.0, 1.0, 0.5]
    total = 0.0
    for n, name in enumerate(model.tokenizer.fields):
        asked = torch.nonzero(step.mask.ask_ok & (step.tokens.kind[step.mask.ask] == n))
        before = sum(x.shape[1] for x in list(step.tokens.x.values())[:n])
        alone = own(model.schema, name).target(view_of(model, name))
        goals = next(iter(alone(model.tokenizer.step(step, name), view_of(model, name)).values()))
        rows = [(b, m, int(step.mask.ask[b, m]) - before) for b, m in asked.tolist()]
        for b, m, place in rows:
            assert torch.equal(step.goal[name][b, m].nan_to_num(9), goals[b, place].nan_to_num(9))
        total += model.target.heads[name].weight * torch.stack([step.error[name][b, m] for b, m, _ in rows]).mean()
    torch.testing.assert_close(step.loss, total)


def test_a_part_that_is_missing_says_nothing():
    model = model_of("image", "depth").eval()
    batch = batch_of(model.schema)
    gone = ~batch["depth.present"]
    assert gone.any()
    other = {**batch, "depth": torch.where(gone[:, None, None, None], 1234.0, batch["depth"])}
    a, b = model.embed(batch), model.embed(other)
    torch.testing.assert_close(a.mean(), b.mean())
    assert not a.ok[gone][:, -1].any()


def test_depth_is_scored_at_known_pixels():
    model = model_of("depth", "image")
    batch = batch_of(model.schema)
    batch["depth"][1, :, :8, :8] = torch.nan
    tokens = model.tokenizer(batch)
    assert not tokens.valid[1, 0]  # four by four pixels, none of them known
    field = model.schema.fields["depth"]
    step = model(batch)
    pred = torch.randn_like(step.goal["depth"])
    known = ~step.goal["depth"].isnan()
    by_hand = torch.where(known, (pred - step.goal["depth"]).abs(), 0).sum(-1) / known.sum(-1).clamp(min=1)
    torch.testing.assert_close(observed_l1(pred, step.goal["depth"]), by_hand)
    raw = model.tokenizer.of("depth").raw(model.tokenizer.of("depth").whole(tokens.x["depth"], (6, 8)))
    torch.testing.assert_close(raw, batch["depth"], equal_nan=True, rtol=1e-4, atol=0.5)
    assert field.mean[0] == pytest.approx(batch_of(model.schema, 64)["depth"].nanmean().item(), rel=0.1)


def test_class_maps():
    model = model_of("classmap", "image")
    batch = batch_of(model.schema)
    tokens, part = model.tokenizer(batch), model.tokenizer.of("classmap")
    numbers = part.numbers(tokens.x["classmap"], (6, 8))
    want = torch.where(batch["classmap"] == 255, -1, batch["classmap"].int())
    assert torch.equal(numbers[batch["classmap.present"]].int(), want[batch["classmap.present"]])
    pred, goal = torch.randn(2, 3, 4 * 5), torch.randint(-1, 5, (2, 3, 4))
    ours = class_maps(pred, goal)
    for q in range(2):
        for m in range(3):
            theirs = F.cross_entropy(pred[q, m].view(4, 5), goal[q, m], ignore_index=-1)
            torch.testing.assert_close(ours[q, m], theirs.nan_to_num(0))


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
@pytest.mark.parametrize("item", ["no leak", "reach", "padding", "order", "gradients", "fits"])
def test_any_kinds_can_be_mixed(kinds, item):
    ITEMS[item](subject_of(multimae, schema=mixed_schema(*kinds)))


def test_one_part_is_enough():
    for item in ("no leak", "reach", "padding", "gradients"):
        ITEMS[item](subject_of(multimae, schema=example_schema("image")))


def test_what_cannot_be_mixed_says_so():
    with pytest.raises(RecipeError, match=r"a graph .* cannot be one of several parts"):
        model_of("image", "graph")
    with pytest.raises(RecipeError, match="needs parts of kind image and text, and the data have image"):
        model_of("image", "depth", recipe=m3ae)


def test_every_kind_is_told():
    """A new kind is a part of mixes by itself, or says that it is none."""
    for name in all_kinds():
        try:
            model = model_of("table", name) if name != "table" else model_of("table")
        except RecipeError as error:
            assert "cannot be one of several parts" in str(error)
            continue
        loss = model(batch_of(model.schema)).loss
        assert torch.isfinite(loss), name


def test_the_mask_of_the_comparator():
    model = model_of("image", "depth", "classmap", mask=P(find("mae").mask.part, ratio=5 / 6))
    step = model(batch_of(model.schema))
    assert torch.isfinite(step.loss)
