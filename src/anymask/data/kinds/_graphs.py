"""One graph as a value, and graphs from what people have: PyTorch Geometric objects and the raw folders of its data
sets, and folders of csv files."""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, some
from . import _cells

DEGREES = 64  # nodes without features are told by their degree, larger ones being one class
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Graph:
    """One graph: features of nodes, and edges by the numbers of their nodes, without loops and repetitions."""

    x: np.ndarray  # (N, F) float32
    edges: np.ndarray  # (E, 2) int64: from, to
    edge_attr: np.ndarray | None = None  # (E, A) float32

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, F)"""
        return self.x.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.x.dtype

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.edges.nbytes

    def tobytes(self) -> bytes:
        attributes = b"" if self.edge_attr is None else self.edge_attr.tobytes()
        return self.x.tobytes() + self.edges.tobytes() + attributes


@dataclass
class Found:
    """Graphs as they were read: labels a graph or, by node, a graph's (N,) labels and parts (see `TokenLabels`)."""

    graphs: list[Graph]
    labels: np.ndarray | None = None
    node_labels: list[np.ndarray] | None = None
    node_parts: list[np.ndarray] | None = None
    columns: tuple[str, ...] = ()
    ids: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def graph_of(x: np.ndarray, edges: np.ndarray, edge_attr: np.ndarray | None, name: str) -> Graph:
    """A graph that has been looked at. Raises DataError naming `name` for what no model can be trained on."""
    x, edges = np.asarray(x), np.asarray(edges)
    if x.ndim != 2 or x.dtype.kind not in "biuf" or not x.shape[1]:
        raise DataError(f"node features of {name} have shape {x.shape} and type {x.dtype}; give numbers, (nodes, "
                        "features)")  # fmt: skip
    if not len(x):
        raise DataError(f"{name} has no nodes")
    x = np.ascontiguousarray(x, dtype=np.float32)
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise DataError(f"node features of {name} are not finite in {int(bad.sum()):,} of {len(x):,} nodes (first: "
                        f"node {int(bad.argmax())}); fill those values or leave the nodes out")  # fmt: skip
    if edges.size == 0:
        edges = np.zeros((0, 2), dtype=np.int64)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise DataError(f"edges of {name} have shape {edges.shape} and type {edges.dtype}; give whole numbers, (edges, "
                        "2)")  # fmt: skip
    wrong = (edges < 0) | (edges >= len(x))
    if wrong.any():
        row = int(wrong.any(1).argmax())
        raise DataError(f"edge {row} of {name} is between nodes {edges[row, 0]} and {edges[row, 1]}, but the graph has "
                        f"the nodes 0 to {len(x) - 1}; number nodes from 0")  # fmt: skip
    kept = np.flatnonzero(edges[:, 0] != edges[:, 1])
    _, first = np.unique(edges[kept, 1] * len(x) + edges[kept, 0], return_index=True)
    kept = kept[first]  # by target, so that what a node receives lies together
    if edge_attr is not None:
        edge_attr = np.asarray(edge_attr, dtype=np.float32).reshape(len(edges), -1)[kept]
    return Graph(x, edges[kept].astype(np.int64), edge_attr)


def by_degree(edges: np.ndarray, count: int) -> np.ndarray:
    """(N, 65) one-hot degrees, the last class for larger ones (GraphMAE, arXiv:2205.10803, section 4.2)."""
    degree = np.bincount(edges[:, 1], minlength=count) if edges.size else np.zeros(count, dtype=np.int64)
    return np.eye(DEGREES + 1, dtype=np.float32)[np.minimum(degree, DEGREES)]


NO_FEATURES = f"the nodes have no features; their degree (up to {DEGREES}, one-hot) is taken"

# PyTorch Geometric.


