"""Run folders: everything that a training run leaves, readable without unpickling or importing anything.

run.json              resolved recipe, size, schema, settings (also what `auto` chose), versions, seed
model.safetensors     weights of the whole model at the last save
encoder.safetensors   tokenizer, stem and encoder alone
state.safetensors     the whole training state, to go on from (see train/state.py)
history.npz           what it made of a few fixed samples at some moments (see train/history.py)
evaluation.json       the table of the probe after training
evaluations/          a table for each task that `anymask evaluate` measured
metrics.csv, pictures/, stages/<name>/ (a run folder for each earlier stage)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from anymask.data import Schema, Source, StreamSource, open_source
from anymask.data.source import AnySource
from anymask.engine import Model
from anymask.errors import AnymaskError
from anymask.recipe import Recipe, Size

FORMAT = 1
EVALUATION = "evaluation.json"
EVALUATIONS = "evaluations"
# Options of `open_source` that also hold for other data that a run is used on; others name a part of its own data.
LASTING = (
    "na_values", "categories", "events", "strict", "kind", "window", "stride", "parts", "text", "canonical", "rate",
    "derive",
)  # fmt: skip
ENCODER_PARTS = ("tokenizer", "stem", "encoder")


class RunError(AnymaskError):
    """A folder that is no run, or a run that cannot be used so; the message names the mend."""


@dataclass
class Run:
    """One training run in its folder. `settings` holds every option as resolved, `seed` among them."""

    folder: Path
    recipe: Recipe
    size: Size
    schema: Schema
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """
        Raises:
            RunError: there is no run in `folder`, or one of a newer format.
            RecipeError: the run's recipe is in a file of the user's that has not been loaded (`anymask.recipe.find`).
        """
        folder = Path(folder).expanduser()
        file = folder / "run.json"
        if not file.is_file():
            inside = sorted(p.parent.name for p in folder.glob("*/run.json")) if folder.is_dir() else []
            hint = f"; it holds the runs {', '.join(inside[:5])}" if inside else ""
            raise RunError(f"{folder} is no run folder (it has no run.json){hint}; `anymask pretrain` makes one")
        try:
            data = json.loads(file.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{file} is damaged ({error}); restore it from a copy, or train again") from None
        needed = ("format", "recipe", "size", "schema", "settings", "versions")
        missing = [name for name in needed if not isinstance(data, dict) or name not in data]
        if missing:
            raise RunError(f"{file} has no {missing[0]!r}, so it is not anymask's; `anymask pretrain` makes runs")
        if data["format"] > FORMAT:
            raise RunError(
                f"{folder} was written in format {data['format']}, this anymask reads up to {FORMAT}: upgrade it"
            )
        return cls(
            folder=folder,
            recipe=Recipe.from_json(data["recipe"]),
            size=Size(**data["size"]),
            schema=Schema.from_json(json.dumps(data["schema"])),
            settings=data["settings"],
            versions=data["versions"],
        )

    def save(self) -> None:
        """Write run.json."""
        data = {
            "format": FORMAT,
            "recipe": self.recipe.to_json(),
            "size": self.size._asdict(),
            "schema": json.loads(self.schema.to_json()),
            "settings": self.settings,
            "versions": self.versions,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "run.json", json.dumps(data, indent=1).encode())

    def model(self, *, trained: bool = True) -> Model:
        """The model, in evaluation mode, with the weights of the last save, or (`trained=False`) as it was before the
        first step. An earlier stage's model comes from its own run below this one."""
        model = self.build()
        if trained:
            file = self.folder / "model.safetensors"
            if not file.is_file():
                raise RunError(f"{self.folder} has no weights yet: its training ended before the first save; resume it")
            model.load_state_dict(safetensors.torch.load_file(file))
        return model.eval()

    def build(self) -> Model:
        """The model as it is before the first step: its weights depend on the run's seed alone."""
        stages = [stage.slug for stage in self.recipe.stages.get("stages", ())]
        earlier = {name: Run.open(self.folder / "stages" / name).model() for name in stages}
        return fresh(self.recipe, self.schema, self.size, seed=self.settings.get("seed", 0), earlier=earlier)

    def source(self, spec: object, *, labelled: bool = True, **given: Any) -> AnySource:
        """`open_source(spec)` as the run's own data were opened, but for what is `given`; a Source stays as it is.

        The columns of labels and groups are those of the run's data too, if `labelled`.
        """
        if isinstance(spec, (Source, StreamSource)):
            return spec
        saved = self.settings.get("opening", {})
        names = {*LASTING, *(("label", "group") if labelled else ())}
        if "parts" in saved:  # which may be parts by group
            names.add("group")
        opening = {name: value for name, value in saved.items() if name in names}
        return open_source(spec, **{**opening, **{name: value for name, value in given.items() if value}})

    def save_weights(self, model: Model) -> None:
        """Write model.safetensors and encoder.safetensors.

        Raises:
            RunError: a weight is not finite; nothing is written then.
        """
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        bad = [n for n, t in weights.items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if bad:
            raise RunError(f"{bad[0]} is not finite in {len(bad)} of {len(weights)} tensors: weights are not written")
        encoder = {n: t for n, t in weights.items() if n.partition(".")[0] in ENCODER_PARTS}
        save_tensors(self.folder / "model.safetensors", weights)
        save_tensors(self.folder / "encoder.safetensors", encoder, {"recipe": self.recipe.slug})

    def keep(self, name: str, table: Mapping[str, Any]) -> Path:
        """Write a table of `evaluate` to evaluations/<name>.json."""
        words = "".join(c if c.isalnum() or c in " .-_" else "-" for c in name)
        path = self.folder / EVALUATIONS / f"{words}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(table, indent=1).encode())
        return path


def fresh(recipe: Recipe, schema: Schema, size: Size, *, seed: int, earlier: Mapping[str, Model]) -> Model:
    """A model before its first step; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recipe.build(schema, size, earlier=earlier)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """A safetensors file with text in its header, written atomically. Tied tensors are written once for each name."""
    held: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in held else tensor
        held.add(place)
    write_atomically(path, safetensors.torch.save(apart, metadata={"format": "pt", **(about or {})}))


def write_atomically(path: Path, data: bytes) -> None:
    """All of `data` at `path`, or what was there before: also when the machine stops, or the disk is full. A process
    that is killed meanwhile leaves a file `.<name>.<process>`, which `sweep` removes."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror}); what was there before is unharmed"
        ) from error


def sweep(folder: Path) -> None:
    """Removes what killed processes left half written in a run folder."""
    names = ("run.json", "model.safetensors", "encoder.safetensors", "state.safetensors", "metrics.csv", "history.npz")
    for name in (*names, EVALUATION):
        for part in folder.glob(f".{name}.*"):
            part.unlink(missing_ok=True)
