"""What a run will do, found out before anything expensive: sizes, steps, memory, time, and all that would fail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anymask.data import Schema, infer_schema, open_source
from anymask.data.kind import Kind, kind_of
from anymask.data.loader import aligned
from anymask.data.training import lengths_of, padding_share
from anymask.engine import Model
from anymask.recipe import SIZES, P, Recipe, RecipeError, Size, catalogue, find
from anymask.train.optim import adamw, warmup_cosine

from . import measure
from .errors import TrainError
from .folder import check_disk, check_folder, default_folder
from .precision import choose
from .progress import duration

MIXED = "multimae"  # the recipe that is the default for samples of several parts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run before it starts.

    `shapes` are those of the parts of a training sample. `batch_size` is of one micro-step on one device; `batch`
    counts all devices and accumulated micro-steps. `padding` is the share of padded positions where samples vary in
    length, and what it would be in random batches. `lr` is the peak rate. `memory` is in bytes, and `memory_how`
    says how it was found. `seconds` is None unless a trial was asked for. `notes` are facts that a person may want
    to act on.
    """

    source: Any
    recipe: Recipe
    size: Size
    size_name: str
    schema: Schema
    shapes: dict[str, tuple[int, ...]]
    batch_size: int
    accumulate: int
    devices: int
    steps: int
    epochs: float | None
    padding: tuple[float, float] | None
    precision: str
    precision_why: str
    lr: float
    lr_why: str
    parameters: int
    encoder_parameters: int
    memory: float
    memory_how: str
    seconds: float | None
    out: Path
    notes: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        return self.batch_size * self.accumulate * self.devices

    @property
    def trained_at(self) -> tuple[int, ...]:
        """Shape of a training sample, of its first part."""
        return next(iter(self.shapes.values()))

    @property
    def micro_steps(self) -> int:
        return self.steps * self.accumulate

    def settings(self) -> dict[str, Any]:
        """What training keeps to."""
        names = ("steps", "epochs", "batch_size", "accumulate", "devices", "precision", "lr", "padding")
        return {name: getattr(self, name) for name in names}

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for people."""
        epochs = "a stream" if self.epochs is None else f"{self.epochs:.4g} epochs of {self.schema.count:,} samples"
        parts = [f"{self.batch_size} samples"]
        parts += [f"{self.accumulate} accumulated"] * (self.accumulate > 1) + [f"{self.devices} devices"] * (
            self.devices > 1
        )
        rows = [
            ("recipe", f"{self.recipe.slug} ({self.recipe.name}, {self.recipe.paper or 'no paper'})"),
            ("size", f"{self.size_name}: encoder {self.size.depth} x {self.size.width}"),
            ("parameters", f"{self.parameters:,}, of these {self.encoder_parameters:,} in the encoder"),
            ("trained at", self._shapes()),
            ("batch", f"{self.batch} ({' x '.join(parts)})" if len(parts) > 1 else str(self.batch)),
            ("steps", f"{self.steps:,} ({epochs})"),
            ("learning rate", self.lr_why),
            ("precision", f"{self.precision} ({self.precision_why})"),
            ("memory", f"{self.memory / 2**20:,.0f} MiB ({self.memory_how})"),
            ("output", str(self.out)),
        ]
        if self.padding is not None:
            here, random = (f"{share:.1%}" for share in self.padding)
            rows.append(("padding", f"{here} of positions, in batches of similar lengths ({random} in random ones)"))
        if self.seconds is not None:
            rows.append(("expected time", f"{duration(self.seconds)} (a few steps tried on this machine)"))
        return rows + [("note", note) for note in self.notes]

    def _shapes(self) -> str:
        each = {name: " x ".join(map(str, shape)) for name, shape in self.shapes.items()}
        return ", ".join(text if len(each) == 1 else f"{name} {text}" for name, text in each.items())


def plan(
    source: Any = None,
    *,
    recipe: str | Recipe | None = None,
    size: str | Size | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | str = "auto",
    accumulate: int = 1,
    precision: str = "auto",
    changes: dict[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    devices: int = 1,
    out: str | Path | None = None,
    overwrite: bool = False,
    trial: bool = False,
    writes: bool = True,
    **opening: Any,
) -> Plan:
    """What `pretrain` with the same arguments would do. Reads samples for the schema, builds the model once and runs it
    on two samples; writes nothing.

    Args:
        source: an opened source, or anything that `anymask.data.open_source` takes; `opening` goes there.
        recipe: None = the default of the kind of data.
        steps: optimiser steps, in place of `epochs`.
        trial: also run a few training steps, to tell the time.
        writes: False = the run will leave nothing on disk, so the folder and the disk are not looked at.

    Raises:
        DataError, RecipeError, TrainError: whatever would stop the run; each names the mend.
    """
    for name, value in {"accumulate": accumulate, "devices": devices, "steps": steps or 1}.items():
        if value < 1:
            raise TrainError(f"{name} counts from 1, not {value}")
    made = None if recipe is None else find(recipe)  # a name that is wrong is told before data are read
    source = open_source(source, **opening)
    schema = infer_schema(source, size=image_size)
    made = (made or find(default_recipe(schema))).but(changes or {})
    fitting(made, schema)
    name, widths = size_of(size or default_size(schema))
    with torch.random.fork_rng(devices=[]):
        model = build(made, schema, widths)
        crop = cropped(schema, model)
        kind, why = choose(precision, widths.width)
        sample = measure.longest_batch(source, crop, 2)
        kept = measure.activation_bytes(model, sample, kind)
        chosen, notes = _batch(batch_size, schema.count, devices, model, kept)
        batch = chosen * accumulate * devices
        count, epochs_ = _steps(epochs, steps, schema, batch)
        optimiser = optimiser_of(made, model, batch)
        seconds = None
        if trial:
            few = measure.first_batch(source, crop, chosen)
            seconds = measure.seconds_per_step(model, optimiser, few, kind) * count * accumulate
    folder = Path(out).expanduser() if out else default_folder(made.slug, schema.source)
    if writes:
        check_folder(folder, overwrite=overwrite)
        check_disk(folder, model)
    return Plan(
        source=source,
        recipe=made,
        size=widths,
        size_name=name,
        schema=schema,
        shapes={name: field.shape for name, field in crop.fields.items()},
        batch_size=chosen,
        accumulate=accumulate,
        devices=devices,
        steps=count,
        epochs=epochs_,
        padding=_padding(source, crop, chosen * devices),
        precision=kind,
        precision_why=why,
        lr=max(group["lr"] for group in optimiser.param_groups),
        lr_why=_lr_words(made, optimiser, batch, widths.width),
        parameters=sum(p.numel() for p in model.parameters()),
        encoder_parameters=sum(p.numel() for part in (model.stem, model.encoder) for p in part.parameters()),
        memory=_memory(model, kept, chosen),
        memory_how="16 bytes a parameter, and what a backward pass keeps, measured on 2 and 4 samples",
        seconds=seconds,
        out=folder,
        notes=(*_left_out(source), *notes, *_augment_notes(made, crop)),
    )


def _padding(source: Any, schema: Schema, batch: int) -> tuple[float, float] | None:
    lengths = None if source.count is None else lengths_of(aligned(source, schema), schema)
    return None if lengths is None else padding_share(lengths, batch)


def _left_out(source: Any) -> tuple[str, ...]:
    """Which files cannot be read."""
    skipped = list(getattr(source, "skipped", ()))
    if not skipped:
        return ()
    names = ", ".join(f"{name} ({reason})" for name, reason in skipped[:3])
    more = f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
    return (f"{len(skipped):,} left out, not readable: {names}{more}; --strict makes that an error",)


def build(recipe: Recipe, schema: Schema, size: Size) -> Model:
    """The model with fresh weights, that of earlier stages too."""
    earlier = {stage.slug: build(stage, schema, size) for stage in recipe.stages.get("stages", ())}
    return recipe.build(schema, size, earlier=earlier)


def cropped(schema: Schema, model: Model) -> Schema:
    """The schema at the size that the tokenizer takes: whole patches."""
    crop = getattr(model.tokenizer, "crop", None)
    if crop is None:
        return schema
    crops = crop if isinstance(crop, Mapping) else {model.tokenizer.field: crop}
    fields = {n: replace(schema.fields[n], shape=(*schema.fields[n].shape[: -len(c)], *c)) for n, c in crops.items()}
    return replace(schema, fields={**schema.fields, **fields})


def default_recipe(schema: Schema) -> str:
    """The recipe that suits the kind of the part, or several parts."""
    return _kinds(schema)[0].recipe_for(schema) if len(schema.fields) == 1 else MIXED


def fitting(recipe: Recipe, schema: Schema) -> None:
    """Raises RecipeError where a recipe's tokenizer takes no part that the data have; names the recipes that do."""
    have = [field.kind for field in schema.fields.values()]
    if recipe.kind is None or any(recipe.serves(kind) for kind in have):
        return
    fit = [slug for slug in catalogue() if any(find(slug).serves(kind) for kind in have)]
    raise RecipeError(
        f"recipe {recipe.slug!r} takes data of kind {recipe.kind!r}, and {schema.source} has {', '.join(have)}; "
        f"recipes that fit: {', '.join(fit) or 'none'} (--recipe)"
    )