def from_pyg(items: Sequence[Any], name: str) -> Found:
    """torch_geometric Data objects: `x`, `edge_index`, `edge_attr`, `y` by graph or by node, `train_mask` and so on."""
    found = Found([])
    several, labels = len(items) > 1, []
    for number, data in enumerate(items):
        called = f"graph {number} of {name}" if several else name
        if type(data).__name__ not in ("Data", "Batch") or getattr(data, "edge_index", None) is None:
            raise DataError(f"{called} is a {type(data).__name__} without edge_index, or of several kinds of nodes; "
                            "give torch_geometric.data.Data with x and edge_index")  # fmt: skip
        edges, count = _plain(data.edge_index).T, int(data.num_nodes or 0)
        if data.x is None:
            found.notes = [NO_FEATURES]
        x = by_degree(edges, count) if data.x is None else _plain(data.x)
        x = x[:, None] if x.ndim == 1 else x
        attributes = None if data.edge_attr is None else _plain(data.edge_attr)
        found.graphs.append(graph_of(x, edges, attributes, called))
        y = getattr(data, "y", None)
        labels.append(None if y is None else _plain(y))
    _pyg_labels(found, items, labels, name)
    return found


def _pyg_labels(found: Found, items: Sequence[Any], labels: list[np.ndarray | None], name: str) -> None:
    """Labels of graphs where each has one, of nodes where each node has one."""
    known = [y for y in labels if y is not None]
    if not known:
        return
    if len(known) < len(labels):
        found.notes.append(f"only {len(known):,} of {len(labels):,} graphs have y: no labels are used")
    elif all(y.size == 1 for y in known) and not (len(known) == 1 and len(found.graphs[0].x) > 1):
        found.labels = np.array([y.reshape(-1)[0] for y in known])
    elif all(y.size == len(g.x) and y.dtype.kind in "iub" for y, g in zip(known, found.graphs)):
        found.node_labels = [y.reshape(-1).astype(np.int64) for y in known]
        masks = [[getattr(d, f"{part}_mask", None) for part in ("train", "val", "test")] for d in items]
        if all(mask is not None and mask.ndim == 1 for three in masks for mask in three):
            found.node_parts = [parts_of_masks([_plain(mask) for mask in three]) for three in masks]
    else:
        found.notes.append(f"y of {name} is neither one number a graph nor one class a node: no labels are used")


def parts_of_masks(masks: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) int8, the number of the mask that a node is in, -1 where in none."""
    parts = np.full(len(masks[0]), -1, dtype=np.int8)
    for number, mask in enumerate(masks):
        parts[mask.astype(bool)] = number
    return parts


def _plain(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.to_dense() if tensor.is_sparse else tensor).numpy()


# The raw files of Planetoid (arXiv:1603.08861).

PLANETOID = ("tx", "allx", "y", "ty", "ally", "graph")
ALLOWED = {  # of the pickles: arrays, sparse matrices, lists
    ("numpy", "ndarray"), ("numpy", "dtype"), ("scipy.sparse.csr", "csr_matrix"), ("collections", "defaultdict"),
    ("numpy.core.multiarray", "_reconstruct"), ("__builtin__", "list"), ("builtins", "list"),
}  # fmt: skip


class _Arrays(pickle.Unpickler):
    """Reads pickles of arrays, and refuses to run anything else that a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        if name == "list":
            return list
        if name == "_reconstruct":
            return np.ndarray.__reduce__(np.zeros(0))[0]  # wherever this numpy keeps it
        if name == "csr_matrix":
            from scipy.sparse import csr_matrix

            return csr_matrix
        return {"ndarray": np.ndarray, "dtype": np.dtype, "defaultdict": defaultdict}[name]


def planetoid_in(folder: Path) -> str | None:
    """The name in the files ind.<name>.x and so on of a folder."""
    found = sorted(path.name for path in folder.glob("ind.*.allx"))
    return found[0].split(".")[1] if found else None


def read_planetoid(folder: Path, name: str) -> Found:
    """One graph with the public split: 20 nodes a class for training, the next 500, and the nodes in test.index."""
    tx, allx, y, ty, ally, graph = (_unpickled(folder / f"ind.{name}.{part}") for part in PLANETOID)
    test = np.loadtxt(folder / f"ind.{name}.test.index", dtype=np.int64, ndmin=1)
    first, count = len(ally), int(test.max()) + 1  # nodes in gaps of test.index have neither features nor a label
    features = np.zeros((count, allx.shape[1]), dtype=np.float32)
    labels = np.zeros((count, ally.shape[1]))
    features[:first], labels[:first] = allx.toarray(), ally
    features[test], labels[test] = tx.toarray(), ty
    parts = np.full(count, -1, dtype=np.int8)
    parts[: len(y)], parts[len(y) : len(y) + 500], parts[test] = 0, 1, 2
    edges = np.array([(a, b) for a, near in graph.items() for b in near], dtype=np.int64).reshape(-1, 2)
    edges = np.concatenate([edges, edges[:, ::-1]])
    made = graph_of(features, edges, None, str(folder))
    # As everywhere in this field, a node without a label counts as the first class; none of them is in a part.
    return Found([made], node_labels=[labels.argmax(1)], node_parts=[parts])


