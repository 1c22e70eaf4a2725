"""Frozen features of a data set: in memory, or written to a file that may be larger than memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from anymask.data import DataError, Schema, Source, infer_schema, open_source, ordered_loader
from anymask.engine import Latent, Model
from anymask.evaluation.errors import EvaluateError
from anymask.run import ENCODER_PARTS, Run, write_atomically

Pool = Callable[[Latent], Tensor]
ROWS = 4096  # of a row group of a parquet file


def tokens(latent: Latent) -> Tensor:
    """(R, K, D) every token by itself; tokens that are not real are 0."""
    return latent.x.float() if latent.ok is None else latent.x.float() * latent.ok[..., None]


def total(latent: Latent) -> Tensor:
    """(R, D) sum over the real tokens."""
    return tokens(latent).sum(1)


def largest(latent: Latent) -> Tensor:
    """(R, D) largest value of each dimension over the real tokens."""
    x = latent.x.float()
    return (x if latent.ok is None else x.masked_fill(~latent.ok[..., None], -torch.inf)).amax(1)


POOLS: dict[str, Pool] = {
    "mean": Latent.mean, "cls": Latent.cls, "sum": total, "max": largest, "tokens": tokens,
}  # fmt: skip
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class Encoder(NamedTuple):
    """A frozen model and how its features are taken."""

    model: Model
    schema: Schema
    pool: Pool
    layer: int | None
    device: torch.device
    dtype: torch.dtype | None

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, ...) float32 on the CPU."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            latent = self.model.embed(batch)
        return self.pool(_at(latent, self.layer)).float().cpu()

    def fingerprint(self) -> str:
        """sha256 over the weights of the encoder and how its features are taken."""
        digest = hashlib.sha256(f"{_name(self.pool)} {self.layer} {self.dtype}".encode())
        for name, value in sorted(self.model.state_dict().items()):
            if name.partition(".")[0] in ENCODER_PARTS:
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def encoder(
    run: Run | Model | str | Path,
    *,
    pool: str | Pool = "mean",
    layer: int | None = None,
    precision: str = "fp32",
    trained: bool = True,
    device: str | torch.device | None = None,
) -> Encoder:
    """The encoder of a run, ready to embed. Arguments as in `embed`."""
    if isinstance(pool, str):
        if pool not in POOLS:
            raise EvaluateError(f"no pooling {pool!r}; there is: {', '.join(POOLS)}, or give a function of a Latent")
        pool = POOLS[pool]
    if precision not in PRECISIONS:
        raise EvaluateError(f"no precision {precision!r}; there is: {', '.join(PRECISIONS)}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(run, Model):
        model, schema = run, run.schema
        if layer is not None and not getattr(model.encoder, "layers", False):
            raise EvaluateError(
                "this model keeps only its last layer; build it with recipe.but({'encoder.layers': True})"
            )
    else:
        run = run if isinstance(run, Run) else Run.open(run)
        if layer is not None:
            run = replace(run, recipe=run.recipe.but({"encoder.layers": True}))
        model, schema = run.model(trained=trained), run.schema
    return Encoder(model.to(device).eval(), schema, pool, layer, device, PRECISIONS[precision])


def embed(
    run: Run | Model | str | Path,
    source: object,
    *,
    pool: str | Pool = "mean",
    layer: int | None = None,
    size: int | tuple[int, int] | None = None,
    out: str | Path | None = None,
    batch_size: int = 256,
    precision: str = "fp32",
    trained: bool = True,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> np.ndarray | Path:
    """Features of every sample, in the order of the source: nothing masked, nothing augmented.

    Args:
        run: a Run, its folder, or a Model.
        source: a Source, or what `open_source` takes.
        pool: "mean", "sum" or "max" over the real tokens, "cls", "tokens" (each by itself), or a function of a Latent.
        layer: of the encoder: 0 what enters it, 1 .. depth the blocks (the last one normalised), negative from the end;
            None = the last.
        size: one side or (H, W) that all images are made; None = each keeps its own, padded within a batch.
        out: a .npy file (N, ...), or a .parquet file with a row for each sample (`id`, `label` where there are labels,
            `features` as a flat list). It holds exactly what the call without `out` returns, and memory holds one batch
            of it. A call that was interrupted goes on where it stopped, if model, data and arguments are the same.
        precision: "fp32" or "bf16".
        trained: False = the encoder before its first step.

    Returns:
        (N, D) float32, or (N, K, D) for "tokens"; or the path `out`. The row of a sample that cannot be read is NaN.

    Raises:
        SchemaError: the data do not fit the model. DataError: a stream, or samples whose features differ in shape.
        EvaluateError: unknown pooling, precision or file ending.
    """
    run = run if isinstance(run, (Run, Model)) else Run.open(run)
    encode = encoder(run, pool=pool, layer=layer, precision=precision, trained=trained, device=device)
    data = run.source(source, labelled=False) if isinstance(run, Run) else open_source(source)
    encode.schema.check(infer_schema(data, fewest=1))
    if not isinstance(data, Source):
        raise DataError(f"{data.name} is a stream; open it without streaming=True to embed it")
    if out is None:
        return embed_source(encode, data, size=size, batch_size=batch_size, progress=progress)
    path = Path(out).expanduser()
    if path.suffix not in (".npy", ".parquet"):
        raise EvaluateError(f"features are written to .npy or .parquet, not to {path.name}")
    mark = f"{encode.fingerprint()} {data.fingerprint()} {len(data)} {batch_size} {size}"
    return _write(
        path,
        data,
        hashlib.sha256(mark.encode()).hexdigest(),
        lambda done: _blocks(encode, data, done // batch_size * batch_size, batch_size, size, progress),
    )


def embed_source(
    encode: Encoder,
    source: Source,
    *,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> np.ndarray:
    """As `embed` for a source that is known to fit the model: a single sample, which has no schema, too."""
    return _collect(_blocks(encode, source, 0, batch_size, size, progress), len(source))


def _at(latent: Latent, layer: int | None) -> Latent:
    """The latent as it was after a layer."""
    if layer is None:
        return latent
    layers = latent.layers or ()
    if not -len(layers) <= layer < len(layers):
        raise EvaluateError(f"this encoder has the layers 0 to {len(layers) - 1}, not {layer}")
    x = layers[layer]
    prefix = x.shape[1] - latent.x.shape[1]
    return latent._replace(x=x[:, prefix:], prefix=x[:, :prefix] if prefix else None)


def _blocks(
    encode: Encoder, source: Source, start: int, batch_size: int, size: int | tuple[int, int] | None, progress: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sample numbers, features) from sample `start` on, a multiple of the batch size: every batch is then padded as in
    a call from 0."""
    rest = source if start == 0 else source.subset(np.arange(start, len(source)))
    # Tokenizers that cut values into patches name their sides; others take any size.
    loader = ordered_loader(
        rest, encode.schema, batch_size=batch_size, size=size, multiple=getattr(encode.model.tokenizer, "sides", 1)
    )
    for batch in track(loader, description="embedding", total=len(loader), disable=not progress, transient=True):
        yield batch["index"].numpy() + start, encode(batch).numpy()


