"""Claims: what a paper says its mechanism does, as two arms that differ in nothing else.

`verify` trains both arms from several seeds, measures their frozen features on an official test split, and judges the
difference: the 95 % interval of the paired difference, by bootstrap over seeds and test samples,

    lies above zero                   -> shown
    lies below the smallest effect    -> not shown
    else                              -> too noisy to say
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anymask.compare import diff
from anymask.errors import AnymaskError
from anymask.evaluation.probe import Scores, linear_probe
from anymask.recipe import Recipe
from anymask.table import Figure, Table

FORMAT = 1
ARMS = ("ours", "comparator")
SHOWN, NOT_SHOWN, NOISY = "shown", "not shown", "too noisy to say"
RESAMPLES = 10_000


class ClaimError(AnymaskError):
    """A claim that cannot be verified so; the message names the mend."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    Args:
        text: the claim in one sentence.
        better_than: the recipe -> the comparator, the mechanism switched off.
        ours: the recipe -> the arm that has the mechanism, where it is not the recipe itself.
        on: data set of the claim: a folder among the data sets, or "digits".
        metric: of the frozen features, on (train_x, train_y, test_x, test_y).
        pool: of the features, see `anymask.evaluation.embed`.
        smallest_effect: the least difference in points that would matter, stated before the run.
        size, epochs, samples, batch_size: of both arms. `samples` are pre-trained on, and probed with their labels.
    """

    text: str
    better_than: Callable[[Recipe], Recipe]
    ours: Callable[[Recipe], Recipe] = lambda r: r
    on: str = "cifar10"
    metric: Callable[..., Scores] = linear_probe
    pool: str = "mean"
    smallest_effect: float = 1.0
    size: str = "nano"
    epochs: int = 10
    samples: int = 5000
    batch_size: int = 128


class Verdict(NamedTuple):
    """A judgement, and the paired difference with its 95 % interval, in points."""

    verdict: str
    effect: Figure
    note: str


@dataclass
class Evidence:
    """What `verify` found; `<slug>.json` has the same fields. Accuracies and effects are in per cent and points."""

    recipe: str
    claim: str
    verdict: str
    note: str
    smallest_effect: float
    effect: Figure
    seeds: list[int]
    arms: dict[str, list[dict[str, Any]]]  # arm -> one dict a seed: accuracy, chosen, seconds, correct (see `unpack`)
    context: dict[str, Any]  # accuracy of raw input, and of the untrained encoder for each seed
    difference: list[dict[str, str]]  # what separates the arms: argument, ours, comparator
    budget: dict[str, Any]
    data: dict[str, Any]
    command: str
    machine: dict[str, Any]
    date: str
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"effect": self.effect.to_json()}

    def save(self, folder: str | Path) -> Path:
        """Writes <folder>/<recipe>.json."""
        from anymask.run import write_atomically

        path = Path(folder).expanduser() / f"{self.recipe}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(self.to_json(), indent=1).encode())
        return path

    def table(self) -> Table:
        """Accuracy of each arm, and the verdict as a note."""
        from anymask.table import interval

        rows: list[Any] = [
            ("raw input", Figure(self.context["raw input"])),
            ("untrained encoder", interval(np.array(self.context["untrained encoder"]))),
        ]
        for arm in ARMS:
            rows.append((arm, interval(np.array([one["accuracy"] for one in self.arms[arm]]))))
        changes = "; ".join(f"{d['argument']} {d['ours']} against {d['comparator']}" for d in self.difference)
        notes = [
            f"{self.verdict}: the difference is {self.effect} points, the smallest that matters {self.smallest_effect}",
            *([self.note] if self.note else []),
            f"the arms differ in: {changes}",
        ]
        title = f"{self.recipe}: {self.claim} (accuracy in %, {len(self.seeds)} seeds, {self.data['name']})"
        return Table(("arm", "accuracy"), rows, title=title, notes=notes)


def verify(
    recipe: Recipe | str,
    *,
    seeds: int = 5,
    scale: float = 1.0,
    out: str | Path = "evidence",
    data: str | Path | None = None,
    progress: bool = True,
) -> Evidence:
    """Runs a recipe's claim, writes <out>/<slug>.json and returns what is in it.

    Both arms have the same data, steps, batch size, model size and seeds; seeds are 0 .. seeds-1, none is dropped.
    Trained arms are kept in $ANYMASK_CACHE (~/.cache/anymask/claims) by what went into them, so that claims share them
    and a call that was interrupted goes on.

    Args:
        scale: multiplies the samples seen: first the size of the training part, then, when it is used up, the epochs.
        data: folder that holds the data set of the claim, as <data>/cifar10; None = $ANYMASK_DATA.

    Raises:
        ClaimError: the recipe has no claim, its arms do not differ or see unequal numbers of samples, or the data set
            is not there.
    """
    from anymask import arms
    from anymask.recipe import find

    recipe = find(recipe)
    claim = recipe.claim
    if claim is None:
        raise ClaimError(
            f"recipe {recipe.slug!r} makes no claim; add `claim = Claim(text=..., better_than=...)` to its file"
        )
    if seeds < 2:
        raise ClaimError("a claim needs at least two seeds, as the interval is over seeds; --seeds 5 is the default")
    both = dict(zip(ARMS, (claim.ours(recipe), claim.better_than(recipe))))
    difference = [dict(zip(("argument", *ARMS), row)) for row in diff(*both.values())]
    if not difference:
        raise ClaimError(
            f"both arms of the claim of {recipe.slug!r} are the same; better_than has to switch something off"
        )
    bench = arms.open_bench(claim, data, scale)
    made = {name: bench.arm(arm) for name, arm in both.items()}
    equal_budget(*made.values())
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    untrained = []
    for seed in range(seeds):  # seed by seed, so that an interrupted call has pairs
        for name in ARMS:
            results[name].append(bench.run(made[name], seed, f"{recipe.slug}, {name}, seed {seed}", progress))
        untrained.append(bench.untrained(made["ours"], seed))
    ours, comparator = (np.stack([unpack(one["correct"]) for one in results[name]]) for name in ARMS)
    judged = judge(ours, comparator, claim.smallest_effect)
    evidence = Evidence(
        recipe=recipe.slug,
        claim=claim.text,
        verdict=judged.verdict,
        note=judged.note,
        smallest_effect=claim.smallest_effect,
        effect=judged.effect,
        seeds=list(range(seeds)),
        arms=results,
        context={"raw input": bench.raw(), "untrained encoder": untrained},
        difference=difference,
        budget=made["ours"].budget() | {"scale": scale, "metric": claim.metric.__name__, "pool": claim.pool},
        data=bench.about(),
        command=_command(recipe, seeds, scale),
        machine=arms.machine(),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    evidence.save(out)
    return evidence


def judge(ours: np.ndarray, comparator: np.ndarray, smallest_effect: float, *, seed: int = 0) -> Verdict:
    """The verdict on two arms.

    Args:
        ours, comparator: (S, T) bool, whether the run of seed s is right on test sample t; the same seeds and samples.
        smallest_effect: in points.
        seed: of the bootstrap.

    The bootstrap has two levels, crossed: seeds are drawn with replacement, then test samples, the same ones for all
    seeds and both arms.
    """
    if ours.shape != comparator.shape or ours.ndim != 2:
        raise ClaimError(
            f"the arms have results of the shapes {ours.shape} and {comparator.shape}; both need (seeds, samples)"
        )
    rng = np.random.default_rng(seed)
    gap = ours.astype(np.int8) - comparator.astype(np.int8)  # S T
    seeds, samples = gap.shape
    # Samples on which all seeds' gaps are equal are alike: drawing their number draws the samples.
    kinds, counts = np.unique(gap, axis=1, return_counts=True)
    drawn = rng.multinomial(samples, counts / samples, size=RESAMPLES) @ kinds.T  # RESAMPLES S
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    effects = 100 * (drawn * weights).sum(1) / (seeds * samples)
    low, high = (float(q) for q in np.quantile(effects, (0.025, 0.975)))
    effect = Figure(float(100 * gap.mean()), low, high)
    if low > 0:
        note = "real, but smaller than the smallest effect that matters" if high < smallest_effect else ""
        return Verdict(SHOWN, effect, note)
    if high < smallest_effect:
        return Verdict(NOT_SHOWN, effect, "the comparator is better" if high < 0 else "")
    return Verdict(NOISY, effect, "more seeds (--seeds) or samples (--scale) narrow the interval")


def equal_budget(ours: Any, comparator: Any) -> None:
    """
    Raises:
        ClaimError: the arms see unequal numbers of samples.
    """
    if ours.seen != comparator.seen:
        raise ClaimError(
            f"the arms see {ours.seen:,} and {comparator.seen:,} samples; a comparison needs equal budgets: give "
            "both the same stages, epochs and samples"
        )


def pack(correct: np.ndarray) -> dict[str, Any]:
    """(T,) bool as text: the number of samples, and their bits in base 64, first sample in the highest bit."""
    import base64

    return {"count": len(correct), "bits": base64.b64encode(np.packbits(correct).tobytes()).decode()}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The inverse of `pack`."""
    import base64

    bits = np.frombuffer(base64.b64decode(packed["bits"]), dtype=np.uint8)
    return np.unpackbits(bits, count=packed["count"]).astype(bool)


def _command(recipe: Recipe, seeds: int, scale: float) -> str:
    from anymask.recipe import USER_MODULE

    name = recipe.slug
    if recipe.module.startswith(USER_MODULE):
        name = f"{recipe.module.removeprefix(USER_MODULE)}.py:{recipe.slug}"
    return f"anymask verify {name} --seeds {seeds}" + (f" --scale {scale:g}" if scale != 1 else "")