def _unpickled(path: Path) -> Any:
    try:
        return _Arrays(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; a Planetoid set has the files ind.NAME.x, .{', .'.join(PLANETOID)} and "
                        ".test.index") from error  # fmt: skip
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, TypeError) as error:
        raise DataError(f"{path} cannot be read as one of Planetoid's pickled arrays ({error}); download it again") \
            from error


# The text files of TU Dortmund's collection (arXiv:2007.08663).


def tu_in(folder: Path) -> str | None:
    """The name in the files <name>_A.txt and so on of a folder."""
    found = sorted(path.name for path in folder.glob("*_A.txt"))
    return found[0].removesuffix("_A.txt") if found else None


def read_tu(folder: Path, name: str) -> Found:
    """Many graphs; a node's features are its attributes and its label, one-hot."""
    edges = _numbers(folder / f"{name}_A.txt", int) - 1
    owner = _numbers(folder / f"{name}_graph_indicator.txt", int)[:, 0] - 1
    if not len(owner) or (np.diff(owner) < 0).any() or (len(edges) and edges.max() >= len(owner)):
        raise DataError(f"{folder}: {name}_graph_indicator.txt is out of order or too short; download the set again")
    parts = [_numbers(path, float) for path in _optional(folder, name, "node_attributes")]
    parts += [_one_hot(_numbers(path, int)) for path in _optional(folder, name, "node_labels")]
    for part in parts:
        _same_length(part, owner, folder, name, "nodes")
    kept = [_one_hot(_numbers(path, int)) for path in _optional(folder, name, "edge_labels")]
    for part in kept:
        _same_length(part, edges, folder, name, "edges")
    starts = np.searchsorted(owner, np.arange(owner[-1] + 2))
    home = owner[edges[:, 0]]
    order = np.argsort(home, kind="stable")
    cuts = np.searchsorted(home[order], np.arange(owner[-1] + 2))
    found = Found([], notes=[] if parts else [NO_FEATURES])
    for n in range(owner[-1] + 1):
        nodes, mine = slice(starts[n], starts[n + 1]), order[cuts[n] : cuts[n + 1]]
        own = edges[mine] - starts[n]
        x = np.concatenate([p[nodes] for p in parts], 1) if parts else by_degree(own, starts[n + 1] - starts[n])
        found.graphs.append(graph_of(x, own, kept[0][mine] if kept else None, f"graph {n} of {name}"))
    for path in _optional(folder, name, "graph_labels"):
        found.labels = _numbers(path, int)[:, 0]
        _same_length(found.labels, found.graphs, folder, name, "graphs")
        found.labels = np.unique(found.labels, return_inverse=True)[1]
    return found


def _optional(folder: Path, name: str, part: str) -> list[Path]:
    path = folder / f"{name}_{part}.txt"
    return [path] if path.is_file() else []


def _same_length(part: Any, whole: Any, folder: Path, name: str, what: str) -> None:
    if len(part) != len(whole):
        raise DataError(f"{folder}: a file of {name} has {len(part):,} lines for {len(whole):,} {what}; download the "
                        "set again")  # fmt: skip


