"""Padding and the order of tokens change nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anymask.contract.subject import ContractError, Subject, asked_rows, edited, predictions, seeded
from anymask.data.kind import kind_of
from anymask.engine import Latent, Mask, Model, Sample, Step, Tokens, everything
from anymask.parts.several import tokenizer_of

PADDING, ORDER = "padding", "order"


def padding(subject: Subject) -> list[str]:
    """Padded tokens change no embedding and no prediction, and are neither kept nor asked for; losses stay finite."""
    model = subject.build()
    tokens = model.tokenizer(subject.batch)
    _embedding_ignores_padding(model, subject.batch, tokens)
    if hasattr(model.tokenizer, "views"):
        return ["views are made without padding: checked on whole samples"]
    _step_ignores_padding(model, subject.batch, tokens)
    return _extent(model, subject)


def order(subject: Subject) -> list[str]:
    """Tokens in another order, their positions and kinds with them, have the same codes."""
    model = subject.build()
    bound = subject.declared(model, "needs_grid")
    if bound:
        return [f"needs tokens in grid order, not permuted: {reason}" for reason in bound]
    tokens = model.tokenizer(subject.batch)
    generator = torch.Generator().manual_seed(4)
    orders = [torch.randperm(x.shape[1], generator=generator) for x in tokens.x.values()]
    moved = picked(tokens, orders, grid=None)
    before, after = codes(model, subject.batch, tokens), codes(model, subject.batch, moved)
    gap = _gap(before.x[:, _flat(tokens, orders)], after.x)
    if gap:
        raise ContractError(
            ORDER,
            f"the codes of permuted tokens differ by up to {gap:.2g} though their positions moved with them",
            "take positions from tokens.pos, not from the index; "
            "if a part needs the grid, say why in its attribute `needs_grid`",
        )
    return []


def codes(model: Model, sample: Sample, tokens: Tokens) -> Latent:
    """What `Model.embed` gives, from tokens."""
    model.eval()
    with torch.no_grad():
        step = Step(sample, tokens, everything(tokens), aux={})
        latent = model.encoder(step._replace(seen=model.stem(step)), model)
    model.train()
    return latent


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference, 0 if within tolerance."""
    return 0.0 if torch.allclose(a, b, rtol=1e-4, atol=1e-5) else (a - b).abs().max().item()


def _flat(tokens: Tokens, orders: list[Tensor]) -> Tensor:
    starts = [0]
    for x in tokens.x.values():
        starts.append(starts[-1] + x.shape[1])
    return torch.cat([start + order for start, order in zip(starts, orders)])


def picked(tokens: Tokens, orders: list[Tensor], grid: tuple[int, ...] | None) -> Tokens:
    """Tokens in another order, each stream by its own index; an index that occurs again makes a copy without edges."""
    flat, n = _flat(tokens, orders), tokens.shape[1]
    edges = tokens.edges
    if edges is not None:
        place = torch.empty(n, dtype=torch.long)
        place[flat.flip(0)] = torch.arange(len(flat)).flip(0)  # the first of several copies
        edges = edges // n * len(flat) + place[edges % n]
    return tokens._replace(
        x={name: x[:, order] for (name, x), order in zip(tokens.x.items(), orders)},
        pos=tokens.pos[:, flat],
        valid=None if tokens.valid is None else tokens.valid[:, flat],
        kind=None if tokens.kind is None else tokens.kind[..., flat],
        grid=grid,
        edges=edges,
    )


def padded(tokens: Tokens, model: Model, seed: int = 1) -> tuple[Tokens, Tensor]:
    """Tokens with invalid ones behind every stream (a line of the grid, where there is one), of random content; and
    (N',) which are real."""
    extra = 3 if tokens.grid is None else math.prod(tokens.grid[1:])
    grid = None if tokens.grid is None else (tokens.grid[0] + 1, *tokens.grid[1:])
    sizes = [x.shape[1] for x in tokens.x.values()]
    orders = [torch.cat([torch.arange(n), torch.arange(extra) % n]) for n in sizes]
    real = torch.cat([torch.arange(n + extra) < n for n in sizes])
    more = picked(tokens, orders, grid)
    valid = real.expand(tokens.shape[0], -1) if more.valid is None else more.valid & real
    return edited(more._replace(valid=valid), ~valid, model, seed), real


def _embedding_ignores_padding(model: Model, sample: Sample, tokens: Tokens) -> None:
    more, real = padded(tokens, model)
    before, after = codes(model, sample, tokens), codes(model, sample, more)
    own = torch.ones(tokens.shape, dtype=torch.bool) if tokens.valid is None else tokens.valid
    gap = _gap(before.x[own], after.x[:, real][own]) or _gap(before.mean(), after.mean())
    if before.prefix is not None and after.prefix is not None:
        gap = gap or _gap(before.prefix, after.prefix)
    if gap:
        raise ContractError(
            PADDING,
            f"embeddings move by up to {gap:.2g} when padded tokens stand beside the real ones",
            "give attention (or whatever mixes tokens) the mask seen.ok, and take positions from tokens.pos",
        )


