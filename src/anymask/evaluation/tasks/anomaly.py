"""Samples that are not of the normal kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anymask.data import DataError, Source, infer_schema, split_source
from anymask.evaluation import outliers
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import embed
from anymask.evaluation.inputs import raw_input
from anymask.evaluation.masked import batches, errors, frozen
from anymask.evaluation.tasking import opened
from anymask.run import Run
from anymask.table import Table

FITTED = 10_000  # normal samples that scores are fitted on
Label = int | str


class Parts(NamedTuple):
    """Normal samples to fit on, samples to score, and which of these are anomalies."""

    train: Source
    tests: list[Source]
    strange: np.ndarray  # (M,) bool, over the tests one after another
    notes: list[str]


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    normal: Label | Sequence[Label] | None = None,
    anomaly: Label | Sequence[Label] | None = None,
    out: object | None = None,
    masks: int = 8,
    ratio: float | None = None,
    neighbours: int = outliers.NEIGHBOURS,
    components: float = outliers.COMPONENTS,
    pool: str = "mean",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """AUROC and average precision in % of telling anomalies from normal samples, by scores that take no labels.

    What is an anomaly is said by one of `normal`, `anomaly` and `out`. Scores are fitted on the normal samples of the
    training part: isolation forest, error of principal components, one-class support vector machine, Mahalanobis
    distance (shrunk covariance) and mean distance of the nearest neighbours on raw input; the latter two also on
    features. Reconstruction is the run's own error, averaged over complementary masks, so that
    every token of a sample counts. The interval of AUROC is DeLong's, over test samples.

    Args:
        test: what is scored; None = the source's own test split, or else a fifth of it.
        normal: labels that count as normal; samples of all others are anomalies.
        anomaly: labels that are anomalies; samples of all others are normal.
        out: another source, of the same schema: all its samples are anomalies, those of the test part normal.
        masks: at least so many for each sample.
        ratio: hidden share of tokens; None = that of the recipe's own mask.
        neighbours: k. components: of PCA, a number or a share of the variance.
        pool: of the features, "mean", "cls" or "tokens" (all tokens side by side, for samples of one size).

    Raises:
        EvaluateError: not exactly one of normal, anomaly and out; an impossible setting. DataError: no such label, or
            nothing on one of the sides.
    """
    _check(normal, anomaly, out, masks, neighbours, components)
    parts = _parts(run, source, test, normal, anomaly, out, seed)
    rows: list[Sequence[Any]] = []
    for name, method, scores in _scores(
        run, parts, masks, ratio, neighbours, components, pool, seed, batch_size, progress
    ):
        there = np.isfinite(scores)
        y = parts.strange[there]
        if y.all() or not y.any():
            raise DataError("no readable sample is left on one of the sides, normal or anomaly; look at the files")
        rows.append((name, method, outliers.auroc(scores[there], y), outliers.average_precision(scores[there], y)))
    tests = " and ".join(part.name for part in parts.tests)
    title = f"anomalies among {len(parts.strange):,} test samples of {tests}, {run.recipe.slug}"
    return Table(("features", "score", "AUROC", "average precision"), rows, title=title, notes=parts.notes)


def reconstruction(
    run: Run,
    source: Source,
    *,
    masks: int = 8,
    ratio: float | None = None,
    trained: bool = True,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> np.ndarray:
    """(N,) the run's own error of each sample: mean over its real tokens, of each token over the masks that hide it
    (see `anymask.evaluation.masked.complementary`). NaN for samples that cannot be read."""
    model = frozen(run, trained=trained)
    scores = np.full(len(source), np.nan)
    for sample in batches(model, run.schema, source, batch_size=batch_size, progress=progress):
        error = errors(model, sample, masks=masks, seed=seed, ratio=ratio).error
        scores[sample["index"].cpu().numpy()] = error.nanmean(1).cpu().numpy()
    return scores


def _scores(
    run: Run, parts: Parts, masks: int, ratio: float | None, k: int, components: float, pool: str, seed: int,
    batch_size: int, progress: bool,
) -> Iterator[tuple[str, str, np.ndarray]]:  # fmt: skip
    """(features, score, (M,) scores)."""
    raw = [raw_input(part, run.schema, batch_size=batch_size) for part in (parts.train, *parts.tests)]
    train, test = _two(raw)
    yield "raw input", "isolation forest", _where_read(outliers.isolation_forest, train, test, seed=seed)
    yield "raw input", "PCA reconstruction", _where_read(outliers.pca_error, train, test, components=components)
    yield "raw input", "one-class SVM", _where_read(outliers.one_class_svm, train, test)
    yield "raw input", "Mahalanobis", _where_read(outliers.mahalanobis, train, test)
    yield "raw input", "nearest neighbours", _where_read(outliers.neighbours, train, test, k=k)
    precision = run.settings.get("precision", "fp32")
    for name, trained in (("untrained encoder", False), ("pre-trained encoder", True)):
        shared = dict(trained=trained, batch_size=batch_size, progress=progress)
        again = [reconstruction(run, p, masks=masks, ratio=ratio, seed=seed, **shared) for p in parts.tests]  # type: ignore[arg-type]
        yield name, "reconstruction", np.concatenate(again)
        options = dict(pool=pool, precision=precision, **shared)
        z = [np.asarray(embed(run, p, **options)) for p in (parts.train, *parts.tests)]  # type: ignore[arg-type]
        train, test = _two(z)
        yield name, "Mahalanobis", _where_read(outliers.mahalanobis, train, test)
        yield name, "nearest neighbours", _where_read(outliers.neighbours, train, test, k=k)


def _two(found: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Readable training rows, and all test rows."""
    found = [x.reshape(len(x), -1) for x in found]
    return found[0][~np.isnan(found[0]).any(1)], np.concatenate(found[1:])