def _numbers(path: Path, dtype: type) -> np.ndarray:
    try:
        return np.loadtxt(path, delimiter=",", dtype=dtype, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as numbers divided by commas ({error}); download the set again") \
            from error


def _one_hot(codes: np.ndarray) -> np.ndarray:
    """(N, classes of all columns) float32."""
    columns = [np.unique(column, return_inverse=True) for column in codes.T]
    return np.concatenate([np.eye(len(values), dtype=np.float32)[number] for values, number in columns], 1)


# Folders of csv files.


def read_csv_graph(folder: Path, label: str | None, ignore: Sequence[str], na_values: Sequence[str]) -> Found:
    """nodes.csv (id, features, and label and split or not) and edges.csv (source, target, and attributes or not). An
    edge counts in both directions."""
    nodes = _cells.named(_cells.read_csv(folder / "nodes.csv", na_values), str(folder / "nodes.csv"))
    links = _cells.named(_cells.read_csv(folder / "edges.csv", na_values), str(folder / "edges.csv"))
    names = {column.name: column for column in nodes}
    if not nodes or not len(nodes[0]):
        raise DataError(f"{folder / 'nodes.csv'} has no rows; give data that hold some")
    ids = _ids(names["id"]) if "id" in names else [str(n) for n in range(len(nodes[0]))]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise DataError(f"{folder / 'nodes.csv'} has the id '{twice}' in several rows; give every node one of its own")
    for asked in (*ignore, *([label] if label else [])):
        _cells.taken(nodes, asked, "label= or ignore=", str(folder / "nodes.csv"))
    label = label or ("label" if "label" in names else None)
    kept = [column for column in nodes if column.name not in ("id", "split", label, *ignore)]
    for column in kept:
        _all_numbers(column, folder / "nodes.csv")
    edges, attributes = _links(links, ids, folder)
    notes = ["every edge of edges.csv counts in both directions"]
    if not kept:
        notes.append(NO_FEATURES)
    x = np.stack([c.numbers for c in kept], 1) if kept else by_degree(edges, len(ids))  # type: ignore[misc]
    found = Found([graph_of(x, edges, attributes, str(folder))], columns=tuple(c.name for c in kept), notes=notes)
    if label:
        found.node_labels = [np.array(names[label].values, dtype=object)]
    if "split" in names and label:
        found.node_parts = [_csv_parts(names["split"], folder)]
    return found


def _ids(column: _cells.Raw) -> list[str]:
    return [str(v if column.text is not None or v is None else int(v) if v == int(v) else v) for v in column.values]


def _all_numbers(column: _cells.Raw, path: Path) -> None:
    if column.text is not None:
        raise DataError(f"column '{column.name}' of {path} holds text; only numbers are features: leave it out with "
                        f"ignore=['{column.name}'] (--ignore), or turn it into numbers")  # fmt: skip


def _links(links: list[_cells.Raw], ids: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(2E, 2) node numbers in both directions, and attributes likewise."""
    path, names = folder / "edges.csv", {column.name: column for column in links}
    if not {"source", "target"} <= set(names):
        raise DataError(f"{path} needs the columns source and target (it has: {some(list(names), 8)})")
    number = {one: n for n, one in enumerate(ids)}
    ends = []
    for end in ("source", "target"):
        given = _ids(names[end])
        lost = next((n for n, one in enumerate(given) if one not in number), None)
        if lost is not None:
            raise DataError(f"row {lost + 1} of {path} has the {end} '{given[lost]}', which is no id of nodes.csv; add "
                            "the node or leave the edge out")  # fmt: skip
        ends.append([number[one] for one in given])
    edges = np.array(ends, dtype=np.int64).T.reshape(-1, 2)
    rest = [column for column in links if column.name not in ("source", "target")]
    for column in rest:
        _all_numbers(column, path)
    attributes = np.stack([c.numbers for c in rest], 1) if rest else None  # type: ignore[misc]
    both = None if attributes is None else np.concatenate([attributes, attributes])
    return np.concatenate([edges, edges[:, ::-1]]), both


def _csv_parts(column: _cells.Raw, folder: Path) -> np.ndarray:
    from ..source import canonical_split

    words = [None if v is None else canonical_split(str(v)) for v in column.values]
    wrong = next((w for w in words if w is not None and w not in PARTS), None)
    if wrong is not None:
        raise DataError(f"column split of {folder / 'nodes.csv'} holds '{wrong}'; use train, validation and test, or "
                        "leave the cell empty")  # fmt: skip
    return np.array([-1 if w is None else PARTS.index(w) for w in words], dtype=np.int8)
