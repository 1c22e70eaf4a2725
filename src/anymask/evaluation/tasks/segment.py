"""A class for each pixel or token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anymask.data import DataError, Source, infer_schema, split_source
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import batches, frozen
from anymask.evaluation.metrics import confusion, mean_iou
from anymask.reports.renderer import joined
from anymask.run import Run
from anymask.table import Figure, Table

DECAYS = (1e-4, 1e-2, 1.0)  # weight decays to choose from
STEPS, BATCH, RATE = 200, 32, 1e-2  # of training a head, in samples
DRAWS = 500  # of the bootstrap over test samples


class Part(NamedTuple):
    """Samples with features and a class for each place."""

    x: Tensor  # (n, K, D)
    y: Tensor  # (n, H, W) pixels or (n, K) tokens; -1 does not count
    grid: tuple[int, ...] | None  # of the tokens, for pixels
    patch: int

    def rows(self, index: Tensor) -> Part:
        return self._replace(x=self.x[index], y=self.y[index])


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    targets: object | None = None,
    test_targets: object | None = None,
    samples: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Table:
    """Mean IoU and accuracy in % of a linear head on frozen tokens, for a class for each pixel or token.

    The head is one linear layer from a token's feature, standardised, to the classes; for pixels its logits are
    upsampled bilinearly. It is trained by AdamW on the cross-entropy; its weight decay is chosen by the loss on a fifth
    of the training samples, then it is trained on all. Intervals are 95 % of a bootstrap over test samples.

    Of tokens of several sets or dates at one place, as bands and dates of a satellite have, the mean is taken.

    Args:
        targets: classes of the source's samples, in their order: an integer array (N, H, W) of pixels, for images of
            one size, or (N, K) of tokens, or a .npy file of it; negative = does not count.
        test, test_targets: what is measured; None = a fifth of the source, split by group where there are groups.
        samples: of either part at most, a random choice.

    Raises:
        EvaluateError: no targets. DataError: targets of another shape, of one class, or samples of several sizes.
    """
    if targets is None or (test is None) != (test_targets is None):
        raise EvaluateError(
            "segmentation needs targets, an integer array (N, H, W) of pixels or (N, K) of tokens (--set "
            "targets=FILE.npy), and test_targets with test="
        )
    train_y = _targets(targets, source)
    if test is None or test_targets is None:
        train, held = split_source(source, seed=seed)
        place = {int(row): i for i, row in enumerate(source.rows)}
        train_y, held_y = (train_y[[place[int(row)] for row in part.rows]] for part in (train, held))
        notes = [f"the test part is a fifth of the data{', split by group' * (source.groups is not None)}"]
    else:
        train, held, held_y, notes = source, test, _targets(test_targets, test), []
        run.schema.check(infer_schema(held))
    classes = _classes(train_y, held_y, source)
    (train, train_y), (held, held_y) = (_some(s, y, samples, seed) for s, y in ((train, train_y), (held, held_y)))
    rows: list[Sequence[Any]] = []
    for name, trained in (("raw tokens", None), ("untrained encoder", False), ("pre-trained encoder", True)):
        fit = _part(run, train, train_y, trained, batch_size, progress)
        asked = _part(run, held, held_y, trained, batch_size, progress)
        if not rows:
            rows.append(("majority class", None, *_figures(_majority(fit, asked, classes), seed)))
        decay = _choose(fit, classes, seed)
        counts = _measure(_train(fit, fit, classes, decay, seed), fit, asked, classes)
        rows.append((name, decay, *_figures(counts, seed)))
    notes.append(f"{len(train):,} training samples; {classes} classes")
    title = f"a class for each {'pixel' if train_y.ndim == 3 else 'token'}, {len(held):,} test samples of {held.name}"
    columns = ("features", "weight decay", "mean IoU", "accuracy")
    return Table(columns, rows, title=f"{title}, {run.recipe.slug}", notes=notes)


# Data.


def _targets(given: object, source: Source) -> np.ndarray:
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        if path.suffix != ".npy" or not path.is_file():
            raise DataError(f"{path} is no .npy file of targets; write an integer array with numpy.save")
        given = np.load(path, allow_pickle=False)
    y = np.asarray(given)
    if y.dtype.kind not in "iub" or y.ndim not in (2, 3) or len(y) != len(source):
        raise DataError(
            f"targets have shape {y.shape} and type {y.dtype}; give integers (N, H, W) for pixels or (N, K) for "
            f"tokens, one for each of the {len(source)} samples of {source.name}"
        )
    return y.astype(np.int64)


def _classes(train: np.ndarray, held: np.ndarray, source: Source) -> int:
    found = np.unique(train[train >= 0])
    if len(found) < 2:
        raise DataError(f"the training targets of {source.name} are of one class, which leaves nothing to tell apart")
    if not (held >= 0).any():
        raise DataError("no test target counts (all are negative); give targets from 0 on")
    return int(max(found.max(), held.max())) + 1


def _some(source: Source, y: np.ndarray, most: int, seed: int) -> tuple[Source, np.ndarray]:
    if len(source) <= most:
        return source, y
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:most])
    return source.subset(chosen), y[chosen]


@torch.no_grad()
def _part(run: Run, source: Source, y: np.ndarray, trained: bool | None, batch_size: int, progress: bool) -> Part:
    """Features of every readable sample, with its targets; `trained` None = the content of the tokens."""
    model = frozen(run, trained=bool(trained))
    found, index, grids, width = [], [], set(), {}
    for sample in batches(model, run.schema, source, batch_size=batch_size, progress=progress):
        tokens = model.tokenizer(sample)
        if trained is None:
            x = joined(tokens.x)
            width = {n: -d for n, d in model.tokenizer.streams.items() if d < 0}
            x = F.one_hot(x, *width.values()).float() if width else x.float()
        else:
            x = model.embed(sample).x.float()
        grid = tokens.grid
        if getattr(model.tokenizer, "joint", False):
            x, grid = _by_place(x, tokens.valid, model.tokenizer.grid, mean=trained is not None)
        found.append(x.cpu())
        index.append(sample["index"].cpu())
        grids.add((grid, tuple(x.shape[1:])))
    if len(grids) != 1:
        raise DataError(f"samples of {source.name} differ in size, and targets are one array; cut all to one size")
    grid, shape = grids.pop()
    patch = getattr(model.tokenizer, "sides", (1,))[-1]
    if y.ndim == 2 and y.shape[1] != shape[0]:
        raise DataError(f"targets are for {y.shape[1]} tokens a sample; this model's tokenizer makes {shape[0]}")
    if y.ndim == 3:
        sizes = {tuple(size) for field in infer_schema(source).fields.values() for size in field.sizes}
        if grid is None or len(grid) != 2 or sizes != {y.shape[1:]}:
            raise DataError(
                f"targets are for {y.shape[1]} x {y.shape[2]} pixels; {source.name} has {sorted(sizes)}: give images "
                "and targets of one size"
            )
    return Part(torch.cat(found), torch.from_numpy(y)[torch.cat(index)], grid if y.ndim == 3 else None, patch)


def _by_place(
    x: Tensor, valid: Tensor | None, grid: tuple[int, ...], *, mean: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """Tokens of several sets or dates (B, L * places, D) as one for each place of the last two axes of a grid: their
    mean (B, places, D), or side by side (B, places, L * D)."""
    h, w = grid[-2:]
    x = x.unflatten(1, (-1, h * w))  # B L P D
    if not mean:
        return x.nan_to_num().permute(0, 2, 1, 3).flatten(2), (h, w)
    real = torch.ones_like(x[..., :1]) if valid is None else valid.unflatten(1, (-1, h * w))[..., None].to(x.dtype)
    return (x * real).sum(1) / real.sum(1).clamp(min=1), (h, w)


# The head.


class Head(NamedTuple):
    weight: Tensor  # (D, C)
    bias: Tensor  # (C,)

    def logits(self, x: Tensor, part: Part) -> Tensor:
        """(n, C, H, W) for pixels, (n, C, K) for tokens, of standardised features (n, K, D)."""
        out = (x @ self.weight + self.bias).transpose(1, 2)
        if part.grid is None:
            return out
        h, w = part.grid
        size = (h * part.patch, w * part.patch)  # images are padded to whole patches
        out = F.interpolate(out.unflatten(2, (h, w)), size=size, mode="bilinear", align_corners=False)
        return out[..., : part.y.shape[1], : part.y.shape[2]]


def _standardised(x: Tensor, reference: Tensor) -> Tensor:
    flat = reference.flatten(0, 1)
    spread = flat.std(0)
    return (x - flat.mean(0)) * torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), 0.0)


def _train(part: Part, reference: Part, classes: int, decay: float, seed: int) -> Head:
    """A head trained on a part; features are standardised by those of `reference`."""
    x = _standardised(part.x, reference.x)
    head = Head(torch.zeros(x.shape[2], classes, requires_grad=True), torch.zeros(classes, requires_grad=True))
    groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
        y = part.y[rows]
        if not (y >= 0).any():
            continue
        loss = F.cross_entropy(head.logits(x[rows], part), y.clamp(min=-1), ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Head(head.weight.detach(), head.bias.detach())


def _choose(fit: Part, classes: int, seed: int) -> float:
    """The weight decay with the least loss on a fifth of the samples, after training on the others."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(fit.x)))
    out = max(1, len(order) // 5)
    inner, valid = fit.rows(order[out:]), fit.rows(order[:out])
    if not len(inner.x) or not (valid.y >= 0).any():
        return DECAYS[1]
    losses = []
    for decay in DECAYS:
        head = _train(inner, fit, classes, decay, seed)
        logits = head.logits(_standardised(valid.x, fit.x), valid)
        losses.append(F.cross_entropy(logits, valid.y.clamp(min=-1), ignore_index=-1).item())
    return DECAYS[int(np.argmin(losses))]


# Figures.


def _measure(head: Head, fit: Part, asked: Part, classes: int) -> Tensor:
    """(M, C, C) confusions of each test sample."""
    guess = head.logits(_standardised(asked.x, fit.x), asked).argmax(1)
    return torch.stack([confusion(y.flatten(), g.flatten(), classes) for y, g in zip(asked.y, guess)])


def _majority(fit: Part, asked: Part, classes: int) -> Tensor:
    most = torch.bincount(fit.y[fit.y >= 0], minlength=classes).argmax()
    return torch.stack([confusion(y.flatten(), most.expand(y.numel()), classes) for y in asked.y])


def _figures(counts: Tensor, seed: int) -> tuple[Figure, Figure]:
    """Mean IoU and accuracy in % of all samples together, with the intervals of a bootstrap over samples."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(counts), (DRAWS, len(counts)), generator=generator)
    times = torch.zeros(DRAWS, len(counts)).scatter_add_(1, drawn, torch.ones(drawn.shape))
    again = (times.double() @ counts.flatten(1).double()).unflatten(1, counts.shape[1:])
    whole = counts.sum(0)
    return _interval(mean_iou(whole), mean_iou(again)), _interval(_accuracy(whole), _accuracy(again))


def _accuracy(counts: Tensor) -> Tensor:
    counts = counts.double()
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-1, -2)).clamp(min=1)


def _interval(value: Tensor, drawn: Tensor) -> Figure:
    low, high = (100 * drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype))).tolist()
    return Figure(100 * value.item(), low, high)