def augmentation(recipe: Recipe, schema: Schema) -> Any:
    """The recipe's augmentation; None for data that are used as they are, such as images too small to be cropped. Of
    several parts a mapping: augmentations that ask for the schema say themselves what they do to which."""
    if recipe.augment is not None and recipe.augment.takes("schema"):
        return recipe.augment(schema=schema)
    if recipe.augment is None or (len(schema.fields) == 1 and _unaugmented(schema)):
        return None
    made = recipe.augment()
    if len(schema.fields) == 1:
        return made
    mine = {name for name, field in schema.fields.items() if recipe.serves(field.kind)}
    return {n: made if n in mine and not kind_of(f.kind).augmentable(f) else None for n, f in schema.fields.items()}


def optimiser_of(recipe: Recipe, model: Model, batch: int) -> torch.optim.Optimizer:
    """The recipe's optimiser for a batch counted over devices and accumulated micro-steps."""
    part = recipe.optimiser or P(adamw)
    return part(model, batch_size=batch) if part.takes("batch_size") else part(model)


def schedule_of(recipe: Recipe, steps: int) -> Any:
    """Optimiser step -> factor of the peak learning rate."""
    part = recipe.schedule or P(warmup_cosine)
    return lambda step: part(step=step, steps=steps)


def default_epochs(schema: Schema) -> float:
    """So many that about as many samples are seen as the kind of data asks for (400,000 images, in 1 to 120 epochs)."""
    assert schema.count is not None
    seen, most = max((kind.samples_seen, kind.most_epochs) for kind in _kinds(schema))
    return float(min(most, max(1, round(seen / schema.count))))


