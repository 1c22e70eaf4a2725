"""ONNX: the encoder as one file that takes raw values and gives features, with any number of samples.

torch's exporter writes it, onnxruntime runs it once against the model before it gets its name. Both come with
`pip install anymask[onnx]`.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anymask.data import Schema
from anymask.engine import Model, Sample, Tokens
from anymask.interop.plain import InteropError, fitted_schema, latent_of, model_of, public_schema
from anymask.run import Run

NEEDS = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # largest difference from the model, beside values of up to 1; beyond that, of their size
COUNTS = (1, 3, 17)  # samples in the batches that are compared
ONE_FILE = 2**30  # bytes of weights above which they lie in a file beside: ONNX files end at 2 GiB
POOLS = ("mean", "cls")


class Graph(nn.Module):
    """Raw fields, one argument each in the order of the schema -> features (B, D), and tokens (B, N, D) if asked."""

    def __init__(self, model: Model, *, pool: str, tokens: bool):
        super().__init__()
        self.model, self.names, self.pool, self.tokens = model, tuple(model.schema.fields), pool, tokens

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        latent = latent_of(self.model, dict(zip(self.names, values)))
        features = latent.cls() if self.pool == "cls" else latent.mean()
        if not self.tokens:
            return (features,)
        x = latent.x.float()
        return features, x if latent.ok is None else x * latent.ok[..., None]


class Fixed(nn.Module):
    """Positions that are the same for every sample, as numbers: (1, N, D)."""

    def __init__(self, place: Tensor):
        super().__init__()
        self.register_buffer("place", place)

    place: Tensor

    def forward(self, tokens: Tokens) -> Tensor:
        return self.place


def to_onnx(source: Run | Model, out: str | Path, *, pool: str = "mean", tokens: bool = False) -> Path:
    """The encoder as an ONNX file; a folder gets `encoder.onnx`. Returns the file.

    Inputs are the schema's fields by name, (batch, *shape) in the units and the type of the data (16-bit integers as
    int32; missing cells of tables as NaN; images at the size of training, cut to whole patches): standardising is part
    of the graph. Outputs are
    `features` (batch, D), what `embed(pool=...)` gives in fp32, and with `tokens` also `tokens` (batch, N, D), 0 where
    a token is not real. The file's metadata hold recipe, size, schema, pooling, and the largest difference found.

    Args:
        pool: "mean" over the real tokens, or "cls".

    Raises:
        InteropError: a package is missing, unknown pooling, an encoder that cannot be traced, or a file whose outputs
            differ from the model's by more than 1e-4 for 1, 3 or 17 samples. There is no file then.
    """
    _packages()
    if pool not in POOLS:
        raise InteropError(f"no pooling {pool!r} in ONNX; there is: {', '.join(POOLS)} (all tokens: tokens=True)")
    model = copy.deepcopy(model_of(source)).cpu().eval()
    if pool == "cls" and getattr(model.encoder, "prefix", None) is None:
        raise InteropError("this encoder has no CLS token; export it with pool='mean'")
    file = Path(out).expanduser()
    file = file if file.suffix == ".onnx" else file / "encoder.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".onnx-") as made:
        program = _trace(model, pool, tokens)
        program.model.metadata_props.update(_about(source, model, pool))
        heavy = sum(t.numel() * t.element_size() for t in model.state_dict().values()) > ONE_FILE
        new = Path(made) / file.name
        program.save(str(new), external_data=heavy)
        gap = compare(new, Graph(model, pool=pool, tokens=tokens).eval())
        program.model.metadata_props["largest_difference"] = f"{gap:.1e}"
        program.save(str(new), external_data=heavy)
        for part in sorted(Path(made).iterdir(), reverse=True):  # weights first: the file itself is what counts
            os.replace(part, file.parent / part.name)
    return file


def inputs(schema: Schema, count: int, *, seed: int = 0) -> Sample:
    """Made-up fields of `schema` to run a graph on: those alone that it takes."""
    from anymask.contract.data import batch_of

    batch = batch_of(schema, count, seed)
    return {name: batch[name] for name in schema.fields}


@torch.no_grad()
def compare(file: Path, graph: Graph, counts: tuple[int, ...] = COUNTS) -> float:
    """The largest difference between a file under onnxruntime and the module it was made from.

    Raises:
        InteropError: it is above 1e-4 (of the largest value, where that is above 1).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in counts:
        sample = inputs(fitted_schema(graph.model), count, seed=count)
        theirs = session.run(None, {name: value.numpy() for name, value in sample.items()})
        for name, mine, its in zip(("features", "tokens"), graph(*sample.values()), theirs):
            gap = (mine - torch.from_numpy(its)).abs().max().item()
            if mine.shape != its.shape or not gap <= TOLERANCE * max(1.0, mine.abs().max().item()):
                raise InteropError(
                    f"under onnxruntime, {name} of {count} samples differ from the model's by {gap:.1e}: the file is "
                    "not written. Try another version of onnxruntime, or export --to safetensors"
                )
            worst = max(worst, gap)
    return worst


def _packages() -> None:
    for name in NEEDS:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError, OSError) as error:
            raise InteropError(
                f"ONNX needs {name}, which cannot be used ({error}): pip install anymask[onnx]"
            ) from error


def _trace(model: Model, pool: str, tokens: bool) -> Any:
    """The torch.onnx program of a model."""
    sample = inputs(fitted_schema(model), 2)
    traced = copy.deepcopy(model)
    if hasattr(traced.tokenizer, "gaps"):  # missing cells are taken, also where the training data had none
        traced.tokenizer.gaps = True
    _fix_positions(traced, sample)
    with _as_matrix_products(), _quiet():
        try:
            return torch.onnx.export(
                Graph(traced, pool=pool, tokens=tokens).eval(),
                tuple(sample.values()),
                dynamo=True,
                dynamic_shapes=(tuple({0: "batch"} for _ in sample),),
                input_names=list(sample),
                output_names=["features", "tokens"][: 1 + tokens],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InteropError(
                f"torch cannot write this encoder ({type(model.encoder).__name__}) as ONNX: "
                f"{str(error).strip().splitlines()[0]}; export it with --to safetensors"
            ) from error


@torch.no_grad()
def _fix_positions(model: Model, sample: Sample) -> None:
    """Puts the positions' values in the place of what computes them, where they are the same for all samples: some are
    made in float64, which onnxruntime computes little with."""
    stem = model.stem
    if getattr(stem, "positions", None) is None:
        return
    place = stem.positions(model.tokenizer(sample))
    if place.shape[0] == 1:
        stem.positions = Fixed(place.clone())


@contextmanager
def _as_matrix_products() -> Iterator[None]:
    """Linear layers as such: on some processors `parts.linear` computes them as convolutions, through oneDNN. (Newer
    versions of torch switch oneDNN off for tracing by themselves.)"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading oneDNN's flags warns of GPUs that are not asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages and on its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _about(source: Run | Model, model: Model, pool: str) -> dict[str, str]:
    import anymask

    about = {
        "anymask": anymask.__version__,
        "pool": pool,
        "size": json.dumps(model.size._asdict()),
        "schema": public_schema(model.schema).to_json(),
    }
    if isinstance(source, Run):
        recipe = source.recipe
        about |= {"recipe": recipe.slug, "paper": recipe.paper, "recipe_json": json.dumps(recipe.to_json())}
    return about
