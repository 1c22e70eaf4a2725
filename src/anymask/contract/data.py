"""Made-up data to check a recipe on: a schema, and batches that have something to learn."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from anymask import keyed
from anymask.data import Field, Schema
from anymask.engine import Sample
from anymask.errors import AnymaskError
from anymask.recipe import Recipe, Size

SMALL = Size(32, 2, 2, 32, 2, 2)
SHAPE = (3, 24, 32)  # not square, so that rows and columns cannot be confused


def pictures(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    """(count, C, H, W) uint8: smooth random images, so that a patch says something of its neighbours."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape[0], 4, 5, generator=generator)
    fine = F.interpolate(coarse, size=shape[1:], mode="bicubic", align_corners=True)
    fine = fine + 0.02 * torch.randn(fine.shape, generator=generator)
    return (128 + 45 * fine).round().clamp(0, 255).to(torch.uint8)


@functools.cache
def picture_schema(shape: tuple[int, ...] = SHAPE) -> Schema:
    values = pictures(64, shape).float()
    image = Field(
        name="image",
        kind="image",
        dtype="uint8",
        shape=shape,
        sizes=(shape[1:],) * 3,
        low=0.0,
        high=255.0,
        mean=tuple(values.mean((0, 2, 3)).tolist()),
        std=tuple(values.std((0, 2, 3)).tolist()),
    )
    return Schema(fields={"image": image}, count=64, labels=None, source="made-up pictures", fingerprint="made-up")


def default_schema(recipe: Recipe) -> Schema:
    """The made-up schema that serves a recipe."""
    return picture_schema()


def batch_of(schema: Schema, count: int = 4, seed: int = 0) -> Sample:
    """A made-up batch of `count` samples with the fields of `schema`.

    Raises:
        AnymaskError: there is no made-up data of one of its kinds.
    """
    index = torch.arange(count)
    batch = {"index": index, "key": keyed.keys(seed, 0, index), "label": index % 2}
    for name, field in schema.fields.items():
        if field.kind != "image":
            raise AnymaskError(
                f"there is no made-up data of kind {field.kind!r} (for {name!r}); give check_recipe a batch of your own"
            )
        values = pictures(count, field.shape, seed).float() / 255
        values = field.low + values * (field.high - field.low)
        batch[name] = values.to(
            torch.uint8 if field.dtype == "uint8" else torch.int32 if "int" in field.dtype else torch.float32
        )
    return batch
