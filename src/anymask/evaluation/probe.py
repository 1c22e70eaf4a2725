"""Linear probe and nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anymask.evaluation.errors import EvaluateError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C, the inverse of the penalty, as scikit-learn's
ONE_LABEL = 0.1  # C where there are too few labels to choose it
NEIGHBOURS = (1, 5, 20)
TEMPERATURE = 0.07  # of the votes of neighbours, as in Wu et al. 2018, arXiv:1805.01978
FOLDS = 5
LARGE = 1_000  # of a training part with more samples, C is chosen on a fifth and k on so many


class Scores(NamedTuple):
    """What a probe says of a test part."""

    accuracy: float  # share of the test samples
    correct: np.ndarray  # (M,) bool
    predicted: np.ndarray  # (M,) labels
    chosen: float  # C of the linear probe, k of the neighbours


def linear_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    reference: np.ndarray | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Scores:
    """Logistic regression over all classes with an L2 penalty, as scikit-learn's, on standardised features.

    C is chosen by log-loss on labelled samples only, by cross-validation in 5 folds, in a part of more than 1,000
    samples on a fifth of it; then the fit is on all of them. With a class of fewer than 5 labels C is 0.1.

    Args:
        train_x: (N, ...) features, flattened. train_y: (N,) labels, integers. test_x, test_y likewise.
        reference: (R, ...) features whose mean and spread standardise all; None = train_x.
        validation: features and labels of a validation part; C is then what is most accurate there, and so is whether
            each feature is divided by its own spread, or all by a common one (which sparse counts prefer).
        strengths: values of C to choose from.

    Raises:
        EvaluateError: fewer than two classes, features that are not finite, or shapes that do not fit.
    """
    classes, y = _classes(train_x, train_y, test_x, test_y)
    with _threads_for(np.size(train_x) * len(strengths) + np.size(test_x)):
        reference = train_x if reference is None else reference
        x, test = _standardised(train_x, test_x, reference)
        c = strengths[0]
        if validation is not None:
            truth = torch.from_numpy(np.searchsorted(classes, validation[1]))
            ways = [_standardised(train_x, np.concatenate([test_x, validation[0]]), reference, common=common)
                    for common in (False, True)]  # fmt: skip
            found = [_choose_on(one, y, two[len(test_x) :], truth, strengths) for one, two in ways]
            way = max((0, 1), key=lambda n: found[n][1])
            x, test, c = ways[way][0], ways[way][1][: len(test_x)], found[way][0]
        elif len(strengths) > 1:
            c = _choose(x, y, strengths, seed) if torch.bincount(y).min() >= FOLDS else ONE_LABEL
        weight, bias = logistic_regression(x, y, [c])
        return _scores(classes, test @ weight[0] + bias[0], test_y, c)


def log_odds(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    *,
    reference: np.ndarray | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> np.ndarray:
    """(M,) log-odds of the higher of two classes, by the logistic regression of `linear_probe`; arguments as there.

    Raises:
        EvaluateError: as `linear_probe`.
    """
    classes, y = _classes(train_x, train_y, test_x, np.zeros(len(test_x)))
    if len(classes) != 2:
        raise EvaluateError(f"log-odds are of two classes, not of {len(classes)}")
    with _threads_for(np.size(train_x) * len(strengths) + np.size(test_x)):
        x, test = _standardised(train_x, test_x, train_x if reference is None else reference)
        c = _choose(x, y, strengths, seed) if torch.bincount(y).min() >= FOLDS else ONE_LABEL
        weight, bias = logistic_regression(x, y, [c])
        logits = test @ weight[0] + bias[0]
    return (logits[:, 1] - logits[:, 0]).numpy()


def knn(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    reference: np.ndarray | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    neighbours: Sequence[int] = NEIGHBOURS,
    seed: int = 0,
) -> Scores:
    """Nearest neighbours by the cosine of standardised features; votes are weighed with exp(cosine / 0.07), as Wu et
    al. 2018 (arXiv:1805.01978).

    k is chosen from `neighbours` by leaving one out within the training part (of a large part, 1,000 of its samples),
    or on a validation part.
    No k exceeds the smallest class, so k is 1 with one label a class. Arguments and errors as `linear_probe`.
    """
    classes, y = _classes(train_x, train_y, test_x, test_y)
    with _threads_for(len(train_y) * (len(test_y) + LARGE)):
        reference = train_x if reference is None else reference
        x, test = (_unit(v) for v in _standardised(train_x, test_x, reference))
        fitting = [k for k in neighbours if k <= int(torch.bincount(y).min())] or [1]
        k = fitting[0]
        if validation is not None:
            held = _unit(_standardised(train_x, validation[0], reference)[1])
            truth = torch.from_numpy(np.searchsorted(classes, validation[1]))
            k = max(fitting, key=lambda k: int((_vote(held, x, y, k).argmax(1) == truth).sum()))
        elif len(fitting) > 1:
            asked = torch.from_numpy(np.random.default_rng(seed).permutation(len(y))[:LARGE])
            hits = [int((_vote(x[asked], x, y, k, asked).argmax(1) == y[asked]).sum()) for k in fitting]
            k = fitting[int(np.argmax(hits))]
        return _scores(classes, _vote(test, x, y, k), test_y, k)


def logistic_regression(
    x: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    *,
    weight: Tensor | None = None,
    tolerance: float = 1e-2,
    steps: int = 500,
) -> tuple[Tensor, Tensor]:
    """Several multinomial logistic regressions on the same samples at once.

    Minimises sum_i weight_i * -log p(y_i | x_i) + |W|^2 / (2 C) in each; the bias is not penalised. Steps go along the
    gradient divided by Böhning's bound of the Hessian (1992, Annals of the Institute of Statistical Mathematics 44),
    which is diagonal in the principal axes of x and needs no line search; Nesterov's momentum restarts where it turns
    uphill (O'Donoghue & Candès 2015, arXiv:1204.3982).

    Args:
        x: (N, D) float32. y: (N,) int64, every class of 0 .. K-1 in it.
        strengths: C of each of the P problems.
        weight: (P, N) of the samples in [0, 1], to leave some out; None = 1.
        tolerance: stops when no component of the step, in units that make the bound 1, is larger.
        steps: at most.

    Returns:
        W (P, D, K) and bias (P, K).
    """
    centre = x.mean(0)
    axes, spread, z = _principal(x - centre)  # D r; r; N r
    n, classes, problems = len(x), int(y.max()) + 1, len(strengths)
    z = torch.cat([z, torch.ones(n, 1)], 1)
    penalty = torch.zeros(problems, z.shape[1], 1)
    penalty[:, :-1] = 1 / torch.tensor(strengths)[:, None, None]
    bound = 0.5 * torch.cat([spread, torch.tensor([float(n)])])[:, None] + penalty  # P r+1 1
    truth = torch.nn.functional.one_hot(y, classes).float()[:, None]  # N 1 K
    w = torch.zeros(problems, z.shape[1], classes)
    ahead, momentum = w, torch.ones(problems, 1, 1)
    for _ in range(steps):
        logits = (z @ ahead.transpose(0, 1).flatten(1)).unflatten(1, (problems, classes))  # N P K
        error = torch.softmax(logits, 2) - truth
        if weight is not None:
            error = error * weight.T[..., None]
        slope = (z.T @ error.flatten(1)).unflatten(1, (problems, classes)).transpose(0, 1) + penalty * ahead
        move = slope / bound
        if float((move * move * bound).amax()) < tolerance**2:
            break
        new = ahead - move
        uphill = (slope * (new - w)).sum((1, 2), keepdim=True) > 0
        following = torch.where(uphill, 1.0, (1 + torch.sqrt(1 + 4 * momentum**2)) / 2)
        rate = torch.where(uphill, 0.0, (momentum - 1) / following)
        ahead, w, momentum = new + rate * (new - w), new, following
    coefficients = axes @ w[:, :-1]
    return coefficients, w[:, -1] - centre @ coefficients


@contextmanager
def _threads_for(numbers: int) -> Iterator[None]:
    """One thread for little work: handing it to several, on cores that others use as well, takes ten times as long."""
    before = torch.get_num_threads()
    if numbers < 2**22:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal axes of centred x (N, D): (D, r), the sums of squares along them (r,), and x along them (N, r); r is at
    most min(N, D). A penalised fit has no component off them."""
    wide = x.shape[1] > x.shape[0]
    gram = x @ x.T if wide else x.T @ x
    values, vectors = torch.linalg.eigh(gram.double())
    real = values > values[-1].clamp(min=1e-12) * 1e-7
    values, vectors = values[real].float(), vectors[:, real].float()
    axes = x.T @ vectors / values.sqrt() if wide else vectors
    return axes, values * (1 + 1e-3) + 1e-6, x @ axes


def _choose(x: Tensor, y: Tensor, strengths: Sequence[float], seed: int) -> float:
    """The C with the least log-loss on samples that were left out."""
    fold = _folds(y, seed)
    used = [0] if len(y) > LARGE else range(FOLDS)
    inside = torch.stack([(fold != f).float() for f in used for _ in strengths])  # P N
    weight, bias = logistic_regression(x, y, [*strengths] * len(used), weight=inside)
    losses = torch.zeros(len(strengths))
    for i, f in enumerate(used):
        out = fold == f
        mine = slice(i * len(strengths), (i + 1) * len(strengths))
        logits = torch.einsum("nd,pdk->pnk", x[out], weight[mine]) + bias[mine, None]
        for j, one in enumerate(logits):
            losses[j] += torch.nn.functional.cross_entropy(one, y[out], reduction="sum")
    return float(strengths[int(losses.argmin())])


def _choose_on(
    x: Tensor, y: Tensor, held: Tensor, truth: Tensor, strengths: Sequence[float]
) -> tuple[float, tuple[float, float]]:
    """The C with the highest accuracy on a validation part, of equal ones that with the least log-loss; and both."""
    weight, bias = logistic_regression(x, y, [*strengths])
    logits = torch.einsum("nd,pdk->pnk", held, weight) + bias[:, None]
    right = (logits.argmax(2) == truth).float().mean(1)
    losses = torch.stack([torch.nn.functional.cross_entropy(one, truth) for one in logits])
    best = max((right[n].item(), -losses[n].item(), float(c)) for n, c in enumerate(strengths))
    return best[2], best[:2]


def _folds(y: Tensor, seed: int) -> Tensor:
    """(N,) fold of each sample, every class spread evenly over them."""
    rng = np.random.default_rng(seed)
    fold = torch.empty_like(y)
    for c in y.unique():
        members = torch.from_numpy(rng.permutation(torch.nonzero(y == c)[:, 0].numpy()))
        fold[members] = torch.arange(len(members)) % FOLDS
    return fold


def _vote(queries: Tensor, x: Tensor, y: Tensor, k: int, left_out: Tensor | None = None) -> Tensor:
    """(Q, K) votes of the k nearest of x (N, D) for the classes of unit vectors (Q, D); sample `left_out` (Q,) of x has
    no vote."""
    votes = []
    for start in range(0, len(queries), 1024):
        near = queries[start : start + 1024] @ x.T
        if left_out is not None:
            near.scatter_(1, left_out[start : start + 1024, None], -2.0)
        cosine, who = near.topk(k, dim=1)
        tally = torch.zeros(len(near), int(y.max()) + 1)
        votes.append(tally.scatter_add_(1, y[who], torch.exp((cosine - 1) / TEMPERATURE)))
    return torch.cat(votes)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def _standardised(
    train_x: np.ndarray, test_x: np.ndarray, reference: np.ndarray, *, common: bool = False
) -> tuple[Tensor, Tensor]:
    """Both as (N, D) float32, in units of the spread of `reference`, of each feature or a common one; features without
    spread become 0."""
    train, test, known = (np.asarray(v, dtype=np.float32).reshape(len(v), -1) for v in (train_x, test_x, reference))
    if not train.shape[1] == test.shape[1] == known.shape[1]:
        raise EvaluateError(
            f"training features are {train.shape[1]} wide, test features {test.shape[1]}, reference features "
            f"{known.shape[1]}; embed all with the same run, pool and layer"
        )
    mean, spread = known.mean(0, dtype=np.float64), known.std(0, dtype=np.float64)
    flat = spread <= 1e-6 * np.abs(mean) + 1e-12
    if common:
        spread = np.full_like(spread, max(float(np.sqrt(np.square(spread).mean())), 1e-12))
    scale = np.where(flat, 0.0, 1 / np.where(flat, 1.0, spread)).astype(np.float32)
    one, two = (torch.from_numpy((v - mean.astype(np.float32)) * scale) for v in (train, test))
    return one, two


def _classes(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> tuple[np.ndarray, Tensor]:
    """The classes (K,) of the training part, and the number of each sample's class (N,)."""
    for part, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        if len(x) != len(y) or not len(y):
            raise EvaluateError(
                f"the {part} part has {len(x)} rows of features and {len(y)} labels; give one label a row"
            )
        finite = np.isfinite(np.asarray(x).reshape(len(x), -1)).all(1)
        if not finite.all():
            raise EvaluateError(
                f"the {part} features are not finite (first: row {int(np.argmin(finite))}); leave out samples "
                "that could not be read"
            )
    classes, number = np.unique(train_y, return_inverse=True)
    if len(classes) < 2:
        raise EvaluateError(f"all training labels are {classes[0]}; a probe needs at least two classes")
    return classes, torch.from_numpy(number.astype(np.int64))


def _scores(classes: np.ndarray, votes: Tensor, test_y: np.ndarray, chosen: float) -> Scores:
    predicted = classes[votes.argmax(1).numpy()]
    correct = predicted == np.asarray(test_y)
    return Scores(float(correct.mean()), correct, predicted, float(chosen))
