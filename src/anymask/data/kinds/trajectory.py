"""Trajectories of agents: (2, T, A) float32 in metres, the agent that a sample is about first, then its neighbours; NaN
where an agent is not seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..collate import tensor
from ..columns import ArrayColumn, Blobs, Column
from ..errors import DataError, SchemaError, Unreadable, nothing_readable, some
from ..kind import Kind, Meter, Settled, Value
from ..options import Options
from ..schema import Field
from ..source import Source
from . import _tracks
from ._tracks import AgentColumn

EXAMPLE = (2, 12, 5)  # coordinates, steps and agents of made-up scenes
ENDINGS = (".txt", ".csv")


class TrajectoryKind(Kind):
    name = "trajectory"
    endings: frozenset[str] = frozenset()  # a file is a scene of many samples
    recipe = "forecast-mae"
    renderer = "anymask.reports.paths:Paths"
    samples_seen, most_epochs = 150_000, 60
    elastic = True
    asked_first = True  # its files are .txt

    def open(self, spec: Any, options: Options) -> Source | None:
        if not isinstance(spec, (str, os.PathLike)):
            return None
        path = Path(spec).expanduser()
        asked = options.kind == self.name
        if path.is_dir():
            files = _files(path)
            like = [_tracks.looks_like(file) for file in files[:8]]
            if not files or not (asked or 2 * sum(like) > len(like)):  # a spoiled one is named when it is read
                return None
        elif path.suffix.lower() in ENDINGS and path.is_file() and (asked or _tracks.looks_like(path)):
            files = [path]
        else:
            return None
        return _from_files(files, options, path.name)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError("a file of trajectories is a scene with many samples; put scenes into one folder, without "
                        "folders of classes or splits")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if options.kind != self.name or array.ndim not in (3, 4) or array.dtype.kind not in "iuf":
            return None
        array = array[:, None] if array.ndim == 3 else array  # N A T 2
        if array.shape[3] != 2:
            raise DataError(f"{name} has shape {array.shape}; trajectories are arrays (N, T, 2), or (N, A, T, 2) with "
                            "neighbours")
        return ArrayColumn(self, array.transpose(0, 3, 2, 1), dtype="float32", convert=_single,
                           mapped=isinstance(array, np.memmap))

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        return None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise DataError(f"size={size} of '{name}' is the agents of a training sample: a number from 1 on")
        return TrajectoryMeter(name, size, column)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        if np.isinf(batch).any():
            row = int(np.argwhere(np.isinf(batch))[0][0])
            raise DataError(f"{names(row)} holds an infinite number; make it NaN, which is not seen")
        gone = np.isnan(batch[..., 0]).any((1, 2))
        if gone.any():
            raise DataError(f"the agent that {names(int(np.argmax(gone)))} is about is not seen in every step; leave "
                            "it out")

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape[1:]

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        """The nearest agents, as many as the field has; NaN for those that lack."""
        if value.shape[1] != field.shape[1]:
            raise DataError(f"a sample of '{field.name}' has {value.shape[1]} steps, others have {field.shape[1]}")
        return _wider(value[:, :, : field.shape[2]], field.shape[2])

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return value[:, :, : field.shape[2]]

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """NaN says which agents are padded: no extents."""
        widest = max(value.shape[2] for value in values)
        return tensor(np.stack([_wider(value, widest) for value in values])), None

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        if trained.shape[1] != given.shape[1]:
            raise SchemaError(f"'{given.name}' has windows of {given.shape[1]} steps in {given_by}; the model was "
                              f"trained on {trained.shape[1]} ({trained_on}): give --window {trained.shape[1]}")
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, middle, high = (size[0] for size in field.sizes)
        return [(field.name, f"{field.shape[1]} steps, {field.more['past']} of them past; the agent moves "
                             f"{field.more['reach']:.3g} m in the future (root mean square)"),
                (f"{field.name} agents", f"{low} to {high}, median {middle}; trained with the nearest "
                                         f"{field.shape[2]}")]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        x = values[:, :, :, : max(1, limit // (2 * field.shape[1]))].float()
        now = x[:, :, field.more["past"] - 1, :1, None].swapaxes(2, 3)  # B 2 1 1
        return ((x - now) / field.more["reach"]).nan_to_num().flatten(1)

    def flattened(self, field: Field, limit: int) -> str:
        return "positions beside where the agent is at the last step of the past, 0 for agents that are not seen"

    def example_field(self, name: str) -> Field:
        meter = TrajectoryMeter(name, EXAMPLE[2], None)
        for n, value in enumerate(crowds(64, EXAMPLE, 0)):
            meter.add(str(n), value)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return torch.from_numpy(crowds(count, field.shape, seed))

    def model_size(self, field: Field) -> str:
        return "nano"


class TrajectoryMeter(Meter):
    """Agents of a sample, range, and how far the agent comes in the future."""

    most = 1_000

    def __init__(self, name: str, size: int | None, column: Column | None) -> None:
        self.name, self.size = name, size
        self.agents: list[int] = []
        self.seen = self.absent = 0
        self.low, self.high, self.square = np.inf, -np.inf, 0.0
        self.steps: int | None = None

    def add(self, name: str, value: Value | None) -> None:
        self.seen += 1
        if value is None:
            self.absent += 1
            return
        KIND.check(value[None], lambda _: name)
        if self.steps is not None and value.shape[1] != self.steps:
            raise DataError(f"{name} has {value.shape[1]} steps, others have {self.steps}; give all the same")
        self.steps = value.shape[1]
        past = _tracks.past_of(self.steps)
        self.agents.append(int(np.isfinite(value[0]).any(0).sum()))
        self.low, self.high = min(self.low, float(np.nanmin(value))), max(self.high, float(np.nanmax(value)))
        x = value[:, :, 0].astype(np.float64)
        self.square += float(((x[:, past:] - x[:, past - 1, None]) ** 2).sum(0).mean())

    def field(self) -> Field:
        if self.steps is None:
            raise nothing_readable(self.name)
        agents = sorted(self.agents)
        common = agents[min(len(agents) - 1, int(_tracks.SHARE * len(agents)))]
        width = self.size or min(_tracks.MOST, common)
        reach = float(np.sqrt(self.square / len(agents))) or 1.0
        return Field(name=self.name, kind="trajectory", dtype="float32", shape=(2, self.steps, width),
                     sizes=((agents[0],), (agents[len(agents) // 2],), (agents[-1],)), low=self.low, high=self.high,
                     mean=(0.0, 0.0), std=(1.0, 1.0), missing=self.absent / self.seen, columns=("x", "y"),
                     units=("m", "m"), more={"past": _tracks.past_of(self.steps), "reach": reach})


def crowds(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(count, 2, T, A) float32: agents that walk at constant speed and slowly turn; some come late or leave."""
    rng = np.random.default_rng([seed, 11])
    _, steps, agents = shape
    heading = rng.uniform(0, 2 * np.pi, (count, 1, agents)) + rng.normal(0, 0.06, (count, 1, agents)) * np.arange(
        steps
    )[:, None]
    speed = rng.uniform(0.2, 0.7, (count, 1, agents))
    x = np.cumsum(np.stack([speed * np.cos(heading), speed * np.sin(heading)], 1), 2)
    x += rng.normal(0, 3, (count, 2, 1, agents)) + rng.normal(0, 0.02, x.shape)
    for n in range(count):
        if agents > 1 and n % 2:
            x[n, :, : steps // 4, 1] = np.nan
        if agents > 2 and n % 3 == 0:
            x[n, :, steps * 3 // 4 :, 2] = np.nan
        if agents > 3 and n % 4 == 1:
            x[n, :, :, 3] = np.nan
    return x.astype(np.float32)


def _wider(value: np.ndarray, agents: int) -> np.ndarray:
    if value.shape[2] == agents:
        return value
    out = np.full((*value.shape[:2], agents), np.nan, dtype=np.float32)
    out[:, :, : value.shape[2]] = value
    return out


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def _files(root: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(root))
    except PermissionError:  # whoever opens the folder says so
        return []
    files = [root / name for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")]
    return [file for file in files if file.is_file() and file.stem.lower() != "readme"]


def _from_files(files: list[Path], options: Options, name: str) -> Source:
    if options.label is not None or options.group is not None or options.split is not None:
        raise DataError(f"{name} has scenes, which are the groups; it has no labels and no splits: leave label=, "
                        "group= and split= out (--ignore SCENE leaves a scene out)")
    unknown = [word for word in options.ignore if word not in {file.stem for file in files}]
    if unknown:
        raise DataError(f"{name} has no scene '{unknown[0]}' to leave out (--ignore); there is: "
                        f"{some([file.stem for file in files], 12)}")
    scenes, notes = [], []
    for file in files:
        if file.stem in options.ignore:
            continue
        try:
            scenes.append(_tracks.read(file))
        except Unreadable as error:
            if options.strict:
                raise DataError(f"{error}; mend or remove it, or leave strict= out") from error
            notes.append(f"left out {error}")
    if not scenes:
        raise DataError(f"no scene of {name} can be read; first: {notes[0] if notes else 'all are ignored'}")
    length = _tracks.WINDOW if options.window is None else options.window
    past, stride = _tracks.past_of(length), 1 if options.stride is None else options.stride
    if stride < 1:
        raise DataError(f"stride={stride} (--stride) counts steps from 1")
    column = AgentColumn(scenes, length, past, stride)
    if not len(column):
        longest = max(len(track) for scene in scenes for track in scene.tracks)
        raise DataError(f"no agent of {name} is seen in {length} steps one after another (the longest track has "
                        f"{longest}); give a shorter window (--window)")
    bridged = sum(scene.bridged for scene in scenes)
    if bridged:
        notes.append(f"{bridged:,} steps are missing within tracks; no window of an agent spans its own")
    groups = np.array([scenes[n].name for n in column.at[:, 0]])
    ids = [column.name_of(row) for row in range(len(column))]
    return Source(name=name, columns={KIND.name: column}, ids=ids, groups=groups, strict=options.strict, notes=notes)


KIND = TrajectoryKind()
