"""Attention within windows over a hierarchy of scales (Swin Transformer, arXiv:2103.14030)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anymask.engine import Latent, Model, Part, Seen, Step, take
from anymask.parts.layers import DropPath, LayerNorm, Linear, Mlp, init_weights, merge_heads, split_heads
from anymask.parts.tokenizers import grid_index, halving_sides
from anymask.recipe import RecipeError


class CellEmbed(Part):
    """Patches are the coarsest scale of a hierarchy: each is cut into cells, the tokens of the finest one, which are
    embedded by one linear layer and normalised (section 3.1). Each scale halves the cells along both axes and doubles
    the width, up to that of the size.

    What stands for hidden content is as wide as a cell, `filled`, and stands in every cell of a patch.

    Args:
        levels: scales, at most; small patches have fewer.
    """

    def __init__(self, model: Model, *, levels: int = 4):
        super().__init__(model)
        tokenizer = model.tokenizer
        sides = halving_sides(tokenizer)
        self.levels = min(levels, sides[0].bit_length())
        self.across = 2 ** (self.levels - 1)  # cells of a patch along an axis
        self.side = sides[0] // self.across
        self.filled = model.size.width // self.across
        if levels < 1 or self.filled * self.across != model.size.width:
            raise RecipeError(
                f"{self.levels} scales that double the width up to {model.size.width} need one that {self.across} "
                "divides (--set stem.levels=1 for one scale)"
            )
        self.stream, self.channels = tokenizer.field, tokenizer.channels
        self.embed = Linear(self.side**2 * self.channels, self.filled)
        self.norm = LayerNorm(self.filled, eps=1e-5)
        init_weights(self.embed)

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        """Each row of `Seen.x` holds the cells of a patch one after the other, (R, K, cells * filled)."""
        tokens, mask = step.tokens, step.mask
        x = take((tokens.x if content is None else content)[self.stream], mask.keep, mask.keep_of)
        x = x.unflatten(-1, (self.across, self.side, self.across, self.side, self.channels))
        x = x.transpose(3, 4).flatten(4).flatten(2, 3)  # R K cells values
        x = self.norm(self.embed(x))
        if fill is not None:
            visible = mask.visible if mask.keep is None else mask.visible.gather(1, mask.keep)
            x = torch.where(visible[..., None, None], x, fill.to(x.dtype))
        return Seen(x.flatten(2), take(tokens.pos, mask.keep, mask.keep_of), mask.keep_ok, None, content)


class Layout(NamedTuple):
    """Tokens of a grid in windows, window after window."""

    tokens: Tensor  # (windows * cells,) the token in each cell, N where a window reaches beyond the grid
    place: Tensor  # (N,) where each token is
    cells: int

    def split(self, x: Tensor) -> Tensor:
        """(R, N, ...) -> (R * windows, cells, ...), zeros beyond the grid."""
        beyond = x.new_zeros(x.shape[0], 1, *x.shape[2:])
        return torch.cat([x, beyond], 1).index_select(1, self.tokens).flatten(0, 1).unflatten(0, (-1, self.cells))

    def join(self, x: Tensor, rows: int) -> Tensor:
        """The way back."""
        return x.flatten(0, 1).unflatten(0, (rows, -1)).index_select(1, self.place)


def layout(n: int, grid: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Layout:
    """Windows of `window` cells on a grid of two axes with N = `n` tokens. The first one of an axis ends after `shift`
    cells, or is whole with 0: what Swin gets by rolling the grid and masking what was rolled in."""
    (height, width), (a, b) = grid, window
    top, left = -shift[0] % a, -shift[1] % b
    token = torch.arange(n, device=device)
    row, column = token // width + top, token % width + left
    across = (width + left + b - 1) // b
    place = (row // a * across + column // b) * (a * b) + row % a * b + column % b
    total = (height + top + a - 1) // a * across * (a * b)
    return Layout(torch.full((total,), n, device=device).scatter(0, place, token), place, a * b)


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for each relative position of a query and a key (section 3.2).

    Args:
        side: cells of a window along an axis.
    """

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = Linear(width, 3 * width), Linear(width, width)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * side - 1) ** 2, heads), std=0.02))
        place = grid_index((side, side)).long()  # n 2
        apart = place[:, None] - place + side - 1  # n n 2, from 0
        self.register_buffer("apart", apart[..., 0] * (2 * side - 1) + apart[..., 1], persistent=False)

    apart: Tensor

    def forward(self, x: Tensor, ok: Tensor) -> Tensor:
        """x (W, side * side, D), of which the cells `ok` (W, side * side) are read -> the same."""
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        bias = self.bias[self.apart].permute(2, 0, 1).to(q.dtype)  # H n n
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias  # W H n n
        scores = scores.masked_fill(~ok[:, None, None], -1e4)  # finite, as a window may hold nothing to read
        return self.proj(merge_heads(scores.softmax(-1) @ v))


