"""Positions: tokens -> (B or 1, N, width), added to what they belong to. Built by `model.positions(width)`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.engine import Model, Tokens
from anymask.recipe import RecipeError


class SinCos(nn.Module):
    """Sines and cosines of the coordinates, an equal share of the width for each axis (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.5; in two dimensions as MAE, arXiv:2111.06377). For any grid, and off the grid.

    As in MAE, the *last* axis (columns) comes first, each axis as all its sines and then all its cosines. What the axes
    cannot share equally stays zero.

    Args:
        axes: coordinates that count, by number; None = all.
    """

    def __init__(self, model: Model, *, width: int, axes: tuple[int, ...] | None = None):
        super().__init__()
        pitch = model.tokenizer.pitch
        self.axes = None if axes is None else list(axes)
        pitch = pitch if axes is None else tuple(pitch[axis] for axis in axes)
        share = width // (2 * len(pitch)) * 2
        if not share:
            raise RecipeError(f"sin-cos positions in {len(pitch)} axes need a width of {2 * len(pitch)}, not {width}")
        self.rest = width - share * len(pitch)
        rates = 10000.0 ** (-torch.arange(share // 2, dtype=torch.float64) / (share / 2))
        self.register_buffer("rates", rates, persistent=False)
        self.register_buffer("pitch", torch.tensor(pitch), persistent=False)

    rates: Tensor
    pitch: Tensor

    def forward(self, tokens: Tokens) -> Tensor:
        pos = tokens.pos if self.axes is None else tokens.pos[..., self.axes]
        place = (pos / self.pitch - 0.5).flip(-1)  # B N P, in tokens
        angle = place[..., None].double() * self.rates  # B N P share/2
        found = torch.cat([angle.sin(), angle.cos()], -1).flatten(2).float()
        return F.pad(found, (0, self.rest)) if self.rest else found


class Table(nn.Module):
    """One vector for each cell of a grid; other grids interpolate it (bicubic, as ViT and its Hugging Face port).

    Args:
        grid: of the table; None = of a training sample.
        learned: trained (started normal, spread 0.02), or fixed at MAE's sin-cos values (or at weights loaded into it).
    """

    needs_grid = "a table holds one vector for each cell of a grid"

    def __init__(self, model: Model, *, width: int, grid: tuple[int, ...] | None = None, learned: bool = True):
        super().__init__()
        self.grid = tuple(grid or model.tokenizer.grid)
        if learned:
            start = nn.init.trunc_normal_(torch.empty(1, math.prod(self.grid), width), std=0.02)
        else:
            axes = [torch.arange(n) + 0.5 for n in self.grid]
            cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, len(axes))
            fixed = SinCos(model, width=width)
            start = fixed(Tokens({}, cells * fixed.pitch))
        self.table = nn.Parameter(start, requires_grad=learned)

    def forward(self, tokens: Tokens) -> Tensor:
        grid = tokens.grid
        if tokens.valid is None or grid is None or len(grid) != 2:
            return self.on(grid)
        # Images of several sizes, padded: each has the positions of its own grid, as it has when it is alone.
        real = tokens.valid.unflatten(1, grid)  # B h w
        height, width = (torch.arange(1, n + 1, device=real.device) for n in grid)
        sizes = torch.stack([(real.any(2) * height).amax(1), (real.any(1) * width).amax(1)], 1)  # B 2
        place = self.table.new_zeros(*real.shape, self.table.shape[-1])
        for h, w in sizes.unique(dim=0).tolist():
            if h and w:
                place[(sizes == sizes.new_tensor([h, w])).all(1), :h, :w] = self.on((h, w)).unflatten(1, (h, w))
        return place.flatten(1, 2)

    def on(self, grid: tuple[int, ...] | None) -> Tensor:
        """(1, N, width) for a whole grid."""
        if grid == self.grid:
            return self.table
        if grid is None or len(grid) != 2 or len(self.grid) != 2:
            raise RecipeError("a table of positions serves grids of its own shape, or two-dimensional ones; use SinCos")
        table = self.table.transpose(1, 2).unflatten(2, self.grid)  # 1 D h w
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        return table.flatten(2).transpose(1, 2)


class Learned(nn.Module):
    """One vector for each place of a sequence, learned (BERT, arXiv:1810.04805, section 3), in as many places as a
    training sample has at most."""

    def __init__(self, model: Model, *, width: int):
        super().__init__()
        self.pitch = model.tokenizer.pitch[0]
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(model.tokenizer.longest, width), std=0.02))

    def forward(self, tokens: Tokens) -> Tensor:
        place = (tokens.pos[..., 0] / self.pitch - 0.5).long()  # B|1 N
        return nn.functional.embedding(place, self.table)