def default_size(schema: Schema) -> str:
    """The size that suits the data, such as "nano" for images of at most 16 pixels, else "tiny"; of several parts the
    largest that one of them asks for."""
    asked = [kind_of(field.kind).model_size(field) for field in schema.fields.values()]
    return max(asked, key=lambda name: SIZES[name].width * SIZES[name].depth)


def _kinds(schema: Schema) -> list[Kind]:
    return [kind_of(field.kind) for field in schema.fields.values()]


def _unaugmented(schema: Schema) -> list[str]:
    """Why parts are used as they are."""
    told = [kind_of(field.kind).augmentable(field) for field in schema.fields.values()]
    return [text for text in dict.fromkeys(told) if text]


def _augment_notes(recipe: Recipe, schema: Schema) -> tuple[str, ...]:
    return () if recipe.augment is None else tuple(_unaugmented(schema))


def size_of(size: str | Size) -> tuple[str, Size]:
    """Name ("own" where it has none) and widths."""
    if isinstance(size, Size):
        return next((name for name, known in SIZES.items() if known == size), "own"), size
    if size not in SIZES:
        raise RecipeError(f"no size {size!r}; there is: {', '.join(SIZES)}")
    return size, SIZES[size]


def _batch(
    asked: int | str, count: int | None, devices: int, model: Model, kept: tuple[float, float]
) -> tuple[int, tuple[str, ...]]:
    """Samples of one micro-step on one device, and notes. "auto": 128, or 64 for sets below 2,000; halved while it is
    larger than the set or does not fit the memory."""
    free = measure.memory_available()
    most = None if count is None else count // devices
    if most is not None and most < 1:
        raise TrainError(f"{count} samples cannot be shared by {devices} devices; lower --devices")
    if asked == "auto":
        batch = 128 if count is None or count >= 2_000 else 64
        fits = lambda n: (most is None or n <= most) and (not free or _memory(model, kept, n) <= 0.8 * free)
        while batch > 1 and not fits(batch):
            batch //= 2
        return batch, ()
    if not isinstance(asked, int) or asked < 1:
        raise TrainError(f"batch_size is 'auto' or a number from 1 on, not {asked!r}")
    if most is not None and asked > most:
        raise TrainError(
            f"a batch of {asked}{f' on each of {devices} devices' if devices > 1 else ''} is larger than the set of "
            f"{count} samples; lower --batch-size to {most} or less"
        )
    need = _memory(model, kept, asked)
    if free and need > free:
        text = f"about {need / 2**30:.1f} GiB of memory are needed and {free / 2**30:.1f} are free: lower --batch-size"
        return asked, (f"{text} and raise --accumulate by the same factor",)
    return asked, ()


def _memory(model: Model, kept: tuple[float, float], batch: int) -> float:
    return sum(p.numel() for p in model.parameters()) * measure.BYTES_PER_PARAMETER + kept[0] + kept[1] * batch


def _steps(epochs: float | None, steps: int | None, schema: Schema, batch: int) -> tuple[int, float | None]:
    """Optimiser steps and epochs (None for a stream)."""
    if epochs is not None and steps is not None:
        raise TrainError("give epochs or steps, not both")
    if epochs is not None and epochs <= 0:
        raise TrainError(f"epochs is a number above 0, not {epochs}")
    count = schema.count
    if count is None:
        if epochs is not None:
            raise TrainError("a stream has no known length, so no epochs; give steps=... (--steps)")
        return steps or math.ceil(max(kind.samples_seen for kind in _kinds(schema)) / batch), None
    if steps is not None:
        return steps, steps * batch / count
    epochs = default_epochs(schema) if epochs is None else float(epochs)
    return max(1, math.ceil(epochs * count / batch)), epochs


def _lr_words(recipe: Recipe, optimiser: torch.optim.Optimizer, batch: int, width: int) -> str:
    peak = max(group["lr"] for group in optimiser.param_groups)
    part = recipe.optimiser or P(adamw)
    if part.part is not adamw:
        return f"{peak:.1e}"
    given = part.defaults()
    base, at, reference = given["lr"], given["lr_batch"], given["lr_width"]
    words = f"{peak:.1e} = {base:.1e} for batch {at}, scaled with the square root of batch {batch}"
    return words + (f" and of {reference} to width {width}" if width < reference else "")
