"""The flow that every recipe runs through, and the records that flow through it. Read this file first.

    sample -> tokenizer -> tokens -> mask -> corruption -> seen -> encoder -> latent -> decoder -> pred
                                                         target(...) -> goal    loss(pred, goal) -> error

Letters in shapes: B samples, N tokens of a sample, P coordinates, R encoder rows, K tokens that enter the encoder,
D width, Q decoder rows, M tokens that are asked for. R = Q = B unless a mask says otherwise. Optional fields are None
in the plain case and cost nothing then; an index that is None means "every token, in order".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Sample = dict[str, Tensor]  # a collated batch: fields by name, and `key` (B,) int64, see keyed.py


class Tokens(NamedTuple):
    """A batch of samples as tokens: streams one after another along N."""

    x: dict[str, Tensor]  # stream -> (B, N_s, D_s) raw content, each with its own width and dtype; (B, N_s) if integer
    pos: Tensor  # (B or 1, N, P) coordinates in the sample's own space, over the streams one after another
    valid: Tensor | None = None  # (B, N) real token; False = padded, missing cell, missing modality
    kind: Tensor | None = None  # (N,) or (B, N) which stream, modality, channel group or view a token is of
    grid: tuple[int, ...] | None = None  # static layout: N = prod(grid), last axis fastest
    edges: Tensor | None = None  # (2, E) into the flattened B*N: from, to
    edge_attr: Tensor | None = None  # (E, F)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N)"""
        return next(iter(self.x.values())).shape[0], self.pos.shape[1]

    @property
    def kinds(self) -> Tensor | None:
        """`kind` as (1 or B, N)."""
        return self.kind if self.kind is None or self.kind.ndim == 2 else self.kind[None]


class Mask(NamedTuple):
    """What the encoder may see and what is asked for. Made by `split` (or `everything`)."""

    visible: Tensor  # (R, N) content the encoder may see
    keep: Tensor | None = None  # (R, K) tokens that enter the encoder, the visible ones first
    keep_ok: Tensor | None = None  # (R, K) False = filler of a shorter row
    ask: Tensor | None = None  # (Q, M) tokens that are predicted and scored; not always the hidden ones
    ask_ok: Tensor | None = None  # (Q, M)
    keep_of: Tensor | None = None  # (R,) or (R, K) sample of each encoder row, or of each token in it
    ask_of: Tensor | None = None  # (Q,) sample of each decoder row
    via: Tensor | None = None  # (Q,) encoder row that a decoder row reads
    t: Tensor | None = None  # (R,) noise level of the row, or (R, N) soft mask
    weight: Tensor | None = None  # (Q, M) or (Q, 1) loss weight
    logp: Tensor | None = None  # (R, N) log-probability of each token under the policy that drew the mask


class Seen(NamedTuple):
    """What enters the encoder."""

    x: Tensor  # (R, K, D) embedded, positions included
    pos: Tensor  # (R or 1, K, P)
    ok: Tensor | None = None  # (R, K)
    kind: Tensor | None = None  # (R or 1, K)
    content: dict[str, Tensor] | None = None  # the corrupted raw content, where it differs from the tokens'


class Latent(NamedTuple):
    """What the encoder makes of it. `layers`, `maps`, `attention` only if a part asked for them when it was built."""

    x: Tensor  # (R, K, D) codes of the kept tokens
    pos: Tensor  # (R or 1, K, P)
    ok: Tensor | None = None  # (R, K)
    kind: Tensor | None = None  # (R or 1, K)
    prefix: Tensor | None = None  # (R, T, D) tokens without content (CLS, registers): never masked nor scored
    layers: tuple[Tensor, ...] = ()  # (R, T + K, D) each, earliest first
    maps: tuple[Tensor, ...] = ()  # (R, D_l, *space_l) each, finest first
    attention: Tensor | None = None

    def mean(self) -> Tensor:
        """(R, D) mean over the valid tokens: the default features."""
        if self.ok is None:
            return self.x.float().mean(1)
        ok = self.ok[..., None].float()
        return (self.x.float() * ok).sum(1) / ok.sum(1).clamp(min=1)

    def cls(self) -> Tensor:
        """(R, D) the first prefix token."""
        if self.prefix is None:
            raise ValueError("this encoder has no CLS token; pool with 'mean'")
        return self.prefix[:, 0].float()


