"""How near images that a run draws are to real ones, as two distributions of features."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from anymask.data import Source, open_source
from anymask.engine import Model
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import embed
from anymask.evaluation.inputs import parts_of
from anymask.generation import GenerateError, check_generates, generate
from anymask.run import Run
from anymask.table import Table


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    n: int = 1000,
    sampler: str = "confidence",
    steps: int | None = None,
    temperature: float = 1.0,
    judge: str | None = None,
    pool: str = "mean",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """The Fréchet distance of drawn images to test images: that of two normal distributions with the means and
    covariances of their features (Heusel et al. 2017, arXiv:1706.08500, section 3; by torchmetrics). The features are
    of a run's own encoder, not of Inception, in units of their spread over the test images: figures compare with each
    other, not with published ones.

    Beside it are as many training images, which no drawing is expected to come nearer than, and images whose every
    pixel is that of another training image at its place, which have the right pixels and no shapes.

    Args:
        source: images. test: what is compared with; None = the source's own test split, or else a fifth of it.
        n: images of each sort, or as many as there are.
        sampler, steps, temperature: see `anymask.generation.generate`.
        judge: folder of the run whose features count, for comparing runs; None = this run's.
        pool: of features, see `embed`.

    Raises:
        EvaluateError: a run that draws no images, or too few images for the width of the features.
    """
    model = run.model()
    try:
        check_generates(model)
    except GenerateError as error:
        raise EvaluateError(str(error)) from error
    field = run.schema.fields[model.tokenizer.field]
    if len(field.shape) != 3 or n < 2:
        raise EvaluateError(f"draw compares 2 images or more, as a run of mage draws; not n={n} of kind {field.kind}")
    train, held, notes = parts_of(run, source, test, seed)
    judging = run if judge is None else Run.open(judge)
    rng = np.random.default_rng(seed)
    few = train.subset(np.sort(rng.permutation(len(train))[:n]))
    real = _images(few, run, model)
    scattered = rng.permuted(real.reshape(len(real), -1), axis=0).reshape(real.shape)
    how = dict(sampler=sampler, steps=steps, temperature=temperature)
    starts = range(0, n, batch_size)
    drawn = np.concatenate([generate(run, n=min(batch_size, n - at), seed=seed + at, **how) for at in starts])  # type: ignore[arg-type]
    features = lambda images: embed(judging, images, pool=pool, batch_size=batch_size, progress=progress)
    goal = np.asarray(features(held.subset(np.sort(rng.permutation(len(held))[:n]))))
    width = goal.shape[1]
    if min(len(goal), len(real)) <= width:
        raise EvaluateError(
            f"{min(len(goal), len(real)):,} images are too few for the covariance of {width} features; give more (n=), "
            "or a judge of less width"
        )
    sorts = {"drawn": drawn, "training images": real, "pixels of training images, shuffled": scattered}
    title = f"distance to {len(goal):,} images of {held.name}, {run.recipe.slug}"
    table = Table(("images", "Fréchet distance"), title=title)
    mean, spread = goal.mean(0), np.maximum(goal.std(0), 1e-12)
    for name, images in sorts.items():
        found = np.asarray(features(open_source(_as(field.dtype, images, field.low, field.high), layout="NCHW")))
        table.rows.append((name, round(distance((found - mean) / spread, (goal - mean) / spread), 3)))
    whose = f"{judging.recipe.slug} ({judging.folder.name}), pool {pool}"
    table.notes += [*notes, f"features of {whose}; {sampler} sampler"]
    return table


def _images(source: Source, run: Run, model: Model) -> np.ndarray:
    """(n, C, H, W) at the size of training, in the units of the data."""
    from anymask.evaluation.masked import batches

    return np.concatenate([b[model.tokenizer.field].numpy() for b in batches(model, run.schema, source, fixed=True)])


def _as(dtype: str, images: np.ndarray, low: float, high: float) -> np.ndarray:
    """As a file of the data would hold them."""
    if np.issubdtype(np.dtype(dtype), np.integer):
        images = images.clip(low, high).round()
    return images.astype(dtype)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of features (N, D) and (M, D)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    same = nn.Identity()
    same.num_features = a.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=same).set_dtype(torch.float64)
    metric.update(torch.from_numpy(b).double(), real=True)
    metric.update(torch.from_numpy(a).double(), real=False)
    return float(metric.compute())
