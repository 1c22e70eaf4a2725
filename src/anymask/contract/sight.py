"""What predictions may depend on (no leak), and what they must depend on (reach)."""

from __future__ import annotations

import torch
from torch import Tensor

from anymask.contract.subject import (
    ContractError,
    Subject,
    asked_rows,
    decoder_rows,
    edited,
    only,
    predictions,
    sample_of,
    shown_to,
)
from anymask.engine import Model, Sample, Step, scored

LEAK = "no leak"
READERS = ("corruption", "stem", "encoder", "decoder", "mask")  # parts that could show hidden tokens to a prediction


def no_leak(subject: Subject) -> list[str]:
    """Hidden content of one sample changes, the mask stays: the sample's predictions stay equal bit for bit. One sample
    at a time, as a corruption may show one sample's content in another."""
    model = subject.build()
    shared = subject.declared(model, "shares")
    notes = [f"shared by design, not checked: {reason}" for reason in shared]
    if any(reason.partition(":")[0].partition(".")[0] in READERS for reason in shared):
        return notes
    step = model.hide(subject.batch)
    for q in _rows(model, step):
        _tokens_stay_hidden(model, step, q)
    if not any(reason.startswith("tokenizer") for reason in shared):
        for q in _rows(model, step)[:2]:
            notes += _raw_stays_hidden(model, step, q)
    return list(dict.fromkeys(notes))


def _rows(model: Model, step: Step) -> list[int]:
    """Decoder rows to look at; where a mask may hide nothing or everything of a sample, rows of which some is shown
    and some asked for."""
    if not isinstance(getattr(model.mask, "sometimes_whole", None), str):
        return decoder_rows(step)
    ok = step.mask.ask_ok
    rows = [
        q
        for q in decoder_rows(step, most=step.mask.visible.shape[0])
        if shown_to(step, q).any() and not shown_to(step, q).all() and (ok is None or bool(ok[q].any()))
    ]
    if not rows:
        raise ContractError(LEAK, "no sample has both visible and hidden tokens", "let the mask's share vary")
    return rows[:4]


def _tokens_stay_hidden(model: Model, step: Step, q: int) -> None:
    hidden = ~shown_to(step, q)
    if not hidden.any():
        raise ContractError(
            LEAK, f"decoder row {q} has nothing hidden from it", "let the mask hide some tokens of every sample"
        )
    tokens = edited(step.tokens, only(step, sample_of(step, q), hidden), model)
    stays = getattr(model.corruption, "shown", None)  # of tokens with several parts, some may stay visible
    if stays is not None:
        parts = {name: torch.where(part, step.tokens.x[name], tokens.x[name]) for name, part in stays(step).items()}
        tokens = tokens._replace(x={**tokens.x, **parts})
    changed = step._replace(tokens=tokens)
    _compare(model, step, changed, q, "content of hidden tokens")


def _compare(model: Model, step: Step, changed: Step, q: int, what: str) -> None:
    before, after = predictions(model, step), predictions(model, changed)
    for head in before:
        a, b = asked_rows(before[head], step, q), asked_rows(after[head], step, q)
        if not torch.equal(a, b):
            gap = (a - b).abs().max().item()
            raise ContractError(
                LEAK,
                f"{what} reaches the predictions of head {head!r} (they move by up to {gap:.2g})",
                "read only what mask.visible marks in corruption, encoder and decoder; "
                "if it is shared by design, say why in an attribute `shares` of that part",
            )


def _raw_stays_hidden(model: Model, step: Step, q: int) -> list[str]:
    """The same with raw values, found by following gradients through the tokenizer."""
    sample, shown = sample_of(step, q), shown_to(step, q)
    asked = torch.zeros_like(shown)
    index = torch.arange(shown.shape[0]) if step.mask.ask is None else step.mask.ask[q]
    asked[index if step.mask.ask_ok is None else index[step.mask.ask_ok[q]]] = True
    notes = []
    for name in model.schema.fields:
        if name not in step.sample:
            continue
        followed = _followed(model, step.sample, name, [only(step, sample, shown), only(step, sample, asked & ~shown)])
        if followed is None:
            notes.append(f"raw {name} cannot be followed through the tokenizer: checked on tokens only")
            continue
        visible, hidden = followed
        if (visible & hidden).any():
            share = (visible & hidden).sum() / hidden.sum()
            raise ContractError(
                LEAK,
                f"{share:.0%} of the raw {name} in hidden tokens also lies in visible ones",
                "make tokens that do not overlap; "
                "if it is shared by design, say why in an attribute `shares` of the tokenizer",
            )
        changed = _with_other_raw(step.sample, name, hidden, model)
        again = step._replace(sample=changed, tokens=model.tokenizer(changed))
        _compare(model, step, again, q, f"raw {name} of hidden tokens")
    return notes


