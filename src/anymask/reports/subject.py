"""One run as a report sees it: what its folder holds, and what its model makes of a few samples."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask import keyed
from anymask.compare import flatten
from anymask.data import DataError, Source, infer_schema, open_source
from anymask.engine import Model, Step
from anymask.errors import AnymaskError
from anymask.parts.several import of_field, view_of
from anymask.recipe import P, RecipeError
from anymask.run import EVALUATION, Run
from anymask.table import Table
from anymask.train import history, measure, metrics, planning, watch

from .renderer import Renderer, alone, content_of, contents, edges_of, marked, parts_of, renderer_of

RATIOS = (0.25, 0.5, 0.75, 0.9)
DRAWS = 8  # masks of one sample
JUDGED = 64  # samples that errors are measured on
CHUNK = 64
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Missing(AnymaskError):
    """Something that a section needs and that is not there; the message says what supplies it."""


@dataclass
class Subject:
    """A run, its letter among those of the report, and its data (None: nothing can be computed, see `why`). A run on
    several parts is drawn by part, see `by_part`: `part` is then the one, and `whole` the run with all of them."""

    run: Run
    letter: str
    name: str
    source: Source | None = None
    why: str = ""
    unmeasured: str = ""  # why there is no evaluation, where one was tried
    samples: int = 600
    seed: int = 0
    evaluation: Table | None = None
    rows: list[dict[str, float]] = field(default_factory=list)
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    part: str = ""
    whole: Subject | None = None

    @classmethod
    def open(cls, folder: Run | str | Path, *, letter: str = "A", name: str = "") -> Subject:
        """What is in the folder of a run; no data, no model."""
        run = folder if isinstance(folder, Run) else Run.open(folder)
        file = run.folder / EVALUATION
        table = Table.from_json(json.loads(file.read_text())) if file.is_file() else None
        rows, kept = metrics.read(run.folder / metrics.NAME), history.read(run.folder / history.NAME)
        return cls(run, letter, name or run.folder.resolve().name, evaluation=table, rows=rows, kept=kept)

    # What training left.

    @property
    def seconds(self) -> float | None:
        """Of training, from the rows of metrics.csv; None without."""
        if not self.rows:
            return None
        steps = np.diff([0.0, *(row["step"] for row in self.rows)])
        settings = self.run.settings
        batch = settings.get("batch_size", 1) * settings.get("accumulate", 1) * settings.get("devices", 1)
        return float(sum(n * batch / row["samples_per_second"] for n, row in zip(steps, self.rows)))

    @property
    def loss(self) -> tuple[float, float] | None:
        """Loss of the first row, and the mean over the last tenth of the rows."""
        if not self.rows:
            return None
        last = self.rows[-max(1, len(self.rows) // 10) :]
        return self.rows[0]["loss"], float(np.mean([row["loss"] for row in last]))

    @property
    def goal(self) -> str:
        """Target and loss in words: losses of runs compare where this is equal."""
        flat = flatten(self.run.recipe)
        return " ".join(f"{path}={text}" for path, text in flat.items() if path.partition(".")[0] in ("target", "loss"))

    # What the model makes of samples.

    @cached_property
    def model(self) -> Model:
        return self.run.model()

    def by_part(self) -> list[Subject]:
        """The run as each of its parts is drawn; itself where it has one part, or no weights."""
        if not (self.run.folder / "model.safetensors").is_file():
            return [self]
        names = parts_of(self.model)
        return [self] if names == [""] else [self._of(name) for name in names]

    def _of(self, part: str) -> Subject:
        one = copy.copy(self)  # what has been computed already is shared
        one.part, one.whole = part, self
        one.kept = {
            name.removesuffix(f".{part}"): value
            for name, value in self.kept.items()
            if "." not in name or name.endswith(f".{part}")
        }
        return one

    @property
    def target(self) -> Any:
        """The target of the part, or of the run."""
        return view_of(self.model, self.part).target if self.part else self.model.target

    @cached_property
    def renderer(self) -> Renderer:
        found = renderer_of(self.model, self.part)
        if found is None:
            kind = type(self.model.tokenizer).__name__
            raise Missing(f"the tokenizer {kind} names no renderer, so its samples cannot be drawn; give it one")
        return found

    @cached_property
    def batch(self) -> dict[str, Tensor]:
        """Up to `samples` random samples of the source, as training batches are."""
        if self.source is None:
            raise Missing(self.why)
        chosen = np.random.default_rng(self.seed).permutation(len(self.source))[: self.samples]
        schema = planning.cropped(self.run.schema, self.model)
        return measure.first_batch(self.source.subset(chosen), schema, self.samples)

    @cached_property
    def places(self) -> Tensor | None:
        """Where there is one sample only (a graph): the tokens whose features are looked at in place of samples."""
        if len(self.batch["index"]) > 1:
            return None
        valid = self.model.tokenizer(self.batch).valid
        count = self.content.shape[1] if valid is None else int(valid.sum())
        return watch.spread_out(count, self.samples)

    @property
    def counted(self) -> str:
        """What features are of."""
        return "samples" if self.places is None else self.renderer.unit

    @property
    def labels(self) -> Tensor | None:
        """(n,) of what features are of, -1 = none; None without two classes."""
        found = self.batch.get("label")
        if self.places is not None:
            tokens = self.source.token_labels if self.source else None
            found = None if tokens is None else torch.from_numpy(tokens.labels[0])[self.places]
        return None if found is None or len(found[found >= 0].unique()) < 2 else found

    @property
    def label_names(self) -> list[str]:
        assert self.labels is not None and self.source is not None
        names = self.source.label_names
        if self.places is not None and self.source.token_labels is not None:
            names = self.source.token_labels.names
        return names or [str(i) for i in range(int(self.labels.max()) + 1)]

    def few(self, count: int | None = None) -> dict[str, Tensor]:
        """The first samples of the batch: as many as a panel holds."""
        return {name: tensor[: count or self.renderer.samples] for name, tensor in self.batch.items()}

    @torch.no_grad()
    def codes(self, model: Model) -> tuple[Tensor, Tensor]:
        """Features (n, D), pooled or of `places`, and codes of all tokens of the first samples (B, N, D)."""
        pooled, first = [], None
        for start in range(0, len(self.batch["index"]), CHUNK):
            latent = model.embed({name: tensor[start : start + CHUNK] for name, tensor in self.batch.items()})
            pooled.append(latent.mean() if self.places is None else latent.x[0, self.places].float())
            first = latent.x.float() if first is None else first
        assert first is not None
        return torch.cat(pooled), first

    @cached_property
    def trained(self) -> tuple[Tensor, Tensor]:
        if self.whole is None:
            return self.codes(self.model)
        pooled, codes = self.whole.trained
        return pooled, of_field(codes, self.model.tokenizer(self.batch), self.part)

    @cached_property
    def untrained(self) -> Tensor:
        return self.codes(self.run.model(trained=False))[0]

    @cached_property
    def content(self) -> Tensor:
        """(n, N, D) the tokens of all samples of the batch, NaN where not valid."""
        tokens = self.model.tokenizer(self.batch)
        if self.part:
            return marked(self.model.tokenizer.part(tokens, self.part), self.part)
        return content_of(self.model, tokens)[0]

    @cached_property
    def edges(self) -> Tensor | None:
        """(n, E, 2) the edges of all samples of the batch, see `Panel`."""
        return edges_of(self.model.tokenizer(self.batch))

    def joined(self, rows: Any) -> Tensor | None:
        """The edges of some samples of the batch."""
        return None if self.edges is None else self.edges[rows]

    @cached_property
    def raw(self) -> Tensor:
        """(n, D) the same without an encoder, see `history.plain`."""
        if self.whole is not None:
            return self.whole.raw
        return history.plain(self.model, self.model.tokenizer(self.batch)).nan_to_num()

    def step(self, model: Model | None = None, batch: dict[str, Tensor] | None = None) -> Step:
        """A whole step without learning."""
        model = model or self.model
        with watch.evaluating(model):
            return model(self.few() if batch is None else batch)

    def masks(self) -> tuple[Tensor, Tensor]:
        """Content of the first sample, repeated, and what `DRAWS` draws of the mask leave of it."""
        one = {name: tensor[:1].repeat(DRAWS, *[1] * (tensor.ndim - 1)) for name, tensor in self.batch.items()}
        one["key"] = keyed.keys(self.seed, 0, torch.arange(DRAWS))
        with watch.evaluating(self.model):
            step = self.model.hide(one)
        if self.part:
            step = alone(self.model, step, self.part)[1]
            return marked(step.tokens, self.part), step.mask.visible
        if step.mask.keep_of is None:
            content, place = content_of(self.model, step.tokens)
            return content, step.mask.visible[:, place]
        return contents(self.model, self.step(batch=one))[:2]

    @cached_property
    def ratios(self) -> dict[float, Model]:
        """The model with other mask ratios, by the share that they hide; the recipe's own is among them."""
        if self.whole is not None:
            return self.whole.ratios
        part = self.run.recipe.mask
        own = (part.defaults() if isinstance(part, P) else {}).get("ratio")
        if not isinstance(own, (int, float)):
            raise Missing(f"the mask {getattr(part, 'part', part)!r} has no ratio that could be varied")
        made: dict[float, Model] = {}
        for ratio in sorted({*RATIOS, round(float(own), 4)}):
            try:
                model = replace(self.run, recipe=self.run.recipe.but({"mask.ratio": ratio})).model()
            except RecipeError:  # a ratio that does not fit the mask's other arguments is not drawn
                continue
            made.setdefault(self.hidden(model), model)
        return made

    def hidden(self, model: Model | None = None) -> float:
        """The share of real tokens that is really hidden: a mask may keep some whatever its ratio says."""
        model = model or self.model
        batch = {name: tensor[:JUDGED] for name, tensor in self.batch.items()}
        with watch.evaluating(model):
            step = model.hide(batch)
        visible, of, valid = step.mask.visible, step.mask.keep_of, step.tokens.valid
        real = valid if valid is None or of is None or of.ndim == 2 else valid[of]
        shown = visible if real is None or real.shape != visible.shape else visible[real]
        return round(1 - shown.float().mean().item(), 2)

    def errors(self, model: Model) -> watch.Errors:
        """Errors of the model and of the best constant on the first samples of the batch."""
        batch = {name: tensor[:JUDGED] for name, tensor in self.batch.items()}
        return watch.compare(model, self.step(model, batch))

    def constant(self) -> float | None:
        """What the training loss would be if the best constant were predicted, on the first samples of the batch; None
        where there are no data, or no such constant."""
        if self.source is None:
            return None
        batch = {name: tensor[:JUDGED] for name, tensor in self.batch.items()}
        return watch.constant_loss(self.model, self.step(batch=batch))


