"""Classes of tokens (nodes, points, residues): features of single tokens, and probes on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from anymask.data import DataError, Source, few_label_draws, ordered_loader, split_source
from anymask.data.labels import PARTS, TokenLabels
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import encoder
from anymask.evaluation.features import tokens as every_token
from anymask.evaluation.inputs import Labels, enough_labels
from anymask.evaluation.probe import Scores
from anymask.reports.renderer import stream_of
from anymask.run import Run
from anymask.table import Table, interval

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
    """(T, D) float32 features of all real tokens, sample after sample; trained=None: what the tokenizer gives.

    Raises:
        DataError: a sample has another number of tokens than of labels.
    """
    encode = encoder(run, pool=every_token, precision=precision, trained=bool(trained))
    labels, found = source.token_labels, []
    for batch in ordered_loader(source, run.schema, batch_size=batch_size):
        with torch.no_grad():
            tokens = encode.model.tokenizer(batch)
        x = tokens.x[stream_of(encode.model)].float() if trained is None else encode(batch)
        ok = torch.ones(x.shape[:2], dtype=torch.bool) if tokens.valid is None else tokens.valid
        for row, number in enumerate(batch["index"].tolist()):
            one = x[row][ok[row]]
            if labels is not None and len(one) != len(labels.labels[number]):
                wanted = len(labels.labels[number])
                raise DataError(f"{source.called(number)} has {len(one)} tokens and {wanted} labels; give one a token")
            found.append(one.reshape(len(one), -1).cpu().numpy())
    return np.concatenate(found)


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
        if test is None and "test" in source.splits:
            test, how = source.split("test"), "the test part is the data's own test split"
        elif test is None:
            source, test = split_source(source, seed=seed, stratify=False)
            how = f"the test part is a fifth of the samples, split with seed {seed}"
        else:
            how = "the test part is the one given"
        y = np.concatenate([*_labels_of(source).labels, *_labels_of(test).labels])
        border = sum(len(labels) for labels in _labels_of(source).labels)
        train, held = np.flatnonzero(y[:border] >= 0), border + np.flatnonzero(y[border:] >= 0)
        validation, notes, sources, reference = np.zeros(0, dtype=np.int64), [how], [source, test], np.arange(border)
    for name, chosen in (("training", train), ("test", held)):
        if not len(chosen):
            raise DataError(f"no token of the {name} part of {source.name} has a label; give a part that has (--test)")
    if len(np.unique(y[train])) < 2:
        raise DataError(f"all labelled training tokens of {source.name} are of one class; give two classes or more")
    validation = validation[np.isin(y[validation], y[train])]
    return Division(sources, train, validation if len(validation) else None, held, y, reference, own.names, notes)


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
    precision = run.settings.get("precision", "fp32")
    rows: list[Sequence[Any]] = []
    for name, trained in KINDS:
        options = dict(trained=trained, precision=precision, batch_size=batch_size)
        x = np.concatenate([token_features(run, one, **options) for one in division.sources])  # type: ignore[arg-type]
        for title, measure in probes.values():
            figures = []
            for n in columns:
                chosen = few_label_draws(y, n, 1 if n == "all" else draws, seed)
                got = [probed(division, x, measure, d, seed=seed).accuracy for d in chosen]
                figures.append(interval(100 * np.array(got)))
            rows.append((name, title, *figures))
    heads = ["all labels" if n == "all" else f"{n} label{'s' * (n != 1)} a class" for n in columns]
    title = f"accuracy in % on {len(division.test):,} test tokens of {division.sources[-1].name}, {run.recipe.slug}"
    return Table(("features", "probe", *heads), rows, title=title, notes=notes)
