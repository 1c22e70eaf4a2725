"""history.npz: what a model makes of a few fixed samples, and what its features are worth, at some moments of training.

step (T,) with effective rank and spread of the features (T,), those of tokens where there is one sample only;
`neighbour` (T,), where there are labels: the share of `labelled` training samples whose nearest other one (by the
cosine of the features) has the same label, and `neighbour_raw`, the same by raw input; content (S, N, D) of the fixed
samples as tokens, NaN where not valid, which of it is `visible` (S, N), `edges` (S, E, 2) where tokens have edges,
`predicted` (T, S, N, D) half precision with the places it is for, `known` (S, N), where the target is the content.
Masks and samples are the same at all moments.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import Schema, Source
from anymask.engine import Model, Step, Tokens
from anymask.reports.renderer import contents, edges_of, part_of, parts_of, stream_of
from anymask.run import write_atomically

from . import watch
from .measure import first_batch

NAME = "history.npz"
MOMENTS = 8  # with those of the start and the end, closer at the start, where more changes
SAMPLES = 4  # whose predictions are kept; fewer where they would take more than `BYTES`
BYTES = 2**22
LABELLED, ENOUGH = 512, 96  # samples that the features are judged on: at most, and at least where there are as many
SHARE = 0.02  # between them, of what the run trains on
CHUNK = 64


def moments(steps: int) -> list[int]:
    """The steps at which something is kept, 0 and the last among them."""
    return sorted({round(steps * (n / (MOMENTS - 1)) ** 2) for n in range(MOMENTS)})


def fixed_batch(source: Any, schema: Schema, *, trained_on: int) -> dict[str, Tensor]:
    """A random choice of samples (the first ones of a stream), the same for every run on this source; `trained_on` is
    how many samples the run goes through."""
    most = int(min(LABELLED, max(ENOUGH, SHARE * trained_on / MOMENTS)))
    if isinstance(source, Source):
        source = source.subset(np.random.default_rng(0).permutation(len(source))[:most])
    return first_batch(source, schema, most)


class History:
    """Keeps the moments of a run in its folder. Moments after `step`, where the run begins or goes on, are dropped."""

    def __init__(self, path: Path, batch: dict[str, Tensor], *, steps: int, step: int) -> None:
        self.path, self.batch, self.at = path, batch, moments(steps)
        self.kept: dict[str, np.ndarray] = read(path)
        if self.kept:
            going_on = self.kept["step"] <= (step or -1)
            kept_by_moment = {"step", "rank", "spread", "neighbour", "predicted"}
            for name in [name for name in self.kept if name.partition(".")[0] in kept_by_moment]:
                self.kept[name] = self.kept[name][going_on]

    def after(self, model: Model, step: int) -> None:
        """Adds a moment if `step` is one; the model is left as it was."""
        if step not in self.at or step in self.kept.get("step", ()):
            return
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.batch.items()}
        with watch.evaluating(model):
            self._add("step", np.int64(step))
            self._features(model, batch)
            self._predictions(model, batch)
        out = io.BytesIO()
        np.savez_compressed(out, **self.kept)  # type: ignore[arg-type]  # numpy's stubs take no dict
        write_atomically(self.path, out.getvalue())

    def _features(self, model: Model, batch: dict[str, Tensor]) -> None:
        chunks = [{k: v[i : i + CHUNK] for k, v in batch.items()} for i in range(0, len(batch["index"]), CHUNK)]
        codes = [model.embed(chunk) for chunk in chunks]
        x = watch.compared(codes[0]) if len(batch["index"]) == 1 else torch.cat([code.mean() for code in codes])
        found = watch.diversity(x)
        self._add("rank", np.float32(found.rank))
        self._add("spread", np.float32(found.spread))
        label = batch.get("label")
        if label is None or len(label[label >= 0].unique()) < 2 or len(label) <= watch.FEWEST:
            return
        known = label >= 0
        self.kept["labelled"] = np.asarray(known.sum().item())
        if "neighbour_raw" not in self.kept:
            tokens = [model.tokenizer(chunk) for chunk in chunks]
            raw = torch.cat([plain(model, t) for t in tokens])
            agreed = neighbours_agree(raw.nan_to_num()[known], label[known])
            self.kept["neighbour_raw"] = np.asarray(agreed, dtype=np.float32)
        self._add("neighbour", np.float32(neighbours_agree(x[known], label[known])))

    def _predictions(self, model: Model, batch: dict[str, Tensor]) -> None:
        few = {name: tensor[:SAMPLES] for name, tensor in batch.items()}
        step = model(few)
        for part in parts_of(model):
            self._prediction(model, few, step, part)

    def _prediction(self, model: Model, few: dict[str, Tensor], step: Step, part: str) -> None:
        """Of one of several parts, under its name: `content.rgb`."""
        content, visible, made = contents(model, step, part)
        named = lambda name: f"{name}.{part}" if part else name
        if 2 * MOMENTS * content[0].numel() > 8 * BYTES:  # one large graph: its predictions would outweigh the run
            return
        keep = int(min(len(content), max(1, BYTES // (2 * MOMENTS * content[0].numel()))))
        edges = None if part else edges_of(model.tokenizer(few))
        if edges is not None:
            self.kept["edges"] = edges[:keep].cpu().numpy().astype(np.int32)
        # Half precision, but for numbers of classes, which it does not hold.
        kind = np.float16 if model.tokenizer.streams[part or stream_of(model)] > 0 else np.float32
        half = lambda x: x[:keep].cpu().numpy().astype(kind if x.is_floating_point() else x.cpu().numpy().dtype)
        self.kept.update({named("content"): half(content), named("visible"): half(visible)})
        if made is not None:
            self.kept[named("known")] = half(made[1])
            self._add(named("predicted"), half(made[0]))

    def _add(self, name: str, value: Any) -> None:
        """One more moment of `name`."""
        one = np.asarray(value)[None]
        self.kept[name] = np.concatenate([self.kept[name], one]) if name in self.kept else one


def plain(model: Model, tokens: Tokens) -> Tensor:
    """(B, D) raw input: the content of all tokens side by side, of streams of integers how often each class occurs."""
    parts = []
    for name, x in tokens.x.items():
        if x.is_floating_point():
            parts.append(x.flatten(1))
            continue
        real = torch.ones(x.shape) if tokens.valid is None else tokens.valid[:, part_of(tokens, name)].float()
        counts = torch.zeros(len(x), -model.tokenizer.streams[name], device=x.device)
        parts.append(counts.scatter_add_(1, x, real.to(x.device)))
    return torch.cat([part.float() for part in parts], 1)


def read(path: Path) -> dict[str, np.ndarray]:
    """What is kept; nothing where there is no file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def neighbours_agree(x: Tensor, label: Tensor) -> float:
    """Share of samples whose nearest other one, by the cosine of the standardised features (N, D), has their label."""
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    x = torch.nn.functional.normalize(x, dim=1)
    near = (x @ x.T).fill_diagonal_(-torch.inf).argmax(1)
    return (label[near] == label).float().mean().item()
