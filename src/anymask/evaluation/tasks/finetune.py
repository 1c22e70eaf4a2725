"""Fine-tuning with few labels: pre-trained against from scratch, with equal steps and with equal total compute."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import Source, few_label_draws, split_source
from anymask.engine import Sample
from anymask.evaluation.baselines import MOST, classifier_for, classify
from anymask.evaluation.compute import COUNTED, Costs, pretraining_flops, step_flops
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.inputs import Labels, columns_of, duplicates, parts_of, raw_input, readable
from anymask.evaluation.journal import Journal
from anymask.evaluation.tuning import (
    Check,
    Classifier,
    epochs_for,
    every,
    fixed_batches,
    measured,
    train_classifier,
    training_batches,
)
from anymask.run import Run
from anymask.table import Table, interval
from anymask.train.measure import first_batch
from anymask.train.planning import cropped
from anymask.train.precision import choose
from anymask.train.progress import Progress, duration

ARMS = {
    "pretrained": "pre-trained",
    "steps": "from scratch, equal steps",
    "compute": "from scratch, equal compute",
    "classical": "classical",
}
DEFAULT_LABELS = (10, 100, 1000)
RATES = (3e-4, 1e-3, 3e-3)
SAMPLES_SEEN = 50_000  # where the number of epochs is not given
HELD = 0.2  # share of the labelled samples that settings are chosen on
ENOUGH = 100  # samples; up to a half is held where the share is fewer
STOPS = 4  # the validation part is measured after each quarter of the steps


def evaluate(
    run: Run,
    source: Source,
    *,
    labels: Sequence[Labels] | None = None,
    draws: int = 3,
    epochs: int | Sequence[int] | None = None,
    batch_size: int = 64,
    rates: Sequence[float] = RATES,
    layer_decay: float = 0.75,
    trainable_blocks: int | None = None,
    arms: Sequence[str] | str = tuple(ARMS),
    test: Source | None = None,
    pool: str = "mean",
    journal: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Accuracy after fine-tuning with few labels, in per cent: pre-trained, two arms from scratch, a classical method.

    One scratch arm takes as many steps as the pre-trained one, the other costs as many floating-point operations as
    pre-training and fine-tuning together (see `anymask.evaluation.compute`). All have the same labelled samples,
    augmentation, batches and choice of learning rates; initial weights of the scratch arms differ from draw to draw.

    Each arm's learning rate, and whether it stops after a quarter, a half or three quarters of its steps, are chosen on
    a part of the first draw's labelled samples (a fifth; below 500 samples more, up to a half), after training on the
    others; a stop only where accuracy there is higher than at the end by more than two standard errors. Then each draw
    is trained on all its labelled samples. With one label a class the middle rate is taken. The test part is used for
    the figures alone.

    Args:
        source: labelled.
        labels: labels a class, numbers or "all". None = 10, 100 and 1000, as far as there are so many.
        draws: of the labelled samples; each is a training seed as well.
        epochs: one number, or one for each of `labels`; None = about 50,000 samples in all, from 5 to 100 epochs.
        rates: peak learning rates to choose from.
        layer_decay, trainable_blocks: of the pre-trained arm, see `finetune`; scratch arms train all at one rate.
        arms: of "pretrained", "steps", "compute" and "classical" (a sequence, or text with commas).
        test: what accuracy is measured on; None = the source's own test split, or else a fifth of it.
        journal: a JSON-lines file of what is finished, from which an interrupted call goes on; None = none.

    Returns:
        Rows = arms, columns = labels a class, each with its 95 % interval over the draws; notes with the paired
        differences of the pre-trained arm, steps, learning rates and costs.

    Raises:
        DataError: no labels, one class, or fewer labels than asked for. EvaluateError: impossible options.
    """
    names = _arms(arms)
    train, held, notes = parts_of(run, source, test, seed)
    columns = columns_of(train, DEFAULT_LABELS if labels is None else labels, notes, labels is None)
    counts = [_count(train, n) for n in columns]
    given = _epochs(epochs, counts)
    if draws < 1 or batch_size < 1 or not rates or min(rates) <= 0:
        raise EvaluateError(f"draws={draws}, batch_size={batch_size} and rates={tuple(rates)} have to be positive")
    plan = Plan(
        run=run,
        train=train,
        held=held.cached(),
        classes=int(train.labels.max()) + 1,  # type: ignore[union-attr]
        batch_size=batch_size,
        rates=sorted(rates),
        layer_decay=layer_decay,
        trainable_blocks=trainable_blocks,
        pool=pool,
        precision=choose("auto", run.size.width)[0],
        seed=seed,
        costs=_costs(run, train, pool, trainable_blocks, "compute" in names),
    )
    contest = Contest(plan, Journal(journal, plan.mark()), Progress(show=progress).say)
    scores = {
        (arm, n): np.array([contest.score(arm, n, e, draw, draws) for draw in range(draws)])
        for n, e in zip(columns, given)
        for arm in names
    }
    classical = classifier_for(run.schema)[0]
    titles = {**ARMS, "classical": classical}
    rows: list[Sequence[Any]] = [(titles[arm], *(interval(100 * scores[arm, n]) for n in columns)) for arm in names]
    heads = ["all labels" if n == "all" else f"{n} label{'s' * (n != 1)} a class" for n in columns]
    if "pretrained" in names:
        for arm in names[1:]:
            found = "; ".join(
                f"{interval(100 * (scores['pretrained', n] - scores[arm, n]))} at {head}"
                for n, head in zip(columns, heads)
            )
            notes.append(f"pre-trained minus {titles[arm]}, paired by draw: {found}")
    notes += contest.about(names, list(zip(columns, given))) + _settings(plan, draws, max(counts))
    notes += duplicates(train, held)
    title = f"accuracy in % on {len(held):,} test samples of {held.name}, {run.recipe.slug} fine-tuned"
    return Table(("arm", *heads), rows, title=title, notes=notes)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the figures depend on beside arm, labels, epochs and draw."""

    run: Run
    train: Source
    held: Source
    classes: int
    batch_size: int
    rates: list[float]
    layer_decay: float
    trainable_blocks: int | None
    pool: str
    precision: str
    seed: int
    costs: Costs

    def mark(self) -> str:
        weights = hashlib.sha256((self.run.folder / "model.safetensors").read_bytes()).hexdigest()
        data = [self.train.fingerprint(), len(self.train), self.held.fingerprint()]
        own = [self.batch_size, self.rates, self.layer_decay, self.trainable_blocks, self.pool, self.precision]
        parts = [weights, *data, *own, self.seed, list(self.costs), torch.__version__]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def classifier(self, arm: str, draw: int) -> Classifier:
        run, blocks = self.run, self.trainable_blocks if arm == "pretrained" else None
        if arm != "pretrained":
            run = replace(run, settings={**run.settings, "seed": 1 + self.seed + draw})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + draw)
            model = run.model(trained=arm == "pretrained")
            return Classifier(model, classes=self.classes, pool=self.pool, trainable_blocks=blocks)

    def steps(self, arm: str, samples: int, epochs: int) -> int:
        batch = min(self.batch_size, samples)
        steps = epochs * math.ceil(samples / batch)
        return self.costs.matching_steps(steps, batch) if arm == "compute" else steps

    def fit(
        self, arm: str, part: Source, *, steps: int, lr: float, draw: int, stop: int | None, valid: Source | None = None
    ) -> tuple[Classifier, list[Check]]:
        classifier = self.classifier(arm, draw)
        batch, schema = min(self.batch_size, len(part)), classifier.schema
        checks = train_classifier(
            classifier,
            training_batches(part, schema, batch_size=batch, steps=steps, seed=self.seed + draw),
            steps=steps,
            stop=stop,
            lr=lr,
            layer_decay=self.layer_decay if arm == "pretrained" else 1.0,
            precision=self.precision,
            valid=None if valid is None else lambda: fixed_batches(valid, schema),
            checks=every(steps, STOPS),
        )
        return classifier, checks


class Contest:
    """The arms' figures, from the journal where they are there."""

    def __init__(self, plan: Plan, journal: Journal, say: Callable[[str], None]) -> None:
        self.plan, self.journal, self.say = plan, journal, say
        self._test: Callable[[], Iterable[Sample]] | None = None
        self._raw_test: tuple[np.ndarray, np.ndarray] | None = None

    def score(self, arm: str, labels: Labels, epochs: int, draw: int, draws: int) -> float:
        """Accuracy as a share on the test part."""
        assert self.plan.train.labels is not None
        chosen = lambda d: few_label_draws(self.plan.train.labels, labels, d + 1, self.plan.seed)[d]
        if arm == "classical":
            make = lambda: self._classical(chosen(draw), draw)
            name = f"{arm} {labels} {draw}"
        else:
            settings = self.settings(arm, labels, epochs)
            make = lambda: self._tuned(arm, chosen(draw), draw, settings)
            name = f"{arm} {labels} {epochs} {draw}"
        found = self.journal.get(name, self._timed(f"{ARMS[arm]}, {labels} labels a class, {draw + 1}/{draws}", make))
        return found["accuracy"]

    def settings(self, arm: str, labels: Labels, epochs: int) -> dict[str, Any]:
        """{"lr", "stop", "steps", "validation": accuracy or None}, chosen on the first draw."""
        assert self.plan.train.labels is not None
        whole = self.plan.train.subset(few_label_draws(self.plan.train.labels, labels, 1, self.plan.seed)[0])
        steps = self.plan.steps(arm, len(whole), epochs)
        assert whole.labels is not None
        least = int(np.unique(whole.labels, return_counts=True)[1].min())
        rates = self.plan.rates
        if least < 2:
            return {"lr": rates[len(rates) // 2], "stop": steps, "steps": steps, "validation": None}
        part, valid = split_source(whole, fraction=min(0.5, max(HELD, ENOUGH / len(whole))), seed=self.plan.seed)
        tried: list[dict[str, Any]] = []
        for lr in rates:
            what = f"{ARMS[arm]}, {labels} labels a class, learning rate {lr:g} on the validation part"
            make = self._timed(what, partial(self._tried, arm, part, valid, steps, lr))
            tried.append(self.journal.get(f"{arm} {labels} {epochs} lr {lr:g}", make))
        best = max(tried, key=lambda t: (t["accuracy"], -t["loss"]))
        return {"lr": best["lr"], "stop": best["stop"], "steps": steps, "validation": best["accuracy"]}

    def _tried(self, arm: str, part: Source, valid: Source, steps: int, lr: float) -> dict[str, Any]:
        _, checks = self.plan.fit(arm, part, steps=steps, lr=lr, draw=0, stop=None, valid=valid)
        kept = stopping(checks, len(valid))
        return {"lr": lr, "stop": kept.step, "accuracy": kept.accuracy, "loss": kept.loss}

    def _tuned(self, arm: str, chosen: np.ndarray, draw: int, settings: dict[str, Any]) -> dict[str, Any]:
        part, lr, stop = self.plan.train.subset(chosen), settings["lr"], settings["stop"]
        classifier, _ = self.plan.fit(arm, part, steps=settings["steps"], lr=lr, draw=draw, stop=stop)
        return {"accuracy": measured(classifier, self._held()(), self.plan.precision)[0], **settings}

    def _held(self) -> Callable[[], Iterable[Sample]]:
        """Makes batches of the test part, which are kept where the data lie in memory."""
        if self._test is None:
            held, schema = self.plan.held, self.plan.classifier("pretrained", 0).schema
            kept = list(fixed_batches(held, schema)) if held.in_memory else None
            self._test = lambda: kept if kept is not None else fixed_batches(held, schema)
        return self._test

    def _classical(self, chosen: np.ndarray, draw: int) -> dict[str, Any]:
        schema, part = self.plan.run.schema, self.plan.train.subset(chosen)
        if self._raw_test is None:
            self._raw_test = readable(raw_input(self.plan.held, schema), self.plan.held)
        x, y = readable(raw_input(part, schema), part)
        said, settings = classify(schema, x, y, self._raw_test[0], seed=self.plan.seed + draw)
        return {"accuracy": float((said == self._raw_test[1]).mean()), "chosen": settings}

    def _timed(self, what: str, make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        def timed() -> dict[str, Any]:
            begun = time.monotonic()
            value = make()
            seconds = time.monotonic() - begun
            self.say(f"{what}: {100 * value['accuracy']:.1f} %, {duration(seconds)}")
            return {**value, "seconds": round(seconds, 2)}

        return timed

    def about(self, names: Sequence[str], columns: Sequence[tuple[Labels, int]]) -> list[str]:
        """What each arm was trained with, and what it cost."""
        costs, lines = self.plan.costs, []
        for arm in names:
            if arm == "classical":
                continue
            each = costs.tuned if arm == "pretrained" else costs.whole
            spent = []
            for n, epochs in columns:
                found = self.settings(arm, n, epochs)
                samples = _count(self.plan.train, n)
                total = found["steps"] * min(self.plan.batch_size, samples) * each
                total += costs.pretraining if arm == "pretrained" else 0.0
                early = f" (stopped at {found['stop']:,})" if found["stop"] < found["steps"] else ""
                spent.append(
                    f"{found['steps']:,} steps{early}, learning rate {found['lr']:g}, {_flops(total)} at {n} labels"
                )
            lines.append(f"{ARMS[arm]}: {'; '.join(spent)}")
        seconds = sum(record["seconds"] for record in self.journal.known.values())
        lines.append(f"all arms, draws and learning rates took {duration(seconds)}, without pre-training")
        return lines


def stopping(checks: Sequence[Check], samples: int) -> Check:
    """The end, or the check with the best accuracy where that is higher by more than two standard errors."""
    end = checks[-1]
    best = max(checks, key=lambda check: (check.accuracy, -check.loss))
    error = math.sqrt(best.accuracy * (1 - best.accuracy) / samples)
    return best if best.accuracy - end.accuracy > 2 * error else end


def _costs(run: Run, train: Source, pool: str, blocks: int | None, wanted: bool) -> Costs:
    """`pretraining` is NaN where no arm needs it and the run does not say it."""
    batch = first_batch(train, cropped(run.schema, run.build()), COUNTED)
    each = []
    for k in (blocks, None):
        classifier = Classifier(run.model(trained=False), classes=2, pool=pool, trainable_blocks=k)
        each.append(step_flops(partial(_forward, classifier), batch))
    known = wanted or "steps" in run.settings
    return Costs(pretraining_flops(run, train) if known else math.nan, *each)


def _forward(classifier: Classifier, batch: Sample) -> Tensor:
    return classifier(batch).float().logsumexp(1).sum()


def _arms(arms: Sequence[str] | str) -> list[str]:
    names = [name.strip() for name in arms.split(",")] if isinstance(arms, str) else list(arms)
    wrong = [name for name in names if name not in ARMS]
    if wrong or not names:
        raise EvaluateError(f"no arm {wrong[0]!r}; there is: {', '.join(ARMS)}" if wrong else "name one arm at least")
    return [name for name in ARMS if name in names]


def _epochs(epochs: int | Sequence[int] | None, counts: Sequence[int]) -> list[int]:
    """Epochs of each column, for so many samples."""
    if epochs is None:
        return [epochs_for(count, SAMPLES_SEEN) for count in counts]
    given = [epochs] * len(counts) if isinstance(epochs, int) else list(epochs)
    if len(given) != len(counts) or min(given, default=1) < 1:
        raise EvaluateError(
            f"epochs={epochs} has to be one number from 1 on, or one for each of the {len(counts)} numbers of labels"
        )
    return given


def _count(train: Source, labels: Labels) -> int:
    """Labelled samples of one draw."""
    assert train.labels is not None
    known = train.labels[train.labels >= 0]
    return len(known) if labels == "all" else labels * len(np.unique(known))


def _settings(plan: Plan, draws: int, most: int) -> list[str]:
    costs, run = plan.costs, plan.run
    blocks = "" if plan.trainable_blocks is None else f", last {plan.trainable_blocks} blocks only"
    kept = "" if most <= MOST else f"; the classical method has at most {MOST:,} samples"
    return [
        f"operations a sample: fine-tuning {_flops(costs.tuned)}, of all weights {_flops(costs.whole)}; "
        f"pre-training in all {_flops(costs.pretraining)}",
        f"batches of {plan.batch_size}, AdamW, {plan.precision}; layer decay {plan.layer_decay:g} in the pre-trained "
        f"arm{blocks}; features are pooled by {plan.pool!r}",
        f"learning rates {', '.join(f'{rate:g}' for rate in plan.rates)} and an early stop are chosen on labelled "
        f"samples of the first draw; {draws} draw{'s' * (draws != 1)} with one pre-training (seed "
        f"{run.settings.get('seed', 0)}){kept}",
    ]


def _flops(value: float) -> str:
    """'1.2 TFLOP'"""
    if math.isnan(value):
        return "an unknown number of FLOP"
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f} FLOP"
