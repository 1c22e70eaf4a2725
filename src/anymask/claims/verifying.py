"""`verify`: both arms trained and measured, then judged."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import numpy as np

from anymask.claims import arms
from anymask.claims.errors import ClaimError, OutOfTime
from anymask.claims.evidence import ARMS, Evidence, unpack
from anymask.claims.judging import judge
from anymask.compare import diff
from anymask.recipe import USER_MODULE, Recipe, find

PILOT_SEED = 100


def verify(
    recipe: Recipe | str,
    *,
    name: str = "",
    seeds: int = 5,
    scale: float = 1.0,
    budget: float | None = None,
    out: str | Path | None = "evidence",
    data: str | Path | None = None,
    pilot: bool = False,
    progress: bool = True,
) -> Evidence:
    """Runs a recipe's claim, writes <out>/<slug>.json and returns what is in it.

    Both arms have the same data, steps, batch size, model size and seeds; seeds are 0 .. seeds-1, none is dropped.
    Trained arms are kept in $ANYMASK_CACHE (~/.cache/anymask/claims) by what went into them, so that claims share them
    and a call that was interrupted goes on.

    Args:
        name: of a further claim of the recipe; "" = its main one.
        pilot: for trying what a claim is to be: measured on training samples that are not trained on, with seeds from
            100 on; nothing is written.
        scale: multiplies the samples seen: first the size of the training part, then, when it is used up, the epochs.
        budget: seconds; when they are used up no further arm is begun.
        data: folder that holds the data set of the claim, as <data>/cifar10; None = $ANYMASK_DATA.

    Raises:
        ClaimError: the recipe has no claim, its arms do not differ or see unequal numbers of samples, or the data set
            is not there.
        OutOfTime: the budget is used up before all arms are measured. Nothing is lost: the same call goes on.
    """
    end = None if budget is None else time.monotonic() + budget
    recipe = find(recipe)
    if not recipe.claims:
        raise ClaimError(
            f"recipe {recipe.slug!r} makes no claim; add `claim = Claim(text=..., better_than=...)` to its file"
        )
    if name not in recipe.claims:
        names = ", ".join(repr(n) for n in recipe.claims if n) or "none"
        raise ClaimError(f"recipe {recipe.slug!r} has no claim {name!r}; its further claims: {names}")
    claim = recipe.claims[name]
    first = PILOT_SEED if pilot else 0
    if seeds < 2:
        raise ClaimError("a claim needs at least two seeds, as the interval is over seeds; --seeds 5 is the default")
    both = dict(zip(ARMS, (claim.ours(recipe), claim.better_than(recipe))))
    difference = [dict(zip(("argument", *ARMS), row)) for row in diff(*both.values())]
    if not difference:
        raise ClaimError(
            f"both arms of the claim of {recipe.slug!r} are the same; better_than has to switch something off"
        )
    bench = arms.open_bench(claim, data, scale, pilot=pilot)
    made = {arm: bench.arm(one) for arm, one in both.items()}
    equal_budget(*made.values())
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    untrained = []
    for seed in range(first, first + seeds):  # seed by seed, so that an interrupted call has pairs
        for arm in ARMS:
            if end is not None and time.monotonic() > end and not bench.done(made[arm], seed):
                raise OutOfTime(
                    f"the time is used up with {len(results['comparator'])} of {seeds} seeds of {recipe.slug} "
                    "measured in both arms; run the same command again to go on, nothing is lost"
                )
            results[arm].append(bench.run(made[arm], seed, f"{recipe.slug}, {arm}, seed {seed}", progress))
        if claim.metric.untrained:
            untrained.append(bench.untrained(made["ours"], seed))
    ours, comparator = (np.stack([unpack(one["scores"]) for one in results[arm]]) for arm in ARMS)
    judged = judge(ours, comparator, claim.smallest_effect)
    context = {what: [value] for what, value in bench.context().items()}
    evidence = Evidence(
        recipe=recipe.slug,
        claim=claim.text,
        unit=claim.metric.unit,
        verdict=judged.verdict,
        note=judged.note,
        smallest_effect=claim.smallest_effect,
        effect=judged.effect,
        seeds=list(range(first, first + seeds)),
        arms=results,
        context=context | ({claim.metric.untrained: untrained} if untrained else {}),
        difference=difference,
        budget=made["ours"].budget() | {"scale": scale, "metric": claim.metric.words()},
        data=bench.about(),
        command=_command(recipe, name, seeds, scale),
        machine=arms.machine(),
        name=name,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    if out is not None and not pilot:
        evidence.save(out)
    return evidence


def equal_budget(ours: arms.Arm, comparator: arms.Arm) -> None:
    """
    Raises:
        ClaimError: the arms see unequal numbers of samples.
    """
    if ours.seen != comparator.seen:
        raise ClaimError(
            f"the arms see {ours.seen:,} and {comparator.seen:,} samples; a comparison needs equal budgets: give "
            "both the same stages, epochs and samples"
        )


def _command(recipe: Recipe, claim: str, seeds: int, scale: float) -> str:
    named = recipe.slug
    if recipe.module.startswith(USER_MODULE):
        named = f"{recipe.module.removeprefix(USER_MODULE)}.py:{recipe.slug}"
    options = f" --claim {claim}" * bool(claim) + f" --seeds {seeds}" + f" --scale {scale:g}" * (scale != 1)
    return f"anymask verify {named}{options}"
