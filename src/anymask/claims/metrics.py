"""How the arms of a claim are measured: one score a test sample, higher is better."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.data import few_label_draws
from anymask.evaluation.probe import Scores, linear_probe

if TYPE_CHECKING:
    from anymask.data import Schema, Source
    from anymask.run import Run

SEED = 0  # of what is drawn for measuring: the same for all arms and seeds


def others(whole: Source, chosen: np.ndarray, most: int) -> np.ndarray:
    """Numbers of at most so many samples that are not chosen for training, in order: a test part.

    Raises:
        ClaimError: nearly all are chosen.
    """
    rest = np.setdiff1d(np.arange(len(whole)), chosen)
    if len(rest) < 2:
        raise ClaimError(
            f"all {len(whole):,} samples of {whole.name} are trained on, none is left to test on; use fewer (--scale)"
        )
    return np.sort(np.random.default_rng(SEED).permutation(rest)[:most])


@dataclass(frozen=True)
class Metric:
    """What a trained run is worth on the data of a claim.

    `unit` is of the mean score and of differences; `untrained` says what `scores` with trained=False is of.
    """

    unit: ClassVar[str] = "points of accuracy"
    untrained: ClassVar[str | None] = "untrained encoder"
    code: ClassVar[tuple[str, ...]] = ()  # modules whose code decides the scores, beside this one

    def words(self) -> str:
        """Name and arguments."""
        return repr(self)

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        """(what both arms are trained on, what they are tested on). `chosen` numbers the samples to train on.

        Raises:
            ClaimError: the data lack what the metric needs.
        """
        if "test" not in whole.splits:
            raise ClaimError(f"{whole.name} has no test split, which a claim is measured on; use a data set with one")
        if whole.labels is None:
            raise ClaimError(f"{whole.name} has no labels, which a claim is measured with; use a data set with labels")
        return whole.subset(chosen).cached(), whole.split("test").cached()

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        """(T,) a score for each test sample."""
        raise NotImplementedError

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        """Mean scores of what needs no training, by name."""
        return {}


@dataclass(frozen=True)
class Probe(Metric):
    """Accuracy of a probe of frozen features, with the labels of all training samples.

    Args:
        probe: (train_x, train_y, test_x, test_y) -> `Scores`.
        pool: of the features, see `anymask.evaluation.embed`.
        part: of samples of several parts, the one that features are of; None = all parts.
    """

    probe: Callable[..., Scores] = linear_probe
    pool: str = "mean"
    part: str | None = None
    code = ("anymask.evaluation.probe",)

    def words(self) -> str:
        return f"{self.probe.__name__} ({self.pool})" + (f" of {self.part}" if self.part else "")

    def _seen(self, source: Source) -> Source:
        """What is embedded."""
        from anymask.data.mix import only

        return source if self.part is None else only(source, [self.part])

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.features import embed

        options = dict(pool=self.pool, trained=trained, precision=precision)
        x, test_x = (np.asarray(embed(run, self._seen(part), **options)) for part in (train, test))  # type: ignore[arg-type]
        return self._correct(train, test, x, test_x)

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.evaluation.inputs import classical_input, raw_input

        kept = schema if self.part is None else replace(schema, fields={self.part: schema.fields[self.part]})
        parts = [self._seen(part) for part in (train, test)]
        inputs = {"raw input": [raw_input(part, kept) for part in parts]}
        both = [classical_input(part, kept) for part in parts]
        inputs |= {name: [part[name] for part in both] for name in both[0]}
        return {name: float(self._correct(train, test, *x).mean()) for name, x in inputs.items()}

    def _correct(self, train: Source, test: Source, x: np.ndarray, test_x: np.ndarray) -> np.ndarray:
        return 100.0 * self.probe(x, train.labels, test_x, test.labels, seed=SEED).correct


@dataclass(frozen=True)
class FewLabels(Probe):
    """As `Probe`, with the labels of a few training samples: for data whose classes are all but told apart with many.
    The score of a test sample is how often it is right, over draws of the labelled samples.

    Args:
        labels: labels a class.
        draws: of the labelled samples, the same ones for both arms and all seeds.
    """

    labels: int = 5
    draws: int = 20

    def words(self) -> str:
        return f"{super().words()}, {self.labels} labels a class, {self.draws} draws"

    def _correct(self, train: Source, test: Source, x: np.ndarray, test_x: np.ndarray) -> np.ndarray:
        assert train.labels is not None
        right = [
            self.probe(x[d], train.labels[d], test_x, test.labels, reference=x, seed=SEED).correct
            for d in few_label_draws(train.labels, self.labels, self.draws, SEED)
        ]
        return 100.0 * np.mean(right, axis=0)


@dataclass(frozen=True)
class FewLabelsPrecision(Metric):
    """Average precision of telling one class from another one with few labels, by a linear probe of frozen features:
    for a rare class. A score is of a draw of labelled samples of the training part; the draws are the same for both
    arms and all seeds.

    Args:
        positive, negative: names of the classes.
        labels: labels of each.
        draws: of the labelled samples.
        pool: of the features, see `anymask.evaluation.embed`.
    """

    positive: str = "1"
    negative: str = "0"
    labels: int = 10
    draws: int = 20
    pool: str = "mean"
    unit = "points of average precision"
    code = ("anymask.evaluation.probe", "anymask.evaluation.rare")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        super().parts(whole, chosen[:1])
        return whole.subset(chosen), whole.split("test")

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.features import embed

        options = dict(pool=self.pool, trained=trained, precision=precision)
        return self._precision(train, test, *(np.asarray(embed(run, part, **options)) for part in (train, test)))  # type: ignore[arg-type]

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.evaluation.inputs import raw_input

        return {"raw input": float(self._precision(train, test, *(raw_input(p, schema) for p in (train, test))).mean())}

    def _precision(self, train: Source, test: Source, x: np.ndarray, test_x: np.ndarray) -> np.ndarray:
        from anymask.evaluation.rare import few_label_precision, pair_of

        (at, y), (test_at, test_y) = (pair_of(part, self.positive, self.negative) for part in (train, test))
        return 100.0 * few_label_precision(
            x[at], y, test_x[test_at], test_y, labels=self.labels, draws=self.draws, seed=SEED, reference=x
        )


class TokenProbe(Metric):
    """Accuracy of a linear probe of frozen features of single tokens, such as nodes, trained with the labels of the
    training part; C is chosen on the validation part. One score a test token; parts are the tokens' own."""

    code = ("anymask.evaluation.probe", "anymask.evaluation.token_classes")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if whole.token_labels is None or whole.token_labels.parts is None:
            raise ClaimError(f"{whole.name} has no labels of tokens with parts of training and test; use such data")
        return whole.subset(chosen), whole.subset(chosen)

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.token_classes import divide, probed, seen, token_features

        division = divide(run, train, None, SEED)
        x = token_features(run, train, trained=trained, precision=precision)
        division, _ = seen(division, x)
        return 100.0 * probed(division, x, linear_probe, seed=SEED).correct


