"""`split`, `take`, `scatter`, keyed randomness, and what masks promise."""

import math

import pytest
import torch

from anymask import keyed
from anymask.contract.data import SMALL, batch_of, picture_schema
from anymask.engine import (
    Head,
    Mask,
    Model,
    Step,
    Tokens,
    everything,
    per_row,
    per_scored,
    per_valid,
    scatter,
    split,
    take,
)
from anymask.engine import scored as scored_tokens
from anymask.parts.masks import Block
from anymask.recipe import P, RecipeError, find


def ragged(rows=6, n=23, seed=0):
    """Scores, and rows of several lengths with holes in them; one row has nothing."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(rows, n, generator=generator)
    valid = torch.rand(rows, n, generator=generator) < torch.linspace(0.3, 1.0, rows)[:, None]
    valid[0] = False
    return score, valid


def entries(index, ok, row):
    """The real entries of a row of an index, in order."""
    return (index[row] if ok is None else index[row][ok[row]]).tolist()


def expected(score, valid, visible, keep, ask):
    """What `split` says, row by row and by sorting: visible, kept and asked tokens."""
    real = valid.nonzero().flatten().tolist()
    order = sorted(real, key=lambda i: score[i].item())
    share = lambda count, of: int(count * of + 1e-4) if isinstance(count, float) else min(count, of)
    seen = share(visible, len(order))
    kept = order[: seen + share(keep, len(order) - seen)]
    asked = order[len(order) - share(ask, len(order) - seen) :]
    return set(order[:seen]), kept, asked


@pytest.mark.parametrize("visible", [0.25, 0.5, 3, 0, 0.999])
@pytest.mark.parametrize(("keep", "ask"), [(0.0, 1.0), (0.5, 1.0), (2, 0.5), (0.0, 1 / 3), (0.0, 4)])
@pytest.mark.parametrize("whole", [True, False])
def test_split_does_what_sorting_does(visible, keep, ask, whole):
    score, valid = ragged()
    mask = split(score, visible, keep=keep, ask=ask, valid=None if whole else valid)
    for row in range(len(score)):
        real = torch.ones_like(valid[row]) if whole else valid[row]
        seen, kept, asked = expected(score[row], real, visible, keep, ask)
        assert set(mask.visible[row].nonzero().flatten().tolist()) == seen
        assert entries(mask.keep, mask.keep_ok, row) == kept
        assert entries(mask.ask, mask.ask_ok, row) == asked
        for index in (mask.keep, mask.ask):  # fillers included
            assert len(set(index[row].tolist())) == index.shape[1]


def test_split_of_equal_lengths_needs_no_ok():
    mask = split(torch.rand(4, 16), 0.25)
    assert mask.keep.shape == (4, 4) and mask.ask.shape == (4, 12)
    assert mask.keep_ok is None and mask.ask_ok is None
    assert torch.equal(torch.cat([mask.keep, mask.ask], 1).sort(1).values, torch.arange(16).expand(4, -1))
    assert mask.keep.is_contiguous() and mask.ask.is_contiguous()


def test_split_keeps_all_and_asks_all():
    score, valid = ragged()
    mask = split(score, 0.5, keep=1.0, ask=None, valid=valid)
    assert mask.keep is None and mask.ask is None
    assert torch.equal(mask.keep_ok, valid) and torch.equal(mask.ask_ok, valid)
    plain = split(score, 0.5, keep=1.0, ask=None)
    assert plain.keep_ok is None and plain.ask_ok is None


@pytest.mark.parametrize("dtype", [torch.float, torch.long])
@pytest.mark.parametrize("whole", [True, False])
def test_split_with_a_count_for_each_row(dtype, whole):
    score, valid = ragged()
    visible = (
        torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 0.9]) if dtype == torch.float else torch.tensor([0, 1, 2, 3, 5, 40])
    )
    mask = split(score, visible, valid=None if whole else valid)
    for row in range(len(score)):
        real = torch.ones_like(valid[row]) if whole else valid[row]
        seen, kept, asked = expected(score[row], real, visible[row].item(), 0.0, 1.0)
        assert set(mask.visible[row].nonzero().flatten().tolist()) == seen
        assert entries(mask.keep, mask.keep_ok, row) == kept
        assert entries(mask.ask, mask.ask_ok, row) == asked
    assert mask.keep.shape[1] % 8 == 0 or mask.keep.shape[1] == score.shape[1]


def test_a_number_of_visible_tokens_never_reaches_padding():
    score, valid = ragged()
    mask = split(score, 20, valid=valid)
    assert not (mask.visible & ~valid).any()
    assert torch.equal(mask.visible.sum(1), valid.sum(1).clamp(max=20))


def test_split_passes_no_gradient_and_takes_further_fields():
    mask = split(torch.rand(2, 8, requires_grad=True), 0.5, weight=torch.ones(2, 1))
    assert mask.weight is not None and not mask.visible.requires_grad


def test_take():
    x = torch.randn(3, 7, 2)
    index = torch.tensor([[0, 6], [2, 2], [5, 1]])
    assert torch.equal(take(x, index), x.gather(1, index[..., None].expand(-1, -1, 2)))
    of = torch.tensor([2, 0, 0, 1])
    assert torch.equal(take(x, None, of), x[of])
    assert torch.equal(
        take(x, index[[0, 1, 2, 0]], of), torch.stack([x[b][i] for b, i in zip(of, index[[0, 1, 2, 0]])])
    )
    each = torch.tensor([[0, 2], [1, 1], [2, 0]])
    assert torch.equal(take(x, index, each), torch.stack([x[b, i] for b, i in zip(each, index)]))
    rows = torch.randint(0, 3, (2, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(take(x, None, rows), torch.stack([x[b, torch.arange(7)] for b in rows]))
    assert take(x) is x
    assert torch.equal(take(x[:1], index), torch.stack([x[0][i] for i in index]))  # shared by all samples
    assert torch.equal(take(x[:1, :, 0], index), x[0, :, 0][index])
    assert torch.equal(take(x[:1], None, of), x[:1])


@pytest.mark.parametrize("keep", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("whole", [True, False])
def test_scatter_undoes_take(keep, whole):
    score, valid = ragged()
    mask = split(score, 0.3, keep=keep, valid=None if whole else valid)
    x = torch.randn(*score.shape, 4)
    back = scatter(take(x, mask.keep), mask, torch.full((4,), -7.0))
    for row in range(len(score)):
        if mask.keep is None:
            kept = range(score.shape[1]) if mask.keep_ok is None else valid[row].nonzero().flatten().tolist()
        else:
            kept = entries(mask.keep, mask.keep_ok, row)
        for n in range(score.shape[1]):
            assert torch.equal(back[row, n], x[row, n] if n in kept else torch.full((4,), -7.0))


def test_scatter_takes_a_fill_for_each_place():
    mask = split(torch.rand(2, 6), 0.5)
    fill = torch.randn(1, 6, 3)
    back = scatter(take(torch.zeros(2, 6, 3), mask.keep), mask, fill)
    assert torch.equal(back[~mask.visible], fill.expand(2, -1, -1)[~mask.visible])


def test_everything_hides_nothing():
    valid = torch.tensor([[True, False], [True, True]])
    tokens = Tokens({"a": torch.zeros(2, 2, 1)}, torch.zeros(1, 2, 1), valid)
    mask = everything(tokens)
    assert torch.equal(mask.visible, valid) and mask.ask.shape == (2, 0)


def test_scored_by_kind_and_denominators():
    tokens = Tokens({"a": torch.zeros(2, 4, 1)}, torch.zeros(1, 4, 1), kind=torch.tensor([0, 0, 1, 1]))
    mask = Mask(
        torch.ones(2, 4, dtype=torch.bool),
        ask=torch.tensor([[0, 3], [2, 3]]),
        ask_ok=torch.tensor([[1, 1], [1, 0]]).bool(),
    )
    step = Step({}, tokens, mask, error={"h": torch.zeros(2, 2)})
    assert scored_tokens(step, Head(1)).tolist() == [[True, True], [True, False]]
    ok = scored_tokens(step, Head(1, kinds=(1,)))
    assert ok.tolist() == [[False, True], [True, False]]
    assert per_scored(ok.float(), step) == 2 and per_row(ok.float(), step) == 2 and per_valid(ok.float(), step) == 8
    with pytest.raises(ValueError, match="the tokens have no kind"):
        scored_tokens(step._replace(tokens=tokens._replace(kind=None)), Head(1, kinds=(1,)))


def test_nothing_scored_is_no_division_by_zero():
    model = find("mae").build(picture_schema(), SMALL)
    step = model.hide(batch_of(model.schema))
    step = step._replace(mask=step.mask._replace(ask_ok=torch.zeros_like(step.mask.ask, dtype=torch.bool)))
    assert model.learn(step).loss == 0


def test_a_weight_multiplies_the_error():
    model = find("mae").build(picture_schema(), SMALL)
    step = model.hide(batch_of(model.schema))
    plain = model.learn(step).loss
    heavy = model.learn(step._replace(mask=step.mask._replace(weight=torch.full((4, 1), 3.0)), aux={})).loss
    assert torch.isclose(heavy, 3 * plain)


def test_embed_leaves_the_mode_and_is_deterministic():
    model: Model = find("mae").but({"encoder.drop_path": 0.5}).build(picture_schema(), SMALL).train()
    batch = batch_of(model.schema)
    one, two = model.embed(batch), model.embed(batch)
    assert model.training and torch.equal(one.x, two.x) and not one.x.requires_grad
    assert one.mean().shape == (4, 32) and torch.equal(one.cls(), one.prefix[:, 0])
    with pytest.raises(ValueError, match="no CLS token; pool with 'mean'"):
        one._replace(prefix=None).cls()


# Randomness is a function of (seed, step, sample index).


def test_keys_do_not_depend_on_the_batch():
    index = torch.tensor([5, 0, 9, 123456])
    whole = keyed.uniform(keyed.keys(1, 7, index), 50)
    alone = torch.cat([keyed.uniform(keyed.keys(1, 7, i[None]), 50) for i in index])
    assert torch.equal(whole, alone)
    assert torch.equal(whole.flip(0), keyed.uniform(keyed.keys(1, 7, index.flip(0)), 50))
    assert torch.equal(keyed.normal(keyed.keys(1, 7, index), 9)[2:], keyed.normal(keyed.keys(1, 7, index[2:]), 9))


def test_keys_differ_by_seed_step_index_and_salt():
    index = torch.arange(200)
    found = torch.cat([keyed.keys(seed, step, index) for seed in range(5) for step in range(5)])
    assert len(found.unique()) == 5000
    key = keyed.keys(0, 0, index)
    assert not torch.equal(keyed.uniform(key, 4), keyed.uniform(key, 4, salt=1))


def test_uniform_is_uniform_and_normal_is_normal():
    key = keyed.keys(3, 0, torch.arange(500))
    u, z = keyed.uniform(key, 200), keyed.normal(key, 200)
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, bins=20, min=0, max=1)
    assert (counts / 5000 - 1).abs().max() < 0.06
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02 and torch.isfinite(z).all()
    assert torch.corrcoef(u.T[:2])[0, 1].abs() < 0.15 and torch.corrcoef(u[:2])[0, 1].abs() < 0.25


def test_equal_names_get_equal_numbers():
    key = keyed.keys(0, 0, torch.arange(3))
    u = keyed.uniform(key, torch.tensor([4, 7, 4, 7]))
    assert torch.equal(u[:, :2], u[:, 2:]) and not torch.equal(u[:, 0], u[:, 1])
    assert torch.equal(keyed.uniform(key, 9)[:, 4], u[:, 0])


def test_generator_for_workers():
    draws = [keyed.generator(1, 2, i).random(4).tolist() for i in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


# Masks.


def hidden(recipe, shape=(3, 32, 32), count=16):
    model = recipe.build(picture_schema(shape), SMALL)
    step = model.hide(batch_of(model.schema, count=count))
    return step, ~step.mask.visible.unflatten(1, step.tokens.grid)


@pytest.mark.parametrize("ratio", [0.25, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 24, 40)])
@pytest.mark.parametrize("part", ["Random", "Block"])
def test_exact_counts(ratio, shape, part):
    step, mask = hidden(find("mae").but({"mask": part}).but({"mask.ratio": ratio}), shape)
    n = math.prod(step.tokens.grid)
    assert (mask.sum((1, 2)) == n - int((1 - ratio) * n + 1e-4)).all()
    assert len({tuple(m.flatten().tolist()) for m in mask}) > 1  # another one for each sample


def test_units_are_whole():
    _, mask = hidden(find("simmim"))
    unit = mask.unflatten(2, (4, 2)).unflatten(1, (4, 2))  # B 4 2 4 2
    assert torch.equal(unit.any(4).any(2), unit.all(4).all(2))
    assert (mask.sum((1, 2)) == 64 - int(16 * 0.4 + 1e-4) * 4).all()


def test_blocks_are_compact():
    """Hidden tokens of a block mask have far more hidden neighbours than those of a random one."""

    def neighbours(mask):
        pairs = (mask[:, 1:] & mask[:, :-1]).sum() + (mask[:, :, 1:] & mask[:, :, :-1]).sum()
        return (pairs / mask.sum()).item()

    random = hidden(find("mae").but({"mask.ratio": 0.4}), count=64)[1]
    block = hidden(find("maskfeat"), count=64)[1]
    assert neighbours(block) > 1.5 * neighbours(random)


def test_one_block_is_a_rectangle():
    """With one rectangle that is as large as the share, what is hidden is that rectangle."""
    model = (
        find("maskfeat")
        .but(mask=P(Block, ratio=0.25, smallest=0.25, aspect=1.0))
        .build(picture_schema((3, 32, 32)), SMALL)
    )
    step = model.hide(batch_of(model.schema, count=16))
    for mask in ~step.mask.visible.unflatten(1, (8, 8)):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (len(rows), len(columns)) == (4, 4)


def test_asking_for_a_share():
    step, _ = hidden(find("crossmae"))
    assert step.mask.ask.shape == (16, 16) and not step.mask.visible.gather(1, step.mask.ask).any()


def test_masks_say_what_is_wrong():
    schema = picture_schema()
    for change, message in (
        ({"mask.ratio": 1.5}, "the hidden share, above 0 and below 1, not 1.5"),
        ({"mask.unit": 0}, "mask.unit counts tokens, at least 1"),
        ({"mask.unit": 8}, r"mask units of 8 tokens hide a whole grid .*mask.unit=2"),
        ({"mask.ask": 0.0}, "mask.ask is a share"),
    ):
        with pytest.raises(RecipeError, match=message):
            find("mae").but(change).build(schema, SMALL)
