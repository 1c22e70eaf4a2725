"""Parts for sequences of frames: spans of time are hidden, and frames are altered in further ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask import keyed
from anymask.engine import Model, Part, Seen, Step
from anymask.parts.masks import Scored
from anymask.recipe import RecipeError


class Spans(Scored):
    """Runs of so many tokens, at places drawn uniformly, until the share is hidden (TERA, arXiv:2007.06028, section
    III-A; SpanBERT's of one length). Runs may touch and overlap; the one that reaches the share is cut short, so that
    each sample hides exactly its share. For tokens in one line.

    Args:
        ratio, ask: see `Scored`.
        span: tokens of a run.
    """

    def __init__(self, model: Model, *, ratio: float = 0.15, span: int = 7, ask: float | None = 1.0):
        super().__init__(model, ratio=ratio, ask=ask)
        grid = getattr(model.tokenizer, "grid", None)
        if span < 1 or (grid is not None and sum(n > 1 for n in grid) > 1):
            raise RecipeError(f"spans of {span} tokens need one line of tokens and count from 1, not a grid of {grid}")
        self.span = span

    def score(self, step: Step, model: Model) -> Tensor:
        # A rank for each run; the first ones begin before the sound, so that its first tokens are hidden as often.
        run = keyed.uniform(step.sample["key"], step.tokens.shape[1] + self.span - 1)
        return F.max_pool1d(run[:, None], self.span, 1)[:, 0]


class Alter(Part):
    """Frames altered in three ways (TERA, arXiv:2007.06028, section III-A): in time, hidden ones are 0, the mean of a
    band, or are other frames of the sound; in frequency, a run of bands is 0 in all frames; in magnitude, noise is
    added to all frames of some sounds.

    Tokens are frames, of one stream of standardised values.

    Args:
        other: share of the hidden frames that hold another, visible, frame; 0 where the drawn one is hidden as well.
        bands: the most bands of the run, as a share of all; their number is drawn uniformly from 0 on.
        noisy: share of the sounds that noise is added to.
        noise: its spread.
    """

    keep = 1.0

    def __init__(
        self, model: Model, *, other: float = 1 / 9, bands: float = 0.2, noisy: float = 0.15, noise: float = 0.2
    ):
        super().__init__(model)
        for name, share in (("other", other), ("bands", bands), ("noisy", noisy)):
            if not 0.0 <= share <= 1.0:
                raise RecipeError(f"corruption.{name} is a share, 0 to 1, not {share}")
        (self.stream,) = model.tokenizer.streams
        self.other, self.noisy, self.noise = other, noisy, noise
        self.most = int(bands * model.tokenizer.streams[self.stream] + 1e-6)

    def forward(self, step: Step, model: Model) -> Seen:
        x = step.tokens.x[self.stream]
        x = self.in_magnitude(self.in_frequency(self.in_time(x, step), step), step)
        return model.stem(step, content={self.stream: x})

    def in_time(self, x: Tensor, step: Step) -> Tensor:
        visible, key, n = step.mask.visible, step.sample["key"], x.shape[1]
        valid = step.tokens.valid
        count = n if valid is None else valid.sum(1, keepdim=True)
        place = (keyed.uniform(key, n, salt=31) * count).long()  # B N
        others = x.gather(1, place[..., None].expand_as(x)) * visible.gather(1, place)[..., None]
        swapped = keyed.uniform(key, n, salt=32)[..., None] < self.other
        return torch.where(visible[..., None], x, torch.where(swapped, others, 0.0))

    def in_frequency(self, x: Tensor, step: Step) -> Tensor:
        bands = x.shape[2]
        draw = keyed.uniform(step.sample["key"], 2, salt=33)
        width = (draw[:, :1] * (self.most + 1)).floor()
        start = (draw[:, 1:] * (bands - width + 1)).floor()
        band = torch.arange(bands, device=x.device)
        inside = (band >= start) & (band < start + width)  # B bands
        return x.masked_fill(inside[:, None], 0.0)

    def in_magnitude(self, x: Tensor, step: Step) -> Tensor:
        if not self.noisy:
            return x
        key = step.sample["key"]
        chosen = keyed.uniform(key, 1, salt=34)[..., None] < self.noisy  # B 1 1
        noise = keyed.normal(key, x.shape[1] * x.shape[2], salt=35).view_as(x)
        return x + torch.where(chosen, self.noise * noise, 0.0)
