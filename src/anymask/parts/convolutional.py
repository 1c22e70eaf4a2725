"""A convolutional hierarchy that never mixes holes in, and a decoder over all its scales (SparK, arXiv:2301.03580)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.engine import Latent, Model, Part, Seen, Step, scatter, take
from anymask.parts.tokenizers import halving_sides
from anymask.recipe import RecipeError

LEVELS = 4  # scales of the hierarchy, at most


class Values(Part):
    """The content of the kept tokens as it is, for encoders that make images of it again."""

    def __init__(self, model: Model):
        super().__init__(model)
        if len(model.tokenizer.streams) != 1:
            raise RecipeError("the content of several streams lies on no one grid; use stem=P(Embed)")
        ((self.stream, self.width),) = model.tokenizer.streams.items()

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        if fill is not None:
            raise RecipeError("hidden values are left out, not replaced: use corruption=P(Drop)")
        tokens, mask = step.tokens, step.mask
        x = (tokens.x if content is None else content)[self.stream]
        return Seen(
            take(x, mask.keep, mask.keep_of), take(tokens.pos, mask.keep, mask.keep_of), mask.keep_ok, None, content
        )


class SparseBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the cells that are there: x (B, C, H, W), on (B, 1, H, W) 0 or 1."""

    def sparse(self, x: Tensor, on: Tensor | None) -> Tensor:
        if on is None or not self.training:
            out = super().forward(x)
            return out if on is None else out * on
        count = on.sum().clamp(min=1)
        x = x.float()
        mean = (x * on).sum((0, 2, 3)) / count
        centred = (x - mean[:, None, None]) * on
        var = centred.square().sum((0, 2, 3)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]) * on


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (ResNet's basic block, arXiv:1512.03385, section 4.1), each of which leaves
    empty cells empty."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = SparseBatchNorm(width), SparseBatchNorm(width)
        self.short = nn.Conv2d(before, width, 1, stride, bias=False) if stride > 1 or before != width else None
        self.norm3 = SparseBatchNorm(width) if self.short is not None else None

    def forward(self, x: Tensor, on: Tensor | None) -> Tensor:
        y = self.norm1.sparse(self.conv1(x), on).relu()
        y = self.norm2.sparse(self.conv2(y), on)
        if self.short is not None and self.norm3 is not None:
            x = self.norm3.sparse(self.short(x), on)
        return (x + y).relu()


class SparseResNet(Part):
    """A residual network over the image that is made of the kept patches, run as a sparse one: after every layer, cells
    of hidden patches are empty, and normalisation counts the others only (SparK, section 3.1). Its coarsest cells are
    the tokens; each scale halves the side and doubles the width, down to the stem's, four scales at most.

    Args:
        depth: blocks over all scales; None = of the size, one a scale at least.
        sparse: False = an ordinary network on an image whose hidden patches are zero, for comparison.
    """

    needs_grid = "convolutions run over the grid"
    strides: list[int]
    widths: list[int]

    def __init__(self, model: Model, *, depth: int | None = None, sparse: bool = True):
        super().__init__(model)
        tokenizer = model.tokenizer
        sides = halving_sides(tokenizer)
        levels = min(LEVELS, sides[0].bit_length())
        self.strides = [sides[0] >> (levels - 1 - level) for level in range(levels)]  # of a cell, in pixels
        self.widths = [max(8, model.size.width >> (levels - 1 - level)) for level in range(levels)]
        self.width, self.sparse = self.widths[-1], sparse
        first, stride = self.widths[0], self.strides[0]
        self.stem = nn.Conv2d(tokenizer.channels, first, max(3, stride), stride, padding=int(stride < 3), bias=False)
        self.norm = SparseBatchNorm(first)
        total = max(levels, depth or model.size.depth)
        counts = [total // levels + (level < total % levels) for level in range(levels)]
        self.levels = nn.ModuleList()
        before = first
        for level, (width, count) in enumerate(zip(self.widths, counts)):
            blocks = nn.ModuleList()
            for n in range(count):
                blocks.append(Residual(before, width, 2 if level and not n else 1))
                before = width
            self.levels.append(blocks)

    def forward(self, step: Step, model: Model) -> Latent:
        seen, mask, grid = step.seen, step.mask, step.tokens.grid
        if grid is None:
            raise RecipeError("convolutions need tokens on a grid; use encoder=P(ViT)")
        rows = mask.visible.shape[0]
        image = model.tokenizer.whole(scatter(seen.x, mask, torch.zeros_like(seen.x[0, 0])), grid)
        there = scatter(torch.ones_like(seen.x[..., :1]), mask, torch.zeros_like(seen.x[0, 0, :1]))
        cells = there.view(rows, 1, *grid)  # 1 where a patch is kept
        side = self.strides[-1]

        def on(level: int) -> Tensor | None:
            if not self.sparse:
                return None
            times = side // self.strides[level]
            return cells.repeat_interleave(times, 2).repeat_interleave(times, 3)

        x, maps = self.norm.sparse(self.stem(image.to(self.stem.weight.dtype)), on(0)).relu(), []
        for level, blocks in enumerate(self.levels):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, on(level))
            maps.append(x)
        codes = take(x.flatten(2).transpose(1, 2), mask.keep)
        return Latent(codes, seen.pos, seen.ok, maps=tuple(maps))


class UNet(Part):
    """From the coarsest scale to the finest: empty cells get a vector of the scale, and what comes from the coarser
    scale, enlarged by a transposed convolution and two further ones, is added (SparK, section 3.2). The finest scale
    gives the pixels of the patches.

    Args:
        width: channels at the coarsest scale, halved with each finer one; None = the decoder's of the size.
        hierarchical: False = of the coarsest scale only, for comparison (section 4.4).
    """

    def __init__(self, model: Model, *, width: int | None = None, hierarchical: bool = True):
        super().__init__(model)
        encoder = model.encoder
        if not isinstance(encoder, SparseResNet):
            raise RecipeError("this decoder reads the scales of a convolutional encoder: use encoder=P(SparseResNet)")
        ((self.head, head),) = model.target.heads.items()
        channels = model.tokenizer.channels * encoder.strides[0] ** 2
        if head.width != model.tokenizer.channels * encoder.strides[-1] ** 2:
            raise RecipeError(f"this decoder predicts the pixels of patches, not {self.head!r}: use target=P(Pixels)")
        top = width or model.size.decoder_width
        levels = len(encoder.widths)
        widths = [max(8, top >> (levels - 1 - level)) for level in range(levels)]
        used = range(levels) if hierarchical else [levels - 1]
        self.used = set(used)
        self.fill = nn.ParameterDict({str(k): torch.empty(encoder.widths[k], 1, 1).normal_(std=0.02) for k in used})
        self.join = nn.ModuleDict({str(k): nn.Conv2d(encoder.widths[k], widths[k], 1) for k in used})
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(widths[k + 1], widths[k + 1], 4, 2, padding=1),
                nn.Conv2d(widths[k + 1], widths[k], 3, padding=1, bias=False), nn.BatchNorm2d(widths[k]), nn.ReLU6(),
                nn.Conv2d(widths[k], widths[k], 3, padding=1, bias=False), nn.BatchNorm2d(widths[k]),
            )
            for k in range(levels - 1)
        )  # fmt: skip
        self.out = nn.Conv2d(widths[0], channels, 1)
        self.stride = encoder.strides[0]

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        maps, mask, grid = step.latent.maps, step.mask, step.tokens.grid
        assert grid is not None
        seen = mask.visible if step.tokens.valid is None else mask.visible & step.tokens.valid
        cells = seen.view(-1, 1, *grid)
        x = self._dense(len(maps) - 1, maps[-1], cells)
        for level in range(len(maps) - 2, -1, -1):
            x = self.up[level](x)
            if level in self.used:
                times = maps[level].shape[2] // grid[0]
                on = cells.repeat_interleave(times, 2).repeat_interleave(times, 3)
                x = x + self._dense(level, maps[level], on)
        pixels = F.pixel_shuffle(self.out(x), self.stride)  # B C H W
        return {self.head: take(model.tokenizer.patches(pixels), mask.ask)}

    def _dense(self, level: int, x: Tensor, on: Tensor) -> Tensor:
        return self.join[str(level)](torch.where(on, x, self.fill[str(level)].to(x.dtype)))

    def groups(self) -> dict[str, dict[str, float]]:
        return {"fill": {"weight_decay": 0.0}}