@dataclass(frozen=True)
class Folds(Metric):
    """Accuracy of a support vector machine on frozen features in stratified folds, see `anymask.evaluation.folds`: for
    small sets without a test part. One score a sample, of the machine that was not trained on it.

    Args:
        folds: how many.
        pool: of the features, see `anymask.evaluation.embed`.
    """

    folds: int = 10
    pool: str = "mean"
    code = ("anymask.evaluation.folds",)

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if whole.labels is None:
            raise ClaimError(f"{whole.name} has no labels, which a claim is measured with; use a data set with labels")
        return whole.subset(chosen), whole.subset(chosen)

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.features import embed
        from anymask.evaluation.folds import svm_folds

        assert test.labels is not None
        x = np.asarray(embed(run, test, pool=self.pool, trained=trained, precision=precision))
        return 100.0 * svm_folds(x, test.labels, folds=self.folds, seed=SEED)[0]


@dataclass(frozen=True)
class FineTune(Metric):
    """Accuracy after fine-tuning all weights with few labels, see `anymask.evaluation.finetune`.

    Args:
        labels: labels a class.
        epochs: of fine-tuning.
        lr: peak learning rate of the head.
    """

    labels: int = 100
    epochs: int = 20
    lr: float = 1e-3
    untrained = "from scratch, equal fine-tuning"
    code = ("anymask.evaluation.finetuning",)

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.finetuning import finetune
        from anymask.evaluation.predicting import predicted_classes

        with tempfile.TemporaryDirectory() as folder:
            finetune(
                run, train, epochs=self.epochs, lr=self.lr, labels=self.labels, pretrained=trained, out=folder,
                seed=SEED, precision=precision, progress=False,
            )  # fmt: skip
            return 100.0 * (predicted_classes(folder, test, precision=precision) == test.labels)


@dataclass(frozen=True)
class Retrieve(Metric):
    """nDCG@10 of each query of a collection for retrieval, by the cosine of frozen features (times 100).

    Args:
        pool: of the features, see `anymask.evaluation.embed`.
    """

    pool: str = "cls"
    unit = "points of nDCG@10"
    code = ("anymask.evaluation.tasks.retrieve",)

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if "queries" not in whole.splits:
            raise ClaimError(f"{whole.name} is no collection for retrieval; use a folder in the layout of BEIR")
        return whole.subset(chosen), whole.split("queries")

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.features import embed
        from anymask.evaluation.tasks.retrieve import ranking

        options = dict(pool=self.pool, trained=trained, precision=precision)
        documents, queries = (np.asarray(embed(run, part, **options)) for part in (train, test))  # type: ignore[arg-type]
        return self._ndcg(train, test, ranking(queries, documents))

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.evaluation.tasks.retrieve import best, classical, read_qrels, search_of

        search = search_of(test, train, read_qrels(test.judged))
        return {name: float(self._ndcg(train, test, best(scores)).mean()) for name, scores in classical(search, schema)}

    def _ndcg(self, documents: Source, queries: Source, ranked: Any) -> np.ndarray:
        """(T,) one for each query with a relevant document, in the order of the queries."""
        import ir_measures

        from anymask.evaluation.tasks.retrieve import read_qrels, search_of

        search = search_of(queries, documents, read_qrels(queries.judged))
        found = {m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.nDCG @ 10], search.qrels, ranked)}
        return 100.0 * np.array([found[query] for query in sorted(search.qrels, key=int)])
