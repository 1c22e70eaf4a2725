"""Splits, few-label draws and duplicates across a split."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .errors import DataError
from .source import Source


def split_source(source: Source, *, fraction: float = 0.2, seed: int = 0, groups: bool = True,
                 stratify: bool = True) -> tuple[Source, Source]:
    """(train, test), with about `fraction` of the samples in test.

    With groups no group is on both sides; else every class is split in the same proportion; else at random. Both keep
    the source's order. Raises DataError if a side would be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"fraction={fraction} must lie between 0 and 1, as 0.2")
    rng = np.random.default_rng(seed)
    group, label = source.groups, source.labels
    if groups and group is not None:
        test = _by_group(group, fraction, rng, source.name)
    elif stratify and label is not None:
        test = _by_label(label, fraction, rng)
    else:
        test = _some(np.arange(len(source)), fraction, rng)
    held = np.zeros(len(source), dtype=bool)
    held[test] = True
    if held.all() or not held.any():
        raise DataError(f"{source.name} has {len(source)} sample(s), too few for fraction={fraction}; add data or "
                        f"change fraction")
    return source.subset(np.flatnonzero(~held)), source.subset(np.flatnonzero(held))


def _some(indices: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    n = round(len(indices) * fraction)
    if len(indices) > 1:
        n = min(max(n, 1), len(indices) - 1)  # both sides see every class that has two samples
    return rng.permutation(indices)[:n]


def _by_label(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([_some(np.flatnonzero(labels == c), fraction, rng) for c in np.unique(labels)])


def _by_group(groups: np.ndarray, fraction: float, rng: np.random.Generator, name: str) -> np.ndarray:
    names, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(f"all samples of {name} are of one group ({names[0]}), which cannot be on both sides; pass "
                        "groups=False or another group column")
    chosen: list[int] = []
    held = 0
    for g in rng.permutation(len(names)):
        # a group is taken if that brings the test part nearer to the wanted size
        if abs(held + counts[g] - fraction * len(groups)) < abs(held - fraction * len(groups)) or not chosen:
            chosen.append(int(g))
            held += counts[g]
        if len(chosen) == len(names) - 1:
            break
    return np.flatnonzero(np.isin(number, chosen))


def duplicates_across(a: Source, b: Source) -> list[tuple[int, int]]:
    """Pairs (number in a, number in b) of samples with equal decoded content. Reads every sample of both once."""
    places: dict[str, list[int]] = {}
    for i in range(len(a)):
        places.setdefault(a.content_hash(i), []).append(i)
    return sorted((i, j) for j in range(len(b)) for i in places.get(b.content_hash(j), ()))


def few_label_draws(labels: np.ndarray, per_class: int | Literal["all"], draws: int, seed: int) -> list[np.ndarray]:
    """`draws` arrays of sample numbers, each with `per_class` samples of every class (-1 = unlabelled is left out).

    With "all", each draw is all labelled samples. Raises DataError naming a class that has fewer than asked for.
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    if per_class == "all":
        return [known.copy() for _ in range(draws)]
    classes = np.unique(labels[known])
    if per_class < 1 or not len(classes):
        raise DataError(f"few_label_draws needs labels and at least 1 label a class; got per_class={per_class} and "
                        f"{len(classes)} classes")
    members = {int(c): np.flatnonzero(labels == c) for c in classes}
    for c, there in members.items():
        if len(there) < per_class:
            raise DataError(f"class {c} has {len(there)} labelled sample(s), fewer than {per_class} a class; ask for "
                            f"{min(len(m) for m in members.values())} or fewer, or leave out the class")
    rngs = [np.random.default_rng([seed, draw]) for draw in range(draws)]
    return [np.concatenate([np.sort(rng.permutation(m)[:per_class]) for m in members.values()]) for rng in rngs]
