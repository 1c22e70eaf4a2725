"""Light augmentation of a whole batch at once, for fine-tuning on data that lie in memory."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask import keyed
from anymask.data import Schema
from anymask.engine import Sample

SMALL = 24  # pixels of the short side; smaller images are shifted only, as cropping and mirroring change what they show
AREA = (0.6, 1.0)  # share of the area that a crop has
ASPECT = (3 / 4, 4 / 3)


def augmented(batch: Sample, schema: Schema) -> Sample:
    """The batch with its images cropped and mirrored (below 24 pixels: shifted), as `light` does to single images. What
    is drawn depends on `key` alone. Images become float32 in raw units; other fields stay as they are, and so do images
    beside maps of the same scene, which would no longer lie on each other."""
    images = [name for name, field in schema.fields.items() if field.kind == "image"]
    if any(len(field.shape) == 3 and name not in images for name, field in schema.fields.items()):
        return batch
    return {**batch, **{name: _image(batch[name], batch["key"]) for name in images}}


def _image(images: Tensor, key: Tensor) -> Tensor:
    side = min(images.shape[-2:])
    return shifted(images, key, max(1, side // 8)) if side < SMALL else cropped(images, key)


def shifted(images: Tensor, key: Tensor, pad: int) -> Tensor:
    """(B, C, H, W) float32, each image moved by up to `pad` whole pixels, its border reflected."""
    h, w = images.shape[-2:]
    offset = (keyed.uniform(key, 2) * (2 * pad + 1)).long()  # B 2
    padded = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect")
    rows = offset[:, :1] + torch.arange(h, device=key.device)  # B H
    columns = offset[:, 1:] + torch.arange(w, device=key.device)  # B W
    at = torch.arange(len(images), device=key.device)[:, None, None]
    return padded[at, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def cropped(images: Tensor, key: Tensor) -> Tensor:
    """(B, C, H, W) float32: of each image a crop of random area and shape, resized to the whole size (bilinear); half
    of them are mirrored."""
    draws = keyed.uniform(key, 5)
    area = AREA[0] + (AREA[1] - AREA[0]) * draws[:, 0]
    low, high = (math.log(v) for v in ASPECT)
    aspect = torch.exp(low + (high - low) * draws[:, 1])
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)  # shares of the sides
    mirror = torch.where(draws[:, 4] < 0.5, -1.0, 1.0)
    theta = torch.zeros(len(images), 2, 3, device=key.device)
    theta[:, 0, 0], theta[:, 0, 2] = width * mirror, (1 - width) * (2 * draws[:, 2] - 1)
    theta[:, 1, 1], theta[:, 1, 2] = height, (1 - height) * (2 * draws[:, 3] - 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