class Step(NamedTuple):
    """The one record that runs through all parts; each stage fills its field, which is None before."""

    sample: Sample
    tokens: Tokens
    mask: Mask = None  # type: ignore[assignment]
    seen: Seen = None  # type: ignore[assignment]
    latent: Latent = None  # type: ignore[assignment]
    pred: dict[str, Tensor] = None  # type: ignore[assignment]  # head -> (Q, M, width)
    goal: dict[str, Tensor] = None  # type: ignore[assignment]  # head -> (Q, M, width) or (Q, M)
    error: dict[str, Tensor] = None  # type: ignore[assignment]  # head -> (Q, M), unreduced
    aux: dict[str, Tensor] = {}  # name -> scalar loss that a part adds; a fresh dict in every step
    loss: Tensor = None  # type: ignore[assignment]


class Head(NamedTuple):
    """One prediction: its width, and how its error is weighed. `per` gives the denominator from (scored, step)."""

    width: int
    weight: float = 1.0
    kinds: tuple[int, ...] | None = None  # the kinds of token it scores; None = all
    per: Callable[[Tensor, Step], Tensor] | None = None  # None = per_scored


def per_scored(scored: Tensor, step: Step) -> Tensor:
    """Mean over the scored tokens."""
    return scored.sum().clamp(min=1)


def per_valid(scored: Tensor, step: Step) -> Tensor:
    """Mean over all real tokens, scored or not: what a likelihood bound in nats a token needs."""
    rows, n = step.mask.visible.shape
    if step.tokens.valid is None:
        return scored.new_tensor(float(rows * n))
    return take(step.tokens.valid, None, step.mask.keep_of).sum().clamp(min=1)


def per_row(scored: Tensor, step: Step) -> Tensor:
    """Sum over tokens, mean over decoder rows."""
    return scored.new_tensor(float(scored.shape[0]))


class Part(nn.Module):
    """A replaceable stage. It is built as `part(model, **arguments)`, in the order of `STAGES`: so it may read the
    sizes of the parts before it (`model.tokenizer.streams`, `model.target.heads`, `model.size`), and must not keep the
    model. `forward(step, model)` returns the stage's field. A part may read the model, never write to it."""

    def __init__(self, model: Model):
        super().__init__()

    def attach(self, model: Model) -> None:
        """Called once when all parts are built: for teachers, which copy others."""

    def after_step(self, model: Model, progress: float) -> None:
        """Called after every optimiser step; `progress` runs from 0 to 1."""

    def groups(self) -> dict[str, dict[str, float]]:
        """Own parameter name or prefix -> {"lr": factor, "weight_decay": value}, where they differ from the default."""
        return {}


STAGES = ("tokenizer", "target", "mask", "stem", "corruption", "encoder", "decoder", "loss", "extras")


