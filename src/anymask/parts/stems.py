"""Stems: raw content of the kept tokens to what enters the encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask.engine import Model, Part, Seen, Step, take
from anymask.parts.layers import Linear, init_weights


class Embed(Part):
    """One linear embedding for each stream (a table of vectors for streams of integers), plus positions, plus a learned
    vector for each kind where there are several. Where the tokenizer says `missing`, values that are NaN enter as 0.

    `streams` of the tokenizer maps a stream to its width, or to minus the number of its classes if it is of integers.
    With one stream, only kept tokens are embedded.

    Args:
        positions: add them. kinds: add the vectors of kinds, where there are several.
    """

    def __init__(self, model: Model, *, positions: bool = True, kinds: bool = True):
        super().__init__(model)
        width = model.size.width
        self.embed = nn.ModuleDict({name: self._one(n, width) for name, n in model.tokenizer.streams.items()})
        self.positions = model.positions(width) if positions else None
        count = getattr(model.tokenizer, "kinds", 1) if kinds else 1
        self.kinds = nn.Parameter(torch.empty(count, width).normal_(std=0.02)) if count > 1 else None
        self.width, self.missing = width, getattr(model.tokenizer, "missing", False)

    def embedded(self, name: str, x: Tensor) -> Tensor:
        """(..., D) of the content of a stream."""
        return self.embed[name](x)

    @staticmethod
    def _one(n: int, width: int) -> nn.Module:
        if n < 0:
            table = nn.Embedding(-n, width)
            nn.init.normal_(table.weight, std=0.02)
            return table
        linear = Linear(n, width)
        init_weights(linear)
        return linear

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        """
        Args:
            content: stream -> content in place of the tokens' own.
            fill: (D,) vector that kept but hidden tokens get in place of their embedded content.
        """
        tokens, mask = step.tokens, step.mask
        streams = tokens.x if content is None else content
        if self.missing:
            streams = {name: x.nan_to_num() for name, x in streams.items()}
        if len(streams) == 1:
            ((name, x),) = streams.items()
            x = self.embedded(name, take(x, mask.keep, mask.keep_of))
        else:
            x = torch.cat([self.embedded(name, x) for name, x in streams.items()], 1)
            x = take(x, mask.keep, mask.keep_of)
        if fill is not None:
            visible = mask.visible if mask.keep is None else mask.visible.gather(1, mask.keep)
            x = torch.where(visible[..., None], x, fill.to(x.dtype))
        if self.positions is not None:
            x = x + take(self.positions(tokens), mask.keep, mask.keep_of).to(x.dtype)
        kind = tokens.kinds
        if kind is not None:
            kind = take(kind, mask.keep, mask.keep_of)
            x = x if self.kinds is None else x + self.kinds[kind].to(x.dtype)
        return Seen(x, take(tokens.pos, mask.keep, mask.keep_of), mask.keep_ok, kind, content)

    def groups(self) -> dict[str, dict[str, float]]:
        return {"kinds": {"weight_decay": 0.0}, "positions": {"weight_decay": 0.0}}