def _collect(blocks: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    features: np.ndarray | None = None
    for index, block in blocks:
        if features is None:
            features = np.full((count, *block.shape[1:]), np.nan, dtype=np.float32)
        features[index] = _same_shape(block, features)
    if features is None:
        raise DataError("no sample could be read; there is nothing to embed")
    return features


def _same_shape(block: np.ndarray, features: np.ndarray) -> np.ndarray:
    if block.shape[1:] != features.shape[1:]:
        raise DataError(
            f"features have the shapes {features.shape[1:]} and {block.shape[1:]}, as images have several sizes; "
            "pass size= to make them one size, or pool='mean'"
        )
    return block


# Files.


def _write(
    path: Path, source: Source, mark: str, blocks: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]
) -> Path:
    """Features to a partial .npy beside `path`, with a note of how far it is; then to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, note = path.with_name(path.name + ".part.npy"), path.with_name(path.name + ".part.json")
    done = _done(part, note, mark)
    features = np.load(part, mmap_mode="r+") if done else None
    for index, block in blocks(done) if done < len(source) else ():
        if features is None:
            shape = (len(source), *block.shape[1:])
            features = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            features[:] = np.nan
        features[index] = _same_shape(block, features)
        features.flush()
        _note(note, mark, int(index[-1]) + 1)
    if features is None:
        raise DataError("no sample could be read; there is nothing to embed")
    del features
    _note(note, mark, len(source))
    if path.suffix == ".parquet":
        _to_parquet(part, path, source)
        part.unlink()
    else:
        os.replace(part, path)
    note.unlink()
    return path


def _note(note: Path, mark: str, done: int) -> None:
    write_atomically(note, json.dumps({"mark": mark, "done": done}).encode())


def _done(part: Path, note: Path, mark: str) -> int:
    """How many samples an interrupted call with the same mark has written."""
    if not (part.is_file() and note.is_file()):
        return 0
    left = json.loads(note.read_text())
    return left["done"] if left["mark"] == mark else 0


def _to_parquet(part: Path, path: Path, source: Source) -> None:
    """The rows of a .npy as a parquet file, one row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features, ids, labels = np.load(part, mmap_mode="r"), source.ids, source.labels
    columns = [pa.field("id", pa.string())]
    columns += [pa.field("label", pa.int64())] if labels is not None else []
    schema = pa.schema([*columns, pa.field("features", pa.list_(pa.float32(), int(np.prod(features.shape[1:]))))])
    written = path.with_name(path.name + ".part")
    with pq.ParquetWriter(written, schema) as writer:
        for start in range(0, len(features), ROWS):
            rows = slice(start, start + ROWS)
            flat = pa.array(np.ascontiguousarray(features[rows]).reshape(-1))
            cells = [pa.array(ids[rows])] + ([pa.array(labels[rows])] if labels is not None else [])
            fixed = pa.FixedSizeListArray.from_arrays(flat, schema.field("features").type.list_size)
            writer.write_table(pa.Table.from_arrays([*cells, fixed], schema=schema), row_group_size=ROWS)
    os.replace(written, path)


def _name(pool: Pool) -> str:
    return f"{getattr(pool, '__module__', '')}.{getattr(pool, '__qualname__', type(pool).__qualname__)}"