class WindowBlock(nn.Module):
    """Pre-norm transformer block whose attention is within windows of `side` cells along an axis."""

    def __init__(self, width: int, heads: int, side: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width, eps=1e-5), LayerNorm(width, eps=1e-5)
        self.attn = WindowAttention(width, heads, side)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, ok: Tensor, way: Layout) -> Tensor:
        """x (R, N, D), of which the cells `ok` (R, N) are real -> the same."""
        y = way.join(self.attn(way.split(self.norm1(x)), way.split(ok)), len(x))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Merging(nn.Module):
    """Each two by two cells become one of twice the width (section 3.1): (R, H * W, D) -> (R, H * W / 4, 2 D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = LayerNorm(4 * width, eps=1e-5), Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        x = x.unflatten(1, (grid[0] // 2, 2, grid[1] // 2, 2)).permute(0, 1, 3, 4, 2, 5)  # R h w column row D
        return self.linear(self.norm(x.flatten(3).flatten(1, 2)))


class Swin(Part):
    """A transformer over the cells of an image, whose attention is within windows that every other block shifts by half
    of one, in a hierarchy of scales; its coarsest cells are the patches (arXiv:2103.14030, section 3). Patches are
    replaced, not dropped. With a size of width 768 and 12 blocks it is Swin-T.

    Args:
        blocks: of each scale, finest first; None = two, and the rest of the size's depth in the last but one.
        window: cells of a window along an axis.
        shift: False = windows stay where they are, for comparison (table 4).
        heads: of the coarsest scale, halved with each finer one; None = of the size.
        mlp_ratio: width of the hidden layer of a block, in widths.
        drop_path: stochastic depth of the last block; the others' rise to it linearly.
    """

    needs_grid = "windows lie on the grid"

    def __init__(
        self,
        model: Model,
        *,
        blocks: Sequence[int] | None = None,
        window: int = 7,
        shift: bool = True,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ):
        super().__init__(model)
        stem = model.stem
        if not isinstance(stem, CellEmbed):
            raise RecipeError("windows lie on the cells of patches: use stem=P(CellEmbed)")
        if model.corruption.keep != 1.0:
            raise RecipeError("windows have no holes, so hidden patches are replaced: use corruption=P(Replace)")
        levels, self.width, self.across = stem.levels, model.size.width, stem.across
        if blocks is None:
            counts = [2] * levels
            counts[max(0, levels - 2)] += max(0, model.size.depth - 2 * levels)
        else:
            counts = list(blocks)
        if len(counts) != levels or min(counts) < 1 or window < 1:
            raise RecipeError(
                f"encoder.blocks counts the blocks of {levels} scales, at least 1 each, and encoder.window cells; not "
                f"{tuple(counts)} and {window} (patches of {stem.side * stem.across} pixels have {levels} scales)"
            )
        rates = iter(torch.linspace(0, drop_path, sum(counts)).tolist())
        most = heads or model.size.heads
        self.blocks, self.merges = nn.ModuleList(), nn.ModuleList(Merging(stem.filled << k) for k in range(levels - 1))
        self.counts, self.sides, self.shifts = counts, [], []  # of each scale
        for level, count in enumerate(counts):
            width, few = stem.filled << level, max(1, most >> (levels - 1 - level))
            if width % few:
                raise RecipeError(f"a width of {width} is no multiple of {few} heads (--set encoder.heads=...)")
            # By the size of training, so that neither padding nor a larger image moves windows.
            cells = min(model.tokenizer.grid) << (levels - 1 - level)
            side = min(window, cells)  # one window spans a small map
            rest = [next(rates) for _ in range(count)]
            self.blocks.extend(WindowBlock(width, few, side, mlp_ratio=mlp_ratio, drop_path=rate) for rate in rest)
            self.sides.append(side)
            self.shifts.append(side // 2 if shift and side < cells else 0)
        self.norm = LayerNorm(self.width, eps=1e-5)
        init_weights(self.blocks)
        init_weights(self.merges)

    def forward(self, step: Step, model: Model) -> Latent:
        seen, grid, a = step.seen, step.tokens.grid, self.across
        if grid is None or len(grid) != 2:
            raise RecipeError("windows need tokens on a two-dimensional grid; use encoder=P(ViT)")
        rows, fine = len(seen.x), (grid[0] * a, grid[1] * a)
        x = seen.x.unflatten(1, grid).unflatten(3, (a, a, -1))  # R h w a a C
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2).flatten(1, 2)  # R H*W C
        real = torch.ones(seen.x.shape[:2], dtype=torch.bool, device=x.device) if seen.ok is None else seen.ok
        ok = real.view(rows, grid[0], 1, grid[1], 1).expand(-1, -1, a, -1, a).reshape(rows, -1)
        blocks = iter(self.blocks)
        for level, (count, side, shift) in enumerate(zip(self.counts, self.sides, self.shifts)):
            if level:
                x = self.merges[level - 1](x, fine)
                ok = ok.unflatten(1, (fine[0] // 2, 2, fine[1] // 2, 2))[:, :, 0, :, 0].flatten(1)
                fine = (fine[0] // 2, fine[1] // 2)
            ways = [layout(x.shape[1], fine, (side, side), (by, by), x.device) for by in (0, shift)]
            for number in range(count):
                x = next(blocks)(x, ok, ways[number % 2])
        return Latent(self.norm(x), seen.pos, seen.ok)