def open_subjects(
    runs: list[Any], source: Any, *, label: str | None = None, samples: int = 600, seed: int = 0
) -> list[Subject]:
    """The runs with their data: `source` for all of them, or each its own where that is still there.

    Raises:
        RunError: a folder that is no run. SchemaError: `source` does not fit one of the runs. DataError: it is a
            stream, or cannot be opened.
    """
    subjects = [Subject.open(run, letter=LETTERS[n % 26]) for n, run in enumerate(runs)]
    for subject, name in zip(subjects, unique_names([s.run.folder for s in subjects])):
        subject.name, subject.samples, subject.seed = name, samples, seed
    if source is not None:
        for subject in subjects:
            opened = subject.run.source(source, label=label)
            if not isinstance(opened, Source):
                raise DataError(f"{opened.name} is a stream; open it without streaming=True to report on it")
            subject.run.schema.check(infer_schema(opened))
            subject.source = opened
    else:
        for subject in subjects:
            subject.source, subject.why = _own_source(subject.run)
    for subject in subjects:
        if not (subject.run.folder / "model.safetensors").is_file():
            subject.source = None
            subject.why = f"{subject.name} has no weights yet; go on with it: anymask pretrain --resume --out " + str(
                subject.run.folder
            )
    return subjects


def _own_source(run: Run) -> tuple[Source | None, str]:
    """The data that a run was trained on, or why they are not to be had."""
    how = f"give the data: anymask report {run.folder} --source SOURCE"
    path = run.settings.get("source")
    if path is None:
        return None, f"{run.folder.name} was trained on an object in memory ({run.schema.source}), not a path; {how}"
    try:
        opened = open_source(path, **run.settings.get("opening", {}))
        if not isinstance(opened, Source):
            return None, f"{run.folder.name} was trained on a stream; {how}"
        run.schema.check(infer_schema(opened))
    except AnymaskError as error:
        return None, f"the data of {run.folder.name} cannot be used any more ({error}); {how}"
    return opened, ""


def unique_names(folders: list[Path]) -> list[str]:
    """Names of folders, with as many of their parents' names as tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max((len(p.parts) for p in paths), default=1) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]
