"""What a modality adds so that its samples can be seen: a renderer, named beside its tokenizer.

A tokenizer says `renderer = "module:Class"` (looked up when it is used, as drawing needs plotting libraries), or holds
the class itself. The class follows `Renderer`. Everything that is drawn goes through tokens, so that one renderer
serves originals, masks, reconstructions, neighbours and token norms alike.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from anymask.engine import Mask, Model, Step, Tokens
from anymask.parts.several import Several, view_of


class Panel(NamedTuple):
    """A few samples in one state, all of the same model's tokens."""

    name: str
    content: Tensor  # (B, N, D) or (B, N) as the tokenizer gives it, NaN for tokens that are not valid
    shown: Tensor | None = None  # (B, N) False = hidden, drawn as such; None = all are shown
    values: Tensor | None = None  # (B, N) a number for each token, drawn over the content
    predicted: Tensor | None = None  # (B, N) True = a prediction of the first panel's token in this place
    edges: Tensor | None = None  # (B, E, 2) tokens of a sample that an edge joins, -1 = none; None = there are no edges


class Drawing(NamedTuple):
    """A panel as a picture: `png` bytes or inline `svg`, and a text that stands for it."""

    name: str
    alt: str
    png: bytes | None = None
    svg: str | None = None


class Renderer(Protocol):
    """Draws panels of samples.

    `layout` says how the drawings of one figure are put: "columns", narrow ones side by side, samples one below another
    in each; or "blocks", each as wide as a plot. `samples` is how many samples a panel can hold.
    """

    layout: ClassVar[Literal["columns", "blocks"]]
    samples: ClassVar[int]
    noun: ClassVar[str]  # what a sample is called, in the plural
    unit: ClassVar[str]  # what a token is called, in the plural

    def __init__(self, model: Model) -> None: ...

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        """One drawing a panel, all on the scale of the first panel's content."""
        ...


def parts_of(model: Model) -> list[str]:
    """The fields whose tokens are drawn by themselves; of a model of one field [''], which stands for all."""
    return list(model.tokenizer.fields) if isinstance(model.tokenizer, Several) else [""]


def renderer_of(model: Model, part: str = "") -> Renderer | None:
    """The renderer that the model's tokenizer names, or that of one part; None where it names none."""
    model = view_of(model, part) if part else model
    named: Any = getattr(model.tokenizer, "renderer", None)
    if isinstance(named, str):
        module, _, name = named.partition(":")
        named = getattr(importlib.import_module(module), name)
    return None if named is None else named(model)


def stream_of(model: Model) -> str:
    """The stream that is drawn: that of the tokenizer's `field`, or else its first one."""
    field: Any = getattr(model.tokenizer, "field", None)
    return field if field in model.tokenizer.streams else next(iter(model.tokenizer.streams))


def joined(x: dict[str, Tensor]) -> Tensor:
    """Streams of real numbers side by side (B, N, widest), NaN behind the content of narrower ones."""
    if len(x) == 1:
        return next(iter(x.values()))
    widest = max(one.shape[2] for one in x.values())
    pad = torch.nn.functional.pad
    return torch.cat([pad(one, (0, widest - one.shape[2]), value=torch.nan) for one in x.values()], 1)


def marked(tokens: Tokens, stream: str) -> Tensor:
    """Content of a stream (B, N, D) or (B, N) float32, NaN for tokens that are not valid."""
    x = tokens.x[stream].float()
    if tokens.valid is None:
        return x
    valid = tokens.valid[:, part_of(tokens, stream)]
    return torch.where(valid if x.ndim == 2 else valid[..., None], x, torch.nan)


