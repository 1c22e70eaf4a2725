"""Made-up data to check a recipe on: a schema, and batches that have something to learn."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from anymask import keyed
from anymask.data import Field, Schema
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


@functools.cache
def mixed_schema(*kinds: str) -> Schema:
    """A schema of made-up data with a part of each kind, each missing in some samples."""
    fields = {kind: replace(kind_of(kind).example_field(kind), missing=1 / (len(kinds) + 1)) for kind in kinds}
    return Schema(fields=fields, count=64, labels=None, source="a made-up mix", fingerprint="made-up")


def default_schema(recipe: Recipe) -> Schema:
    """The made-up schema that serves a recipe: of the kind that its tokenizer takes, or of several."""
    taken = getattr(getattr(recipe.tokenizer, "part", None), "takes", None)
    if isinstance(taken, tuple):
        return mixed_schema(*(recipe.tokenizer.args.get("kinds") or taken))
    return example_schema(recipe.kind or "image")


def batch_of(schema: Schema, count: int = 4, seed: int = 0) -> Sample:
    """A made-up batch of `count` samples with the fields of `schema`."""
    index = torch.arange(count)
    batch = {"index": index, "key": keyed.keys(seed, 0, index), "label": index % 2}
    for n, field in enumerate(schema.fields.values()):
        batch |= kind_of(field.kind).example_batch(field, count, seed)
        if field.missing:  # in turn: the first sample has every part
            batch |= without(batch, field, (index - 1) % (len(schema.fields) + 1) == n)
    return batch


def without(batch: Sample, field: Field, gone: torch.Tensor) -> Sample:
    """The part of a batch, missing in the samples that `gone` (B,) says."""
    kind, values = kind_of(field.kind), batch[field.name].clone()
    absent = kind.pad([kind.absent(field)], 1)[0][0]
    for row in gone.nonzero()[:, 0].tolist():  # of kinds that vary in length, padding fills the row
        values[row] = absent if absent.shape == values[row].shape else absent.flatten()[0]
    return {field.name: values, f"{field.name}.present": ~gone}
