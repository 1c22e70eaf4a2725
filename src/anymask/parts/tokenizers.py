"""Tokenizers: raw fields of a sample to tokens. `streams` says how wide each stream is; `grid` how many tokens a
training sample has along each axis; `pitch` how far apart they are, in the units of `pos`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anymask.engine import Model, Part, Sample, Tokens
from anymask.recipe import RecipeError


def default_patch(height: int, width: int) -> int:
    """Pixels a patch is wide by default: 2 for short sides up to 16, 4 up to 64, 8 up to 128, else the papers' 16."""
    side = min(height, width)
    return 2 if side <= 16 else 4 if side <= 64 else 8 if side <= 128 else 16


class Patches(Part):
    """Images to square patches.

    (B, C, H, W) in raw units -> stream `image` (B, N, patch * patch * C), standardised with the mean and spread of
    each channel that the schema holds; within a patch rows first, then columns, then channels. `pos` is the centre of
    a patch in pixels (row, column). With `extent` (B, 2) in the sample, patches that start outside it are not valid.

    Args:
        patch: pixels; None = `default_patch` of the schema's size.
        field: of the schema.
    """

    takes = "image"
    renderer = "anymask.reports.images:Images"  # looked up when something is drawn, see `anymask.reports.renderer`

    def __init__(self, model: Model, *, patch: int | None = None, field: str = "image"):
        super().__init__(model)
        image = model.schema.fields[field]
        self.field, self.channels = field, image.shape[0]
        height, width = image.shape[1:]
        if patch is not None and (patch < 1 or height % patch or width % patch):
            fits = [p for p in range(2, min(height, width) + 1) if height % p == 0 and width % p == 0]
            raise RecipeError(
                f"patches of {patch} pixels do not fit images of {height} x {width}; "
                f"patches that fit: {', '.join(map(str, fits[:8])) or 'none'} (--set tokenizer.patch=...)"
            )
        self.patch = patch or default_patch(height, width)
        if min(height, width) < 2 * self.patch:
            raise RecipeError(f"images of {height} x {width} are too small for patches of {self.patch} pixels")
        self.streams = {field: self.patch * self.patch * self.channels}
        self.grid = (height // self.patch, width // self.patch)
        self.pitch = (float(self.patch), float(self.patch))
        scale = torch.tensor(image.std, dtype=torch.float32)
        self.register_buffer("mean", torch.tensor(image.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", scale, persistent=False)

    mean: Tensor
    std: Tensor

    @property
    def crop(self) -> tuple[int, int]:
        """(H, W) of a training sample in pixels: whole patches."""
        return self.grid[0] * self.patch, self.grid[1] * self.patch

    def forward(self, sample: Sample) -> Tokens:
        image = sample[self.field]
        h, w = image.shape[2] // self.patch, image.shape[3] // self.patch
        if h * self.patch != image.shape[2] or w * self.patch != image.shape[3]:
            raise ValueError(f"images of {tuple(image.shape[2:])} pixels are not whole patches of {self.patch}")
        x = (image.float() - self.mean[:, None, None]) / self.std[:, None, None]
        x = self.patches(x)
        pos = (grid_index((h, w), x.device) + 0.5) * self.patch
        valid = None
        if "extent" in sample:
            valid = (pos - 0.5 * self.patch < sample["extent"][:, None]).all(-1)  # B N
        return Tokens({self.field: x}, pos[None], valid, grid=(h, w))

    def patches(self, images: Tensor) -> Tensor:
        """Standardised images (B, C, H, W), whole patches, to patches (B, N, patch * patch * C)."""
        x = images.unflatten(2, (-1, self.patch)).unflatten(4, (-1, self.patch))  # B C h p w p
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # B hw ppC

    def images(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Standardised patches (B, N, patch * patch * C) back to standardised images (B, C, H, W)."""
        x = x.unflatten(1, grid).unflatten(3, (self.patch, self.patch, self.channels))  # B h w p p C
        return x.permute(0, 5, 1, 3, 2, 4).flatten(2, 3).flatten(3)

    def raw(self, images: Tensor) -> Tensor:
        """Standardised images (B, C, H, W) back to the units of the data."""
        return images * self.std[:, None, None] + self.mean[:, None, None]


class Cells(Part):
    """Rows of a table to one token a column.

    (B, F) with NaN for a missing cell -> stream `table` (B, F, 1), scaled by column, 0 where missing. `valid` is False
    where a cell is missing, and None where neither the schema nor the batch lacks any. `pos` is the number of the
    column.

    Args:
        standardise: by mean and deviation; otherwise by range, to 0..1 (ReMasker, arXiv:2309.13793, section 4.1).
        field: of the schema.
    """

    takes = "table"
    renderer = "anymask.reports.tables:Rows"

    def __init__(self, model: Model, *, standardise: bool = True, field: str = "table"):
        super().__init__(model)
        table = model.schema.fields[field]
        self.field, self.streams = field, {field: 1}
        self.grid, self.pitch = table.shape, (1.0,)
        self.gaps = any(table.gaps)
        low, high = (torch.tensor(values, dtype=torch.float64) for values in (table.lows, table.highs))
        shift, scale = low, torch.where(high > low, high - low, 1.0)
        if standardise:
            shift, scale = (torch.tensor(values, dtype=torch.float64) for values in (table.mean, table.std))
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    shift: Tensor
    scale: Tensor

    def forward(self, sample: Sample) -> Tokens:
        table = sample[self.field]
        valid = ~table.isnan()
        # Doubles, as columns such as years and times are large beside their spread.
        x = torch.where(valid, (table.double() - self.shift) / self.scale, 0.0).float()
        pos = grid_index(self.grid, x.device) + 0.5
        some = self.gaps or not valid.all()
        return Tokens({self.field: x[..., None]}, pos[None], valid if some else None, grid=self.grid)

    def raw(self, x: Tensor) -> Tensor:
        """Scaled cells (B, F, 1) back to the units of the data, (B, F) float64."""
        return x[..., 0].double() * self.scale + self.shift


class Pieces(Part):
    """Texts to one token for each piece of their vocabulary.

    (B, N) numbers of pieces, -1 behind the end of a text -> integer stream `text` (B, N). `pos` is the place in the
    text. There is no grid, as texts vary in length. Special tokens at the start and the end are not part of a text: an
    encoder has a CLS token of its own.

    Args:
        field: of the schema.
    """

    takes = "text"
    renderer = "anymask.reports.texts:Sentences"

    def __init__(self, model: Model, *, field: str = "text"):
        super().__init__(model)
        text = model.schema.fields[field]
        self.field, self.grid, self.pitch = field, None, (1.0,)
        self.longest, self.mask_id = text.shape[0], int(text.more["mask"])
        self.counts = {field: text.more["counts"]}  # of each piece in the training data
        self.streams = {field: -len(text.more["counts"])}

    def forward(self, sample: Sample) -> Tokens:
        text = sample[self.field].long()
        pos = torch.arange(text.shape[1], device=text.device, dtype=torch.float32) + 0.5
        return Tokens({self.field: text.clamp(min=0)}, pos[None, :, None], text >= 0)


def grid_index(grid: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """(N, P) float index of each cell of a grid along each axis, last axis fastest."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(math.prod(grid), len(grid))
