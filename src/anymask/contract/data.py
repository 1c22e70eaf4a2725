"""Made-up data to check a recipe on: a schema, and batches that have something to learn."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from anymask import keyed
from anymask.data import Schema
from anymask.data.kind import kind_of
from anymask.data.kinds.image import EXAMPLE as SHAPE
from anymask.data.kinds.image import smooth
from anymask.engine import Sample
from anymask.recipe import Recipe, Size

SMALL = Size(32, 2, 2, 32, 2, 2)


def pictures(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    """(count, C, H, W) uint8: smooth random images, so that a patch says something of its neighbours."""
    return smooth(count, shape, seed)


@functools.cache
def example_schema(kind: str) -> Schema:
    """A schema of made-up data with one part, of a kind."""
    field = kind_of(kind).example_field(kind)
    source = "made-up pictures" if kind == "image" else f"a made-up {kind}"
    return Schema(fields={kind: field}, count=64, labels=None, source=source, fingerprint="made-up")


@functools.cache
def picture_schema(shape: tuple[int, ...] = SHAPE) -> Schema:
    """The same of pictures of any shape (C, H, W)."""
    if shape == SHAPE:
        return example_schema("image")
    values = pictures(64, shape).float()
    field = replace(
        example_schema("image").fields["image"],
        shape=shape,
        sizes=(shape[1:],) * 3,
        mean=tuple(values.mean((0, 2, 3)).tolist()),
        std=tuple(values.std((0, 2, 3)).tolist()),
    )
    return replace(example_schema("image"), fields={"image": field})


def default_schema(recipe: Recipe) -> Schema:
    """The made-up schema that serves a recipe: of the kind that its tokenizer takes."""
    return example_schema(recipe.kind or "image")


def batch_of(schema: Schema, count: int = 4, seed: int = 0) -> Sample:
    """A made-up batch of `count` samples with the fields of `schema`."""
    index = torch.arange(count)
    batch = {"index": index, "key": keyed.keys(seed, 0, index), "label": index % 2}
    for field in schema.fields.values():
        batch |= kind_of(field.kind).example_batch(field, count, seed)
    return batch