class Model(nn.Module):
    """The parts of a recipe, built for a schema and a size.

    Args:
        stages: stage name -> callable that takes the model under construction and returns the part; `extras` is a
            sequence of them; `loss` is a function (pred, goal) -> (Q, M), or a dict of them by head, in place of which
            a target may bring `losses`, a dict by head;
            `positions` is a callable (model, width) -> module, which stem and decoder use.
        schema: of the data, see `anymask.data.Schema`.
        size: width, depth, heads and decoder, see `anymask.recipe.Size`.
        earlier: models of earlier stages of a recipe of several stages, by name.
    """

    tokenizer: Any  # the parts: whatever the recipe puts there
    target: Any
    mask: Any
    stem: Any
    corruption: Any
    encoder: Any
    decoder: Any

    def __init__(
        self, stages: Mapping[str, Any], *, schema: Any, size: Any, earlier: Mapping[str, Model] | None = None
    ):
        super().__init__()
        self.schema, self.size, self.earlier = schema, size, dict(earlier or {})
        self._positions = stages["positions"]
        for name in STAGES[:-2]:
            setattr(self, name, stages[name](self))
        loss, own = stages["loss"], getattr(self.target, "losses", {})
        self.losses = {
            head: loss[head] if isinstance(loss, Mapping) else own.get(head, loss) for head in self.target.heads
        }
        self.extras = nn.ModuleList(extra(self) for extra in stages.get("extras", ()))
        for part in self.parts():
            part.attach(self)
        self.earlier = {}  # a part that uses an earlier stage holds it as its own, frozen

    def positions(self, width: int) -> nn.Module:
        """A new positions module: tokens -> (B or 1, N, width)."""
        return self._positions(self, width=width)

    def parts(self) -> list[Part]:
        return [getattr(self, name) for name in STAGES[:-2]] + list(self.extras)

    # One training step.

    def forward(self, sample: Sample) -> Step:
        return self.learn(self.hide(sample))

    def hide(self, sample: Sample) -> Step:
        """Tokens, and a mask for them: kept apart from `learn`, which may be compiled. A tokenizer that makes `views`
        of a sample to learn from gives these; whatever else uses it gets the whole sample."""
        step = Step(sample, getattr(self.tokenizer, "views", self.tokenizer)(sample), aux={})
        return step._replace(mask=self.mask(step, self))

    def learn(self, step: Step) -> Step:
        step = self.predict(step)
        step = step._replace(goal=self.target(step, self))
        step = step._replace(error=self.errors(step))
        for extra in self.extras:
            step.aux.update(extra(step, self))
        return step._replace(loss=self.total(step))

    def predict(self, step: Step) -> Step:
        """From tokens and a mask to predictions; samplers use it too."""
        step = step._replace(seen=self.corruption(step, self))
        step = step._replace(latent=self.encoder(step, self))
        return step._replace(pred=self.decoder(step, self))

    def errors(self, step: Step) -> dict[str, Tensor]:
        with torch.autocast(step.mask.visible.device.type, enabled=False):  # errors are fp32 whatever the rest is
            return {head: self.losses[head](pred.float(), step.goal[head]) for head, pred in step.pred.items()}

    def total(self, step: Step) -> Tensor:
        terms = list(step.aux.values())
        for name, error in step.error.items():
            head = self.target.heads[name]
            ok = scored(step, head)
            error = error if ok is None else torch.where(ok, error, 0.0)
            weighed = error if step.mask.weight is None else error * step.mask.weight
            ok = torch.ones_like(error) if ok is None else ok.to(error.dtype)
            terms.append(head.weight * weighed.sum() / (head.per or per_scored)(ok, step))
        return torch.stack([term.float() for term in terms]).sum()

    # Use after training.

    @torch.no_grad()
    def embed(self, sample: Sample) -> Latent:
        """Nothing masked, nothing corrupted, evaluation mode."""
        training = self.training
        self.eval()
        try:
            tokens = self.tokenizer(sample)
            step = Step(sample, tokens, everything(tokens), aux={})
            return self.encoder(step._replace(seen=self.stem(step)), self)
        finally:
            self.train(training)


def scored(step: Step, head: Head) -> Tensor | None:
    """(Q, M) bool: the tokens whose error counts for a head; None = all."""
    ok = step.mask.ask_ok
    if head.kinds is None:
        return ok
    if step.tokens.kinds is None:
        raise ValueError(f"a head scores the kinds {head.kinds} but the tokens have no kind")
    kind = take(step.tokens.kinds, step.mask.ask, step.mask.ask_of)
    mine = torch.isin(kind, torch.tensor(head.kinds, device=kind.device))
    if ok is not None:
        return ok & mine
    return mine.expand(next(iter(step.error.values())).shape) if step.error else mine


Count = float | int | Tensor  # a share if float, a number if int; (R,) tensors likewise


def _count(count: Count, of: int | Tensor) -> int | Tensor:
    """A share or a number as a number, `of` at most."""
    if isinstance(count, float) or (isinstance(count, Tensor) and count.is_floating_point()):
        part = count * of + 1e-4
        return part.floor().long() if isinstance(part, Tensor) else int(part)
    if isinstance(count, Tensor):
        return torch.minimum(count, of) if isinstance(of, Tensor) else count.clamp(max=of)
    return of.clamp(max=count) if isinstance(of, Tensor) else min(count, of)