def _followed(model: Model, sample: Sample, name: str, groups: list[Tensor]) -> list[Tensor] | None:
    """For each group of tokens (B, N): which raw values of the field they depend on (its shape), or None if unknown."""
    raw = sample[name].float().clone().requires_grad_()  # `float` gives back what is float already
    tokens = model.tokenizer({**sample, name: raw})
    generator, found = torch.Generator().manual_seed(2), []
    if not any(x.requires_grad for x in tokens.x.values()):
        return None
    for group in groups:
        total, start = raw.new_zeros(()), 0
        for x in tokens.x.values():
            here = group[:, start : start + x.shape[1]]
            start += x.shape[1]
            if x.requires_grad:
                weight = torch.rand(x.shape, generator=generator) + 0.5
                total = total + (x * weight * here.view(*here.shape, *[1] * (x.ndim - 2))).sum()
        (grad,) = torch.autograd.grad(total, raw, retain_graph=True)
        found.append(grad != 0)
    return found


def _with_other_raw(sample: Sample, name: str, where: Tensor, model: Model) -> Sample:
    field, raw = model.schema.fields[name], sample[name]
    noise = torch.rand(raw.shape, generator=torch.Generator().manual_seed(3))
    other = (field.low + noise * (field.high - field.low)).to(raw.dtype)
    return {**sample, name: torch.where(where, other, raw)}


def reach(subject: Subject) -> list[str]:
    """Visible content changes: predictions of every head differ, and every stream makes a difference to some head. A
    model that starts at zero (zero-initialised heads) is given three steps first."""
    model = subject.build()
    step = model.hide(subject.batch)
    missing = _unreached(model, step)
    if missing:
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for i in range(3):
            optimiser.zero_grad()
            model(subject.redrawn(i)).loss.backward()
            optimiser.step()
        missing = _unreached(model, step)
    if missing:
        raise ContractError(
            "reach",
            f"visible content does not reach {missing}",
            "let the decoder read step.latent, and the encoder all streams of step.seen",
        )
    return []


def _unreached(model: Model, step: Step) -> str:
    before = predictions(model, step)
    for q in _rows(model, step):
        shown, heads, start = shown_to(step, q), set(), 0
        if not shown.any():
            raise ContractError(
                "reach", f"decoder row {q} sees nothing of its sample", "let the mask leave some tokens visible"
            )
        for name, x in step.tokens.x.items():
            stream = torch.zeros_like(shown)
            stream[start : start + x.shape[1]] = shown[start : start + x.shape[1]]
            start += x.shape[1]
            if not stream.any():
                continue
            after = predictions(
                model, step._replace(tokens=edited(step.tokens, only(step, sample_of(step, q), stream), model))
            )
            moved = {
                h for h in before if not torch.equal(asked_rows(before[h], step, q), asked_rows(after[h], step, q))
            }
            if not moved:
                return f"any prediction from stream {name!r} (decoder row {q})"
            heads |= moved
        owed = {head for head in before if _asks(model, step, head, q)}
        if owed - heads:
            return f"the predictions of head {sorted(owed - heads)[0]!r} (decoder row {q})"
    return ""


def _asks(model: Model, step: Step, head: str, q: int) -> bool:
    """Whether anything is asked of a head in a decoder row: not where a sample lacks its part."""
    about = model.target.heads[head]
    if about.kinds is None:
        return True
    ok = scored(step._replace(error={}), about)
    return ok is None or bool(ok[q if ok.shape[0] > 1 else 0].any())