def _where_read(score: Any, train: np.ndarray, test: np.ndarray, **options: Any) -> np.ndarray:
    there = ~np.isnan(test).any(1)
    scores = np.full(len(test), np.nan)
    scores[there] = score(train, test[there], **options)
    return scores


def _check(normal: Any, anomaly: Any, out: Any, masks: int, neighbours: int, components: float) -> None:
    if sum(v is not None for v in (normal, anomaly, out)) != 1:
        raise EvaluateError(
            "say what is an anomaly, in one way: normal= labels that are normal, anomaly= labels that are not "
            "(--set anomaly=3), or out= another source (--set out=FOLDER)"
        )
    if masks < 1 or neighbours < 1 or components <= 0:
        raise EvaluateError(
            f"masks and neighbours count from 1 and components is a number or a share above 0, not masks={masks}, "
            f"neighbours={neighbours}, components={components}"
        )


# Which samples are what.


def _parts(run: Run, source: Source, test: Source | None, normal: Any, anomaly: Any, out: Any, seed: int) -> Parts:
    notes: list[str] = []
    if test is not None:
        train, held = source, test
    elif "test" in source.splits:
        train, held = source, source.split("test")
        notes.append("the test part is the data's own test split")
    else:
        train, held = split_source(source, seed=seed)
        notes.append(f"the test part is a fifth of the data, split with seed {seed}")
    if out is not None:
        other = opened(run, out)
        run.schema.check(infer_schema(other))
        tests, strange = [held, other], np.arange(len(held) + len(other)) >= len(held)
    else:
        train, _, _ = _told_apart(train, normal, anomaly)
        held, strange, names = _told_apart(held, normal, anomaly, both=True)
        tests = [held]
        notes += _trained_on(run, names)
    if len(train) < 2:
        raise DataError(f"{train.name} has {len(train)} normal training samples, too few to fit on; give more")
    if len(train) > FITTED:
        notes.append(f"scores are fitted on {FITTED:,} random ones of {len(train):,} normal training samples")
        train = train.subset(np.sort(np.random.default_rng(seed).permutation(len(train))[:FITTED]))
    notes.append(f"{int(strange.sum()):,} of {len(strange):,} test samples are anomalies: the AP of chance")
    return Parts(train, tests, strange, notes)


def _told_apart(
    source: Source, normal: Any, anomaly: Any, both: bool = False
) -> tuple[Source, np.ndarray, list[str]]:
    """Labelled samples, normal ones only unless `both`; which are anomalies; and the names of the anomalous classes."""
    if source.labels is None or not (source.labels >= 0).any():
        raise DataError(f"{source.name} has no labels to tell anomalies by; name their column (--label), or give out=")
    there = [int(c) for c in np.unique(source.labels) if c >= 0]
    names = {c: source.label_names[c] if source.label_names else str(c) for c in there}
    given = normal if normal is not None else anomaly
    asked = [str(label) for label in ([given] if isinstance(given, (str, int)) else given)]
    for label in asked:
        known = source.label_names or list(names.values())
        if label not in known:
            raise DataError(f"{source.name} has no class {label!r}; there is: {', '.join(known[:20])}")
    bad = {c for c in there if (names[c] in asked) == (normal is None)}
    strange = np.isin(source.labels, sorted(bad))
    keep = source.labels >= 0 if both else (source.labels >= 0) & ~strange
    if not (~strange & keep).any() or (both and not strange.any()):
        side = "anomaly" if (~strange & keep).any() else "normal sample"
        raise DataError(
            f"{source.name} has no {side} under {'normal' if normal is not None else 'anomaly'}={', '.join(asked)}; "
            f"its classes are {', '.join(list(names.values())[:20])}"
        )
    return source.subset(np.flatnonzero(keep)), strange[keep], [names[c] for c in sorted(bad)]


def _trained_on(run: Run, names: list[str]) -> list[str]:
    """A note where the run was pre-trained on anomalies."""
    labels = run.schema.labels
    met = [n for n, count in zip(labels["names"], labels["counts"]) if n in names and count] if labels else []
    return [f"the run was pre-trained on anomalies as well ({', '.join(met[:5])})"] if met else []