def _step_ignores_padding(model: Model, sample: Sample, tokens: Tokens) -> None:
    """A training step of samples of several lengths."""
    more, _ = padded(tokens, model)
    shorter = more.valid.clone()  # type: ignore[union-attr]
    place = shorter.long().cumsum(1)  # of a real token among the real ones, from 1
    for b in range(1, len(shorter), 2):
        shorter[b, place[b] > int(shorter[b].sum()) * 2 // 3] = False
    step = Step(sample, more._replace(valid=shorter), None, aux={})  # type: ignore[arg-type]
    step = step._replace(mask=model.mask(step, model))
    _only_real(step.mask, shorter)
    learnt = seeded(model, step)
    loss = learnt.loss
    if loss is None or not torch.isfinite(loss):
        raise ContractError(
            PADDING, f"the loss of a padded batch is {loss}", "divide by what is valid, clamped to at least 1"
        )
    other = step._replace(tokens=edited(step.tokens, ~shorter, model, seed=5))
    moved = [n for n, value in seeded(model, other).aux.items() if not torch.equal(value, learnt.aux[n])]
    if moved:
        raise ContractError(
            PADDING,
            f"the added loss {moved[0]!r} changes when the content of padded tokens does",
            "leave tokens that are not valid out of it, as keys of attention and as goals",
        )
    before, after = predictions(model, step), predictions(model, other)
    rows = range(next(iter(before.values())).shape[0])
    gaps = [asked_rows(before[h], step, q) - asked_rows(after[h], step, q) for h in before for q in rows]
    gaps = [gap.abs().max() for gap in gaps if gap.numel()]  # shortened samples may have nothing left to ask for
    if max(gaps) > 0:
        raise ContractError(
            PADDING,
            f"predictions move by up to {max(gaps):.2g} when the content of padded tokens changes",
            "use tokens.valid (keep_ok, seen.ok) wherever content of several tokens or samples is mixed",
        )


def _only_real(mask: Mask, valid: Tensor) -> None:
    """No padded token is visible, kept or asked for."""
    owner = torch.arange(mask.visible.shape[0]) if mask.keep_of is None else mask.keep_of
    asker = torch.arange(valid.shape[0]) if mask.ask_of is None else mask.ask_of
    lists = {"lets in": (mask.keep, mask.keep_ok, owner), "asks for": (mask.ask, mask.ask_ok, asker)}
    for verb, (index, ok, of) in lists.items():
        index = torch.arange(valid.shape[1]).expand(len(of), -1) if index is None else index
        real = valid[of[:, None] if of.ndim == 1 else of, index]
        wrong = ~real if ok is None else ok & ~real
        if wrong.any():
            raise ContractError(
                PADDING, f"the mask {verb} {int(wrong.sum())} padded tokens", "give split(...) valid=step.tokens.valid"
            )
    if owner.ndim == 1 and (mask.visible & ~valid[owner]).any():
        raise ContractError(PADDING, "the mask shows padded tokens", "give split(...) valid=step.tokens.valid")


def _extent(model: Model, subject: Subject) -> list[str]:
    """Values of several sizes in one batch, as the loader pads them: one patch more at the end of each axis."""
    names = [n for n, f in subject.schema.fields.items() if kind_of(f.kind).on_grid and n in subject.batch]
    for name in names:
        sides = getattr(tokenizer_of(model.tokenizer, name), "sides", None)
        if sides is not None and (len(names) == 1 or tokenizer_of(model.tokenizer, name) is not model.tokenizer):
            _padded_field(model, subject, name, sides)
    return []


def _padded_field(model: Model, subject: Subject, name: str, sides: Sequence[int]) -> None:
    values = subject.batch[name]
    more = [n for side in reversed(sides) for n in (0, side)]
    big = torch.nn.functional.pad(values, more, value=7)
    own = "extent" if len(subject.schema.fields) == 1 else f"{name}.extent"
    extent = subject.batch.get(own, torch.tensor(values.shape[2:]).expand(len(values), len(sides)))
    small, large = model.embed(subject.batch), model.embed({**subject.batch, name: big, own: extent})
    if large.ok is None:
        raise ContractError(
            PADDING,
            f"the tokenizer takes padding of {name} for content",
            "mark tokens outside sample['extent'] invalid",
        )
    alone = small.x.flatten(0, 1) if small.ok is None else small.x[small.ok]
    gap = _gap(alone, large.x[large.ok])
    if gap:
        raise ContractError(
            PADDING,
            f"embeddings of {name}s move by up to {gap:.2g} when they are padded in a batch",
            "compute positions and masks of the real tokens only",
        )
