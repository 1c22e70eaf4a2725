"""The health of features, without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import DataError, Source
from anymask.engine import Latent, Model
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import PRECISIONS, embed
from anymask.evaluation.inputs import raw_input
from anymask.evaluation.masked import batches, frozen, redrawn
from anymask.evaluation.metrics import Spectrum, alignment, spectrum, uniformity
from anymask.run import Run
from anymask.table import Table, interval
from anymask.train.watch import FEWEST, Features, collapse, diversity

FIGURES = (
    "effective rank",
    "effective rank, % of width",
    "axes for 90 % of the variance",
    "% of the variance on the first axis",
    "spread",
    "uniformity",
    "alignment",
    "collapsed",
)


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    parts: int = 5,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """Whether features differ, without labels: effective rank, spectrum, uniformity, alignment, collapse.

    Each figure is the mean over random parts that share no sample, with its 95 % interval (Student's t over the parts).
    Features are pooled by their mean. What the rows hold:

    effective rank (Roy & Vetterli 2007), also in % of the width; the principal axes that hold 90 % of the variance, and
    the share of the first; spread, the standard deviation over samples in units of the features' size; uniformity and
    alignment (Wang & Isola 2020, arXiv:2005.10242) with t = 2 and power 2, lower is better in both; positives are the
    visible tokens under two masks of one sample, so raw input has none. An encoder has collapsed by the same rule as in
    training (`anymask.train.watch`), against the untrained one.

    Args:
        source: labels are not needed. test: what is measured; None = the source's own test split, or else the source.
        parts: random parts.
        samples: of a part; None = 512, or four times the width if that is more, as far as there are so many.

    Raises:
        DataError: too few samples. EvaluateError: a number of parts or samples below what can be measured.
    """
    held = test or (source.split("test") if "test" in source.splits else source)
    chosen = _parts(held, parts, samples, run.size.width, seed)
    some = held.subset(np.concatenate(chosen))
    count = len(chosen[0])
    columns: dict[str, list[Any]] = {"figure": list(FIGURES)}
    start: list[Features] = []
    raw = raw_input(some, run.schema, batch_size=batch_size)
    for name, trained in (("raw input", None), ("untrained encoder", False), ("pre-trained encoder", True)):
        if trained is None:
            x, pairs, share = _complete(raw), None, raw.shape[1]
        else:
            x, pairs = _encoded(run, some, trained, seed, batch_size, progress)
            share = x.shape[1]
        figures = [_figures(x, pairs, slice(i * count, (i + 1) * count)) for i in range(len(chosen))]
        start = start if trained else [f.diversity for f in figures]
        columns[name] = [*_cells(figures, share), _verdict(start, figures) if trained else None]
    notes = [
        f"{len(chosen)} random parts of {count} samples; the rank cannot exceed the samples of a part",
        "alignment is between two of the run's own masks of a sample; raw input has no such pairs",
    ]
    title = f"health of features on {held.name}, {run.recipe.slug}"
    return Table(tuple(columns), list(zip(*columns.values())), title=title, notes=notes)


class _Figures:
    """Of one part."""

    def __init__(self, x: Tensor, pairs: tuple[Tensor, Tensor] | None) -> None:
        self.spectrum: Spectrum = spectrum(x)
        self.diversity: Features = diversity(x)
        self.uniformity = uniformity(x)
        self.alignment = None if pairs is None else alignment(*pairs)


def _figures(x: Tensor, pairs: tuple[Tensor, Tensor] | None, rows: slice) -> _Figures:
    """Of the readable samples of a part."""
    there = x[rows].isfinite().all(1)
    if int(there.sum()) < FEWEST:
        raise DataError(f"a part has {int(there.sum())} readable samples, too few to measure; look at the files")
    return _Figures(x[rows][there], None if pairs is None else (pairs[0][rows][there], pairs[1][rows][there]))


def _cells(found: list[_Figures], width: int) -> list[Any]:
    """All figures but the verdict."""
    of = lambda values, digits=2: interval(np.array(values), digits)
    rank = [f.spectrum.rank for f in found]
    pairs = [f.alignment for f in found if f.alignment is not None]
    return [
        of(rank, 1),
        of([100 * r / width for r in rank], 1),
        of([float(f.spectrum.axes) for f in found], 1),
        of([100 * f.spectrum.first for f in found], 1),
        of([f.diversity.spread for f in found]),
        of([f.uniformity for f in found]),
        of(pairs) if pairs else None,
    ]


def _verdict(start: list[Features], now: list[_Figures]) -> str:
    bad = sum(collapse(a, b.diversity, 1.0) is not None for a, b in zip(start, now))
    return "no" if not bad else "yes" if bad == len(now) else f"in {bad} of {len(now)} parts"


def _parts(held: Source, parts: int, samples: int | None, width: int, seed: int) -> list[np.ndarray]:
    """Sample numbers of each part."""
    if parts < 1 or (samples is not None and samples < FEWEST):
        raise EvaluateError(f"health needs parts=1 or more and samples={FEWEST} or more, not {parts} and {samples}")
    most = len(held) // parts
    wanted = max(512, 4 * width) if samples is None else samples
    if most < FEWEST or (samples is not None and samples > most):
        need = parts * (samples or FEWEST)
        raise DataError(
            f"{held.name} has {len(held)} samples, too few for {parts} parts of {samples or FEWEST}; give {need} "
            f"samples or more, or fewer parts (--set parts={max(1, len(held) // (samples or FEWEST))})"
        )
    order = np.random.default_rng(seed).permutation(len(held))
    count = min(wanted, most)
    return [order[i * count : (i + 1) * count] for i in range(parts)]


def _complete(raw: np.ndarray) -> Tensor:
    """Raw input with the mean of its column in missing cells; rows of unreadable samples stay NaN."""
    x = torch.from_numpy(raw.reshape(len(raw), -1)).double()
    gone = x.isnan().all(1, keepdim=True)
    return torch.where(x.isnan() & ~gone, x.nanmean(0).nan_to_num(0.0), x)


def _encoded(
    run: Run, source: Source, trained: bool, seed: int, batch_size: int, progress: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Features (N, D) of whole samples, and of their visible tokens under two masks."""
    precision = run.settings.get("precision", "fp32")
    whole = embed(run, source, trained=trained, batch_size=batch_size, precision=precision, progress=progress)
    model = frozen(run, trained=trained)
    views: tuple[Tensor, Tensor] | None = None
    for sample in batches(model, run.schema, source, batch_size=batch_size, progress=progress):
        for draw in (0, 1):
            z = visible_features(model, redrawn(sample, seed, draw), PRECISIONS[precision])
            if views is None:
                none = torch.full((len(source), z.shape[1]), torch.nan)
                views = (none, none.clone())
            views[draw][sample["index"].cpu()] = z
    assert views is not None
    return torch.from_numpy(np.asarray(whole)), views


@torch.no_grad()
def visible_features(model: Model, sample: dict[str, Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """(B, D) mean code of the tokens that the recipe's own mask leaves visible; of several masks for a sample the
    first one's.

    Raises:
        EvaluateError: rows are made of several samples, which have no features of their own.
    """
    step = model.hide(sample)
    with torch.autocast(step.mask.visible.device.type, dtype=dtype, enabled=dtype is not None):
        step = step._replace(seen=model.corruption(step, model))
        latent: Latent = model.encoder(step, model)
    of = step.mask.keep_of
    if of is not None and of.ndim == 2:
        raise EvaluateError("this recipe mixes several samples in a row, so two masks of one sample cannot be compared")
    visible = step.mask.visible if step.mask.keep is None else step.mask.visible.gather(1, step.mask.keep)
    ok = visible if latent.ok is None else visible & latent.ok
    codes = latent._replace(ok=ok).mean()
    if of is None:
        return codes.cpu()
    first = torch.stack([torch.nonzero(of == b)[0, 0] for b in range(step.tokens.shape[0])])
    return codes[first].cpu()
