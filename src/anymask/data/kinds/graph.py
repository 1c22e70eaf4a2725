"""Graphs: a sample is a graph, with (N, F) float32 features of its nodes and the edges between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..columns import Blobs, Column
from ..errors import DataError, SchemaError, nothing_readable, some
from ..kind import Kind, Meter, Settled, Value
from ..labels import TokenLabels, classes_or_numbers, encode
from ..options import Options
from ..schema import Field, Schema
from ..source import Source
from . import _graphs
from ._graphs import Found, Graph

EXAMPLE = 24  # nodes of a made-up graph, at most


class GraphColumn(Column):
    """Graphs in memory."""

    in_memory = True

    def __init__(self, graphs: Sequence[Graph], names: Sequence[str] = ()) -> None:
        self.kind, self.graphs, self.names = KIND, list(graphs), tuple(names)
        self.shape, self.dtype = None, "float32"

    def __len__(self) -> int:
        return len(self.graphs)

    def read(self, row: int) -> Graph:
        return self.graphs[row]

    def nbytes(self, row: int) -> int:
        return self.graphs[row].nbytes


class GraphKind(Kind):
    name = "graph"
    held_in = "a folder with nodes.csv and edges.csv, or a raw set of Planetoid or TU"
    varies = True  # in the number of nodes
    endings: frozenset[str] = frozenset()
    alone = True
    recipe = "graphmae"
    samples_seen, most_epochs = 50_000, 1500  # one graph: 1,500 steps (GraphMAE's of Cora)
    fewest = 1  # a graph has many nodes to hide

    def open(self, spec: Any, options: Options) -> Source | None:
        if isinstance(spec, (str, os.PathLike)):
            path = Path(spec).expanduser()
            return _open_folder(path, options) if path.is_dir() else None
        items = _pyg_items(spec)
        if items is None:
            return None
        name = str(getattr(spec, "name", "") or "graphs" if len(items) > 1 else "graph")
        return _source(_graphs.from_pyg(items, name), name, options)

    def recipe_for(self, schema: Schema) -> str:
        """For many graphs that of the paper's section on them."""
        return self.recipe if schema.count == 1 else "graphmae-gin"

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError("graphs are read from folders of nodes.csv and edges.csv, not from single files")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        return None

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Value] | None:
        return None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None:
            raise DataError(f"'{name}' is of graphs, which have no size in pixels; leave size= (--image-size) out")
        return GraphMeter(name, getattr(column, "names", ()))

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        """Graphs are looked at when they are opened."""

    def extent(self, value: Graph) -> tuple[int, ...]:
        return (len(value.x),)

    def fit(self, value: Graph, field: Field, augment: Any, rng: np.random.Generator | None) -> Graph:
        if value.shape[1] != field.shape[1]:
            raise DataError(f"a graph of '{field.name}' has {value.shape[1]} features a node, not {field.shape[1]}")
        return value

    def natural(self, value: Graph, field: Field, limit: int) -> Graph:
        return self.fit(value, field, None, None)

    def pad(self, values: Sequence[Graph], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(B, N, F), NaN in the places of nodes that a graph does not have."""
        if len(values) == 1:
            return torch.from_numpy(values[0].x)[None], None
        out = np.full((len(values), max(len(v.x) for v in values), values[0].shape[1]), np.nan, dtype=np.float32)
        for row, value in zip(out, values):
            row[: len(value.x)] = value.x
        return torch.from_numpy(out), None

    def beside(self, values: Sequence[Graph]) -> dict[str, Tensor]:
        """`edges` (B, E, 2) int64, -1 where a graph has fewer, and `edge_attr` (B, E, A) where there are attributes."""
        most = max(len(v.edges) for v in values)
        edges = np.full((len(values), most, 2), -1, dtype=np.int64)
        for row, value in zip(edges, values):
            row[: len(value.edges)] = value.edges
        out = {"edges": torch.from_numpy(edges)}
        if all(v.edge_attr is not None for v in values):
            width = values[0].edge_attr.shape[1]  # type: ignore[union-attr]
            attributes = np.zeros((len(values), most, width), dtype=np.float32)
            for one, value in zip(attributes, values):
                one[: len(value.edges)] = value.edge_attr  # type: ignore[assignment]
            out["edge_attr"] = torch.from_numpy(attributes)
        return out

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        if trained.shape[1] != given.shape[1]:
            raise SchemaError(f"nodes have {given.shape[1]} features in {given_by} and {trained.shape[1]} in "
                              f"{trained_on}, which the model was trained on; give graphs with the same")  # fmt: skip
        if trained.columns and given.columns and trained.columns != given.columns:
            wrong = [name for name in trained.columns if name not in given.columns] or list(given.columns)
            raise SchemaError(f"node features of {given_by} are not those of {trained_on}, or in another order (first: "
                              f"{some(wrong)}); give the same columns in the same order")  # fmt: skip
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, middle, high = (f"{size[0]:,}" for size in field.sizes)
        nodes = f"{high} nodes" if low == high else f"{low} to {high} nodes a graph (median {middle})"
        share = f", {1 - field.filled:.1%} of them 0" if field.filled < 0.5 else ""
        return [(field.name, f"{nodes}, {field.shape[1]:,} features a node{share}")]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        """Number of nodes, and the mean of each feature over them."""
        there = ~values[..., :1].isnan()
        count = there.sum(1).float()  # B 1
        return torch.cat([count, torch.where(there, values, 0.0).sum(1) / count.clamp(min=1)], 1)

    def flattened(self, field: Field, limit: int) -> str:
        return "the mean of the features over the nodes of a graph, and their number"

    def example_field(self, name: str) -> Field:
        meter = GraphMeter(name, ())
        for graph in made_up(64, 0, 6):
            meter.add("", graph)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return self.pad(made_up(count, seed, field.shape[1]), 1)[0]

    def example_batch(self, field: Field, count: int, seed: int) -> dict[str, Tensor]:
        beside = self.beside(made_up(count, seed, field.shape[1]))
        return {field.name: self.examples(field, count, seed)} | {f"{field.name}.{n}": t for n, t in beside.items()}

    def augmentable(self, field: Field) -> str:
        return "graphs are used as they are: not augmented"

    def model_size(self, field: Field) -> str:
        return "graph"


class GraphMeter(Meter):
    """Numbers of nodes; range, mean and deviation of each feature; the share of values that are not 0."""

    most = 100_000

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        self.name, self.columns = name, tuple(columns)
        self.sizes: list[int] = []
        self.edges = self.filled = 0
        self.sums = self.squares = np.zeros(0)
        self.low, self.high = np.inf, -np.inf

    def add(self, name: str, value: Value | None) -> None:
        if value is None:
            return
        x = value.x
        if self.sizes and x.shape[1] != len(self.sums):
            raise DataError(f"{name} has {x.shape[1]} features a node, others have {len(self.sums)}; give every graph "
                            "the same")  # fmt: skip
        sums, squares = x.sum(0, dtype=np.float64), np.square(x, dtype=np.float64).sum(0)
        self.sums, self.squares = (sums, squares) if not self.sizes else (self.sums + sums, self.squares + squares)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.filled += int(np.count_nonzero(x))
        self.edges += len(value.edges)
        self.sizes.append(len(x))

    def field(self) -> Field:
        if not self.sizes:
            raise nothing_readable(self.name)
        nodes, width = sum(self.sizes), len(self.sums)
        if max(self.sizes) < 2:
            raise DataError(f"no graph of '{self.name}' has two nodes, and a node is predicted from others; give "
                            "larger graphs")  # fmt: skip
        mean = self.sums / nodes
        std = np.sqrt(np.maximum(self.squares / nodes - mean**2, 0.0))
        order = sorted(self.sizes)
        notes = [f"{self.edges:,} edges, each direction counted"]
        if not self.edges:
            notes.append("there are no edges at all: nodes are predicted from nothing but their graph's mean")
        plain = lambda values: tuple(float(v) for v in values)
        return Field(name=self.name, kind="graph", dtype="float32", shape=(order[-1], width),
                     sizes=((order[0],), (order[len(order) // 2],), (order[-1],)), low=self.low, high=self.high,
                     mean=plain(mean), std=plain(np.where(std > 0, std, 1.0)), notes=tuple(notes), columns=self.columns,
                     filled=self.filled / (nodes * width))  # fmt: skip


def made_up(count: int, seed: int, features: int) -> list[Graph]:
    """Rings with chords, of 12 to 24 nodes, whose features vary slowly along the edges."""
    axes = np.random.default_rng(7).normal(size=(4, features))  # the same relations whatever the graphs
    rng, graphs = np.random.default_rng([seed, 2]), []
    for n in range(count):
        nodes = EXAMPLE - 4 * (n % 4)
        near = np.stack([np.arange(nodes), (np.arange(nodes) + 1) % nodes], 1)
        edges = np.concatenate([near, rng.integers(0, nodes, (nodes // 3, 2))])
        phase = 2 * np.pi * (np.arange(nodes) / nodes + rng.random())
        waves = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase), np.cos(2 * phase)], 1)
        x = waves @ axes + 0.1 * rng.normal(size=(nodes, features))
        graphs.append(_graphs.graph_of(x, np.concatenate([edges, edges[:, ::-1]]), None, f"graph {n}"))
    return graphs


# Opening.


def _pyg_items(spec: Any) -> list[Any] | None:
    """PyTorch Geometric's Data in a spec; nothing is imported, as the library of an object is loaded already."""
    module = sys.modules.get("torch_geometric.data")
    if module is None:
        return None
    if isinstance(spec, module.data.BaseData):
        return spec.to_data_list() if isinstance(spec, module.Batch) else [spec]
    many = isinstance(spec, module.Dataset) or (
        isinstance(spec, (list, tuple)) and len(spec) > 0 and isinstance(spec[0], module.data.BaseData)
    )
    return [spec[n] for n in range(len(spec))] if many else None


def _open_folder(path: Path, options: Options) -> Source | None:
    """Planetoid or TU files, in the folder or in its raw/, or csv files; None for other folders."""
    if not os.access(path, os.R_OK | os.X_OK):
        return None
    for folder in (path, path / "raw"):
        for look, read in ((_graphs.planetoid_in, _graphs.read_planetoid), (_graphs.tu_in, _graphs.read_tu)):
            name = look(folder)
            if name is not None:
                return _source(read(folder, name), path.name, options)
    if (path / "edges.csv").is_file() and (path / "nodes.csv").is_file():
        label = options.label if isinstance(options.label, str) else None
        return _source(_graphs.read_csv_graph(path, label, options.ignore, options.na_values), path.name, options)
    folders = sorted(Path(entry.path) for entry in os.scandir(path) if entry.is_dir())
    inside = [folder for folder in folders if (folder / "edges.csv").is_file() and (folder / "nodes.csv").is_file()]
    if inside:
        return _source(_several(path, inside, options), path.name, options)
    if (path / "edges.csv").is_file():
        raise DataError(f"{path} has edges.csv and no nodes.csv; add one with a row a node: id, and features")
    if (path / "processed").is_dir() and list((path / "processed").glob("*.pt")):
        raise DataError(f"{path} holds processed files of PyTorch Geometric, which are pickles and are not read; give "
                        "its raw/ folder, or open the data set in Python and give that")  # fmt: skip
    return None


def _several(path: Path, inside: list[Path], options: Options) -> Found:
    """A graph in each folder; graphs.csv (graph, label) where there are labels."""
    read = [_graphs.read_csv_graph(one, None, options.ignore, options.na_values) for one in inside]
    first = read[0]
    odd = next((p for p, r in zip(inside, read) if r.columns != first.columns), None)
    if odd is not None:
        raise DataError(f"{odd / 'nodes.csv'} has other feature columns than {inside[0] / 'nodes.csv'}")
    ids = [one.name for one in inside]
    found = Found([r.graphs[0] for r in read], columns=first.columns, ids=ids, notes=first.notes)
    if all(r.node_labels is not None for r in read):
        found.node_labels = [r.node_labels[0] for r in read if r.node_labels]
        if all(r.node_parts is not None for r in read):
            found.node_parts = [r.node_parts[0] for r in read if r.node_parts]
    table = path / "graphs.csv"
    if table.is_file():
        columns = {c.name: c.values for c in _graphs._cells.read_csv(table, options.na_values)}
        wanted = options.label if isinstance(options.label, str) else "label"
        if not {"graph", wanted} <= set(columns):
            raise DataError(f"{table} needs the columns graph and {wanted} (it has: {some(list(columns), 8)})")
        names = _graphs._ids(next(c for c in _graphs._cells.read_csv(table, options.na_values) if c.name == "graph"))
        by_name = dict(zip(names, columns[wanted]))
        found.labels = np.array([by_name.get(one) for one in ids], dtype=object)
    return found


def _source(found: Found, name: str, options: Options) -> Source:
    if options.split is not None:
        raise DataError(f"{name} has no split '{options.split}'; graphs are split with split_source(source), the nodes "
                        "of one graph by a column split or by masks")  # fmt: skip
    if not isinstance(options.label, str) and options.label is not None:
        found.labels = np.asarray(options.label)
    groups = None if options.group is None or isinstance(options.group, str) else np.asarray(options.group)
    numbers = names = targets = None
    if found.labels is not None:
        if len(found.labels) != len(found.graphs):
            raise DataError(f"{name} has {len(found.graphs)} graphs and {len(found.labels)} labels; give one a graph")
        numbers, names, targets = classes_or_numbers(found.labels)
    tokens = None
    if found.node_labels is not None:
        joined, classes = encode(np.concatenate(found.node_labels), f"the node labels of {name}")
        cuts = np.cumsum([len(y) for y in found.node_labels])[:-1]
        tokens = TokenLabels(np.split(joined, cuts), classes, found.node_parts)
    return Source(name=name, columns={KIND.name: GraphColumn(found.graphs, found.columns)}, ids=found.ids,
                  labels=numbers, label_names=names, groups=groups, strict=options.strict, notes=found.notes,
                  targets=targets, token_labels=tokens)  # fmt: skip


KIND = GraphKind()
