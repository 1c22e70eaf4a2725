"""Classes of tokens (nodes, points, residues): features of single tokens, and probes on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anymask.data import DataError, Source, few_label_draws, ordered_loader, split_source
from anymask.data.kind import kind_of
from anymask.data.labels import PARTS, TokenLabels
from anymask.engine import Model, Tokens
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import encoder
from anymask.evaluation.features import tokens as every_token
from anymask.evaluation.inputs import Labels, enough_labels
from anymask.evaluation.probe import Scores
from anymask.reports.renderer import stream_of
from anymask.run import Run
from anymask.table import Table, interval

MOST = 50_000  # tokens of a training part that is divided by samples; of more, random samples are taken
KINDS = (("raw input", None), ("untrained encoder", False), ("pre-trained encoder", True))


class Division(NamedTuple):
    """Numbers of labelled tokens of training, validation (None: there is no such part) and test among all tokens of the
    sources; the labels of all; and the tokens that standardise."""

    sources: list[Source]
    train: np.ndarray
    validation: np.ndarray | None
    test: np.ndarray
    labels: np.ndarray
    reference: np.ndarray
    names: list[str] | None
    notes: list[str]


def token_features(
    run: Run, source: Source, *, trained: bool | None, precision: str = "fp32", batch_size: int = 64
) -> np.ndarray:
    """(T, D) float32 features of all real tokens, sample after sample; trained=None: the kind's plain input of single
    tokens, or what the tokenizer gives. Tokens behind the longest sample that the model takes are NaN.

    Raises:
        DataError: a sample has another number of tokens than of labels.
    """
    encode = encoder(run, pool=every_token, precision=precision, trained=bool(trained))
    labels, found = source.token_labels, []
    for batch in ordered_loader(source, run.schema, batch_size=batch_size):
        with torch.no_grad():
            tokens = encode.model.tokenizer(batch)
        x = _plain(encode.model, batch, tokens) if trained is None else encode(batch)
        ok = torch.ones(x.shape[:2], dtype=torch.bool) if tokens.valid is None else tokens.valid
        for row, number in enumerate(batch["index"].tolist()):
            one = x[row][ok[row]]
            if labels is not None and len(one) != len(labels.labels[number]):
                wanted = len(labels.labels[number])
                if len(one) == _longest(run) < wanted:
                    one = F.pad(one, (0, 0, 0, wanted - len(one)), value=torch.nan)
                else:
                    raise DataError(
                        f"{source.called(number)} has {len(one)} tokens and {wanted} labels; give one a token"
                    )
            found.append(one.reshape(len(one), -1).cpu().numpy())
    return np.concatenate(found)


def _plain(model: Model, batch: dict[str, Tensor], tokens: Tokens) -> Tensor:
    field = model.schema.fields[model.tokenizer.field]
    x = kind_of(field.kind).flat_tokens(batch[field.name], field)
    return tokens.x[stream_of(model)].float() if x is None else x


def _longest(run: Run) -> int:
    """Tokens of the longest sample that the model takes, of kinds that vary in length; else 0."""
    fields = [field for field in run.schema.fields.values() if kind_of(field.kind).spelled]
    return fields[0].shape[0] if fields else 0


def divide(run: Run, source: Source, test: Source | None, seed: int) -> Division:
    """By the tokens' own parts where there are such, else by samples: `test`, the source's test split, or a fifth.

    Raises:
        DataError: there are no labels of tokens, or none in a part.
    """
    own = _labels_of(source)
    if own.parts is not None and test is None:
        y, part = np.concatenate(own.labels), np.concatenate(own.parts)
        train, validation, held = (np.flatnonzero((part == n) & (y >= 0)) for n in range(len(PARTS)))
        notes = [f"parts are the data's own: {len(train):,} tokens of training, {len(validation):,} of validation and "
                 f"{len(held):,} of test, of samples that pre-training sees whole, without labels"]  # fmt: skip
        sources, reference = [source], np.arange(len(y))
    else:
        apart = source.split("validation") if "validation" in source.splits else None
        if test is None and "test" in source.splits:
            test, how = source.split("test"), "the test part is the data's own test split"
        elif test is None:
            source, test = split_source(source, seed=seed, stratify=False)
            how = f"the test part is a fifth of the samples, split with seed {seed}"
        else:
            how = "the test part is the one given"
        notes = [how]
        source = _few(source, seed, notes, "training")
        sources = [source, test] if apart is None else [source, test, _few(apart, seed, notes, "validation")]
        y = np.concatenate([labels for one in sources for labels in _labels_of(one).labels])
        ends = np.cumsum([sum(map(len, _labels_of(one).labels)) for one in sources])
        known = [part[y[part] >= 0] for part in np.split(np.arange(len(y)), ends[:-1])]
        train, held, validation = (*known, np.zeros(0, dtype=np.int64))[:3]
        reference = np.arange(ends[0])
    for name, chosen in (("training", train), ("test", held)):
        if not len(chosen):
            raise DataError(f"no token of the {name} part of {source.name} has a label; give a part that has (--test)")
    if len(np.unique(y[train])) < 2:
        raise DataError(f"all labelled training tokens of {source.name} are of one class; give two classes or more")
    validation = validation[np.isin(y[validation], y[train])]
    return Division(sources, train, validation if len(validation) else None, held, y, reference, own.names, notes)


def _few(source: Source, seed: int, notes: list[str], part: str) -> Source:
    """Random samples of a large part, with about as many tokens as are used."""
    lengths = np.array([len(labels) for labels in _labels_of(source).labels])
    if lengths.sum() <= MOST:
        return source
    chosen = np.random.default_rng(seed).permutation(len(source))
    chosen = np.sort(chosen[: max(1, int((np.cumsum(lengths[chosen]) <= MOST).sum()))])
    notes.append(f"of the {part} part {len(chosen):,} random samples of {len(source):,} are used")
    return source.subset(chosen)


def _labels_of(source: Source) -> TokenLabels:
    if source.token_labels is None:
        raise DataError(f"{source.name} has no labels of tokens; give them (a column label of nodes.csv, y of Data)")
    return source.token_labels


def probed(
    division: Division, x: np.ndarray, measure: Callable[..., Scores], chosen: np.ndarray | None = None, seed: int = 0
) -> Scores:
    """A probe of features (T, D) trained on `chosen` of the training tokens (None = all of them)."""
    train = division.train if chosen is None else division.train[chosen]
    y, held, more = division.labels, division.test, {}
    if division.validation is not None:
        more = {"validation": (x[division.validation], y[division.validation])}
    return measure(x[train], y[train], x[held], y[held], reference=x[division.reference], seed=seed, **more)


def seen(division: Division, x: np.ndarray) -> tuple[Division, int]:
    """Without tokens that the model does not see, whose features (T, D) are NaN; and how many labels are lost so."""
    there = ~np.isnan(x[:, 0])
    lost = sum(int((~there[part]).sum()) for part in (division.train, division.test))
    parts = {name: part[there[part]] for name in ("train", "validation", "test", "reference")
             if (part := getattr(division, name)) is not None}  # fmt: skip
    return division._replace(**parts), lost


def token_table(
    run: Run, source: Source, *, labels: Sequence[Labels], lenient: bool, draws: int, test: Source | None,
    probes: dict[str, tuple[str, Callable[..., Scores]]], seed: int, batch_size: int,
) -> Table:  # fmt: skip
    """Accuracy of frozen features of single tokens, in per cent; arguments as those of the task classify."""
    if "attentive" in probes:
        raise EvaluateError("an attentive probe pools the tokens of a sample, and these labels are of single tokens; "
                            "leave it out of probes")  # fmt: skip
    division = divide(run, source, test, seed)
    notes = division.notes
    y = division.labels[division.train]
    columns = enough_labels(y, division.names, labels, notes, lenient, "tokens")
    if division.validation is not None:
        notes.append("C and k are chosen on the validation tokens")
    field = next(iter(run.schema.fields.values()))
    told = kind_of(field.kind).flattened_tokens(field)
    notes += [f"raw input is {told}"] if told else []
    precision = run.settings.get("precision", "fp32")
    rows: list[Sequence[Any]] = []
    for name, trained in KINDS:
        options = dict(trained=trained, precision=precision, batch_size=batch_size)
        x = np.concatenate([token_features(run, one, **options) for one in division.sources])  # type: ignore[arg-type]
        if not rows:
            division, lost = seen(division, x)
            y = division.labels[division.train]
            if lost:
                notes.append(f"{lost:,} labelled tokens lie behind the first {_longest(run):,} of their sample, which "
                             "is what the model takes, and are left out; --image-size takes more")  # fmt: skip
        for title, measure in probes.values():
            figures = []
            for n in columns:
                chosen = few_label_draws(y, n, 1 if n == "all" else draws, seed)
                got = [probed(division, x, measure, d, seed=seed).accuracy for d in chosen]
                figures.append(interval(100 * np.array(got)))
            rows.append((name, title, *figures))
    heads = ["all labels" if n == "all" else f"{n} label{'s' * (n != 1)} a class" for n in columns]
    held = division.sources[min(1, len(division.sources) - 1)].name
    title = f"accuracy in % on {len(division.test):,} test tokens of {held}, {run.recipe.slug}"
    return Table(("features", "probe", *heads), rows, title=title, notes=notes)