def content_of(model: Model, tokens: Tokens) -> tuple[Tensor, slice]:
    """Content that is drawn, NaN for tokens that are not valid, and where it is among all tokens: that of `stream_of`,
    or of all streams, where the tokenizer makes one of them by `together` (B, N, D), in the units of the target's
    `content`, or says that they can be put side by side (`joint`)."""
    tokenizer = model.tokenizer
    if hasattr(tokenizer, "together"):
        x = tokenizer.together(tokens).float()
    elif getattr(tokenizer, "joint", False):
        x = joined(tokens.x).float()
    else:
        stream = stream_of(model)
        return marked(tokens, stream), part_of(tokens, stream)
    return x if tokens.valid is None else torch.where(tokens.valid[..., None], x, torch.nan), slice(None)


def part_of(tokens: Tokens, stream: str) -> slice:
    """Where a stream's tokens are among those of all streams, which lie one after another."""
    start = 0
    for name, x in tokens.x.items():
        if name == stream:
            return slice(start, start + x.shape[1])
        start += x.shape[1]
    raise KeyError(stream)


def alone(model: Model, step: Step, part: str) -> tuple[Any, Step]:
    """A model and a step as one part sees them; as they are for ''."""
    if not part:
        return model, step
    mine = model.tokenizer.step(step, part)
    return view_of(model, part), mine if step.pred is None else mine._replace(pred=model.target.pred(step, part))


def contents(model: Model, step: Step, part: str = "") -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Content (B, N, D), which of it is visible (B, N), and predictions (B, N, D) with where they are (B, N); None in
    their place where the target is not the content.

    With several masks for a sample, the first one is taken. Of several parts, `part`; of several streams otherwise that
    cannot be put together, that of `stream_of`, without predictions.
    """
    model, step = alone(model, step, part)
    content, place = content_of(model, step.tokens)
    b, n = content.shape[:2]
    visible = _visible(step.mask, b)[:, place]
    if not hasattr(model.target, "content") or n < step.tokens.shape[1]:
        return content, visible, None
    rows = _first(step.mask.ask_of, b, content.device)
    pred = model.target.content(step)[rows]
    ask = step.mask.ask[rows] if step.mask.ask is not None else torch.arange(n, device=pred.device).expand(b, n)
    ok = step.mask.ask_ok[rows] if step.mask.ask_ok is not None else torch.ones_like(ask, dtype=torch.bool)
    known = torch.zeros_like(visible).scatter(1, ask, ok) & ~visible
    at = ask if pred.ndim == 2 else ask[..., None].expand_as(pred)
    return content, visible, (torch.zeros_like(content).scatter(1, at, pred.to(content.dtype)), known)


def edges_of(tokens: Tokens) -> Tensor | None:
    """The edges of a batch by sample, as in `Panel`."""
    if tokens.edges is None:
        return None
    b, n = tokens.shape
    owner = tokens.edges[0] // n  # E
    order = owner.argsort(stable=True)
    counts = owner.bincount(minlength=b)
    place = torch.arange(len(order), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
    out = tokens.edges.new_full((b, int(counts.max()), 2), -1)
    out[owner[order], place] = (tokens.edges % n).T[order]
    return out


def filled(content: Tensor, predicted: Tensor, known: Tensor) -> Tensor:
    """Content with the predictions in the places that are predicted."""
    return torch.where(known if content.ndim == 2 else known[..., None], predicted, content)


def _visible(mask: Mask, samples: int) -> Tensor:
    """(B, N) what of each sample is shown: in its first row, or in the row that it shares with others."""
    of, device = mask.keep_of, mask.visible.device
    if of is None or of.ndim == 1:
        return mask.visible[_first(of, samples, device)]
    assert mask.keep is not None and mask.via is not None
    own = of[mask.via] == torch.arange(samples, device=device)[:, None]  # B K
    shown = mask.visible[mask.via]
    place = mask.keep[mask.via]
    return torch.zeros_like(shown).scatter(1, place, own & shown.gather(1, place))


def _first(of: Tensor | None, samples: int, device: torch.device) -> Tensor:
    """(B,) the first row of each sample."""
    if of is None:
        return torch.arange(samples, device=device)
    return torch.stack([torch.nonzero(of == b)[0, 0] for b in range(samples)])