def split(
    score: Tensor,
    visible: Count,
    *,
    keep: Count = 0.0,
    ask: Count | None = 1.0,
    valid: Tensor | None = None,
    **more: Any,
) -> Mask:
    """The only function that ranks scores into indices.

    Args:
        score: (R, N), the lowest are visible. Random, block, tube, span, guided, learned and diffusion masks differ
            in their scores only.
        visible: share or number of a row's valid tokens that stay visible.
        keep: share or number of the hidden tokens that enter the encoder beside the visible ones: 0.0 drops all
            hidden tokens, 1.0 replaces them all, others are between (MAGE).
        ask: share or number of the hidden tokens that are asked for (the highest ranked ones); None = every valid
            token, visible ones too.
        valid: (R, N) real tokens; others are neither kept nor asked for.
        more: further fields of `Mask`.
    """
    rows, n = score.shape
    score = score.detach()
    whole: int | Tensor = n
    if valid is not None:
        score, whole = score.masked_fill(~valid, torch.inf), valid.sum(1)
    order = score.argsort(dim=1, stable=True)
    rank = torch.arange(n, device=score.device)
    seen = _count(visible, whole)
    see = (rank < seen if isinstance(seen, int) else rank < seen[:, None]).expand(rows, n)
    fields: dict[str, Any] = {"visible": torch.zeros_like(see).scatter(1, order, see)}
    if isinstance(keep, float) and keep == 1.0:
        fields["keep_ok"] = valid
    else:
        fields["keep"], fields["keep_ok"] = _part(order, 0, seen + _count(keep, whole - seen))
    if ask is None:
        fields["ask_ok"] = valid
    else:
        asked = _count(ask, whole - seen)
        fields["ask"], fields["ask_ok"] = _part(order, whole - asked, asked)
    return Mask(**fields, **more)


def _part(order: Tensor, start: int | Tensor, count: int | Tensor) -> tuple[Tensor, Tensor | None]:
    """`count` entries of each row of `order` (R, N) from `start`: (R, K), and which are real where rows differ. K is
    rounded up to a multiple of 8, so that a compiled graph meets few shapes."""
    rows, n = order.shape
    if isinstance(start, int) and isinstance(count, int):
        return order[:, start : start + count].contiguous(), None  # a view would carry N into compiled graphs
    start, count = (torch.as_tensor(v, device=order.device).expand(rows) for v in (start, count))
    width = min(n, -(-int(count.max()) // 8) * 8)
    place = torch.arange(width, device=order.device)
    index = order.gather(1, (start[:, None] + place) % n)  # a row stays free of repeats, fillers included
    return index, place < count[:, None]


def everything(tokens: Tokens) -> Mask:
    """Nothing hidden, nothing asked for."""
    b, n = tokens.shape
    none = torch.zeros(b, 0, dtype=torch.long, device=tokens.pos.device)
    visible = torch.ones(b, n, dtype=torch.bool, device=none.device) if tokens.valid is None else tokens.valid
    return Mask(visible, keep_ok=tokens.valid, ask=none)


def take(x: Tensor, index: Tensor | None = None, of: Tensor | None = None) -> Tensor:
    """Entries of `x` (B or 1, N, ...) at `index` (R, K), of the samples `of` (R,) or (R, K): (R, K, ...).
    With index None every token in order: (R, N, ...). A leading 1 means that all samples share x."""
    shared = x.shape[0] == 1
    n = x.shape[1]
    if index is None:
        if of is None or of.ndim == 1 or shared:
            return x if of is None or shared else x[of]
        index = torch.arange(n, device=x.device).expand(of.shape)
    if not shared:
        of = torch.arange(x.shape[0], device=x.device) if of is None else of
        index = (of if of.ndim == 2 else of[:, None]) * n + index
    return x.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)


def scatter(x: Tensor, mask: Mask, fill: Tensor) -> Tensor:
    """The only way back to a full grid or graph: codes `x` (R, K, D) of the kept tokens put at their places (R, N, D),
    `fill` (D,) or (R or 1, N, D) elsewhere."""
    rows, n = mask.visible.shape
    fill = fill.to(x.dtype).expand(rows, n, x.shape[-1])
    if mask.keep is None:
        return x if mask.keep_ok is None else torch.where(mask.keep_ok[..., None], x, fill)
    index = mask.keep[..., None].expand_as(x)
    if mask.keep_ok is not None:
        x = torch.where(mask.keep_ok[..., None], x, fill.gather(1, index))
    return fill.scatter(1, index, x)
