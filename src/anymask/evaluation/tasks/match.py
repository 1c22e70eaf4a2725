"""Finding the other part of a sample: the text of an image, the image of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anymask.data import DataError, Source, split_source
from anymask.data.mix import only
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import Pool, embed
from anymask.evaluation.inputs import raw_input
from anymask.run import Run
from anymask.table import Table, interval

RANKS = (1, 5, 10)
RIDGE = (1.0, 10.0, 100.0, 1000.0)  # penalties that the map is chosen from
Pair = tuple[np.ndarray, np.ndarray]


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    between: Sequence[str] | str | None = None,
    candidates: int = 1000,
    pool: str | Pool = "mean",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """Recall in % of finding, among the test samples, the other part of a sample by one of its parts, both ways.

    Each part is embedded alone, as if all others were missing. Parts are compared by the cosine of features centred
    by part, without training ("cosine"), and after a linear map from one part's features to the other's that is
    fitted to the pairs of the training part by ridge regression ("linear map"; penalty chosen on a fifth of them).
    Beside the encoder, untrained and pre-trained, stands such a map between raw inputs. Figures are means over the
    samples with 95 % intervals (Student's t); `chance` is what guessing reaches.

    Args:
        source: of several parts. test: what is searched; None = the source's own test split, or a fifth.
        between: two parts, a sequence or text with a comma; None = the first two.
        candidates: test samples at most, a random choice.
        pool: see `embed`.

    Raises:
        EvaluateError: a model of one part, or no such parts. DataError: too few samples with both.
    """
    a, b = _between(run, between)
    train, held, notes = _parts(source, test, seed)
    train, held = _paired(train, a, b), _paired(held, a, b)
    if len(held) > candidates:
        held = held.subset(np.sort(np.random.default_rng(seed).permutation(len(held))[:candidates]))
        notes.append(f"{candidates:,} random samples are searched")
    if min(len(train), len(held)) < 10:
        raise DataError(f"{source.name} has {len(train)} and {len(held)} samples with '{a}' and '{b}' to train and to "
                        "search, too few to find one among others; give more pairs")  # fmt: skip
    rows: list[Sequence[Any]] = []
    for name, how, x, y in _compared(run, train, held, a, b, pool, seed, batch_size):
        for search, similarity in ((f"{b} by {a}", _cosine(*x)), (f"{a} by {b}", _cosine(*y))):
            rank = (similarity > np.diag(similarity)[:, None]).sum(1)  # of the right one, from 0
            rows.append((name, how, search, *(interval(100.0 * (rank < k)) for k in RANKS)))
    chance = [f"{100 * min(1.0, k / len(held)):.1f}" for k in RANKS]
    notes.append(f"{len(held):,} candidates, one of them right; the linear maps are fitted to {len(train):,} pairs")
    rows.append(("chance", None, "either way", *chance))
    title = f"finding the other part of a sample of {held.name}, recall in %, {run.recipe.slug}"
    return Table(("features", "compared by", "search", *(f"recall@{k}" for k in RANKS)), rows, title=title, notes=notes)


def _between(run: Run, between: Sequence[str] | str | None) -> tuple[str, str]:
    have = list(run.schema.fields)
    names = [n.strip() for n in between.split(",")] if isinstance(between, str) else list(between or have[:2])
    if len(have) < 2 or len(names) != 2 or any(name not in have for name in names):
        told = ", ".join(have)
        raise EvaluateError(f"between= takes two of the parts that the run was trained on ({told}), not {names}")
    return names[0], names[1]


def _parts(source: Source, test: Source | None, seed: int) -> tuple[Source, Source, list[str]]:
    if test is not None:
        return source, test, ["the test part is the one given"]
    if "test" in source.splits:
        return source, source.split("test"), ["the test part is the data's own test split"]
    train, held = split_source(source, seed=seed, stratify=False)
    return train, held, [f"the test part is a fifth of the data, with seed {seed}"]


def _paired(source: Source, a: str, b: str) -> Source:
    """The samples that have both parts and can be read."""
    lacking = [name for name in (a, b) if name not in source.columns]
    if lacking:
        raise DataError(f"{source.name} has no part '{lacking[0]}' (it has: {', '.join(source.columns)})")
    samples = (source.try_read(n, (a, b)) for n in range(len(source)))
    return source.subset([n for n, s in enumerate(samples) if s is not None and s[a] is not None and s[b] is not None])


def _compared(
    run: Run, train: Source, held: Source, a: str, b: str, pool: str | Pool, seed: int, batch_size: int
) -> Iterator[tuple[str, str, Pair, Pair]]:
    """(features, how, (queries, candidates) of a finding b, the same of b finding a)."""
    def raw(part: Source, name: str) -> np.ndarray:
        return raw_input(part, replace(run.schema, fields={name: run.schema.fields[name]}), batch_size=batch_size)

    x, y, test_x, test_y = (raw(part, name) for part in (train, held) for name in (a, b))
    yield "raw input", "linear map", (_map(x, y, test_x, seed), test_y), (_map(y, x, test_y, seed), test_x)
    for words, trained in (("untrained encoder", False), ("pre-trained encoder", True)):
        given = dict(pool=pool, trained=trained, batch_size=batch_size)
        x, y, test_x, test_y = (
            np.asarray(embed(run, only(part, [name]), **given))  # type: ignore[arg-type]
            for part in (train, held)
            for name in (a, b)
        )
        here, there = test_x - x.mean(0), test_y - y.mean(0)
        yield words, "cosine", (here, there), (there, here)
        yield words, "linear map", (_map(x, y, test_x, seed), test_y), (_map(y, x, test_y, seed), test_x)


def _cosine(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit(queries) @ unit(candidates).T


def _map(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, seed: int) -> np.ndarray:
    """What a ridge regression from x (N, D) to y (N, E) makes of `test_x`, in the place of y."""
    x, y, test_x = (v.reshape(len(v), -1).astype(np.float64) for v in (x, y, test_x))
    mean, spread = x.mean(0), np.maximum(x.std(0), 1e-6)
    x, test_x = (x - mean) / spread, (test_x - mean) / spread
    order = np.random.default_rng(seed).permutation(len(x))
    held, kept = order[: len(x) // 5], order[len(x) // 5 :]
    recall = []
    for penalty in RIDGE:
        similarity = _cosine(_ridge(x[kept], y[kept], x[held], penalty), y[held])
        recall.append(-(similarity > np.diag(similarity)[:, None]).sum(1).mean())
    return _ridge(x, y, test_x, RIDGE[int(np.argmax(recall))])


def _ridge(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, penalty: float) -> np.ndarray:
    middle = y.mean(0)
    if x.shape[1] <= len(x):
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - middle))
        return middle + test_x @ weights
    dual = np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y - middle)
    return middle + test_x @ (x.T @ dual)
