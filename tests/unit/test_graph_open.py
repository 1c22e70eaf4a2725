"""Graphs: what is read from PyTorch Geometric, its raw folders and csv files; labels and parts; what is refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from anymask.data import DataError, Schema, SchemaError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.kinds._graphs import ALLOWED, DEGREES
from anymask.data.split import duplicates_across

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data, HeteroData

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def ring(nodes, seed=0, **more):
    ends = torch.arange(nodes)
    edges = torch.stack([ends, (ends + 1) % nodes])
    x = torch.randn(nodes, 3, generator=torch.Generator().manual_seed(seed))
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), **more)


def masks(nodes):
    part = torch.arange(nodes) % 4
    return {f"{name}_mask": part == n for n, name in enumerate(("train", "val", "test"))}


def csv(folder, nodes="id,a,b\nx,1,2\ny,3,4\nz,5,6\n", edges="source,target\nx,y\ny,z\n"):
    folder.mkdir(exist_ok=True)
    (folder / "nodes.csv").write_text(nodes)
    (folder / "edges.csv").write_text(edges)
    return folder


# One graph, and its nodes.


def test_one_pyg_graph():
    data = ring(8, y=torch.arange(8) % 3, **masks(8))
    source = open_source(data)
    graph = source[0]["graph"]
    np.testing.assert_array_equal(graph.x, data.x.numpy())
    assert set(map(tuple, graph.edges)) == set(map(tuple, data.edge_index.T.tolist()))
    assert (np.diff(graph.edges[:, 1]) >= 0).all()  # by target
    assert source.labels is None and source.token_labels.labels[0].tolist() == (np.arange(8) % 3).tolist()
    assert source.token_labels.parts[0].tolist() == [0, 1, 2, -1, 0, 1, 2, -1]
    schema = infer_schema(source)  # one graph is enough
    assert schema.fields["graph"].shape == (8, 3) and schema.labels["counts"] == [3, 3, 2]
    assert Schema.from_json(schema.to_json()) == schema
    rows = dict(schema.describe())
    assert rows["graph"] == "8 nodes, 3 features a node" and "3 classes" in rows["labels"]
    assert source.fingerprint() != open_source(ring(8, y=(torch.arange(8) + 1) % 3, **masks(8))).fingerprint()


def test_loops_and_repeated_edges_go():
    data = Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 0, 1, 0, 2], [1, 1, 1, 1, 0]]),
                edge_attr=torch.tensor([5.0, 6, 7, 8, 9]))  # fmt: skip
    graph = open_source(data)[0]["graph"]
    assert graph.edges.tolist() == [[2, 0], [0, 1]] and graph.edge_attr.tolist() == [[9], [5]]


def test_many_pyg_graphs_and_their_batches():
    graphs = [ring(n, seed=n, y=torch.tensor([n % 2])) for n in (4, 6, 5)]
    source = open_source(graphs)
    assert len(source) == 3 and source.labels.tolist() == [0, 0, 1] and source.token_labels is None
    assert open_source(Batch.from_data_list(graphs)).fingerprint() == source.fingerprint()
    schema = infer_schema(source)
    assert schema.fields["graph"].sizes == ((4,), (5,), (6,))
    (batch,) = ordered_loader(source, schema, batch_size=3)
    assert batch["graph"].shape == (3, 6, 3) and batch["graph.edges"].shape == (3, 12, 2)
    for n, graph in enumerate(graphs):
        count = len(graph.x)
        assert torch.equal(batch["graph"][n, :count], graph.x) and batch["graph"][n, count:].isnan().all()
        there = batch["graph.edges"][n][batch["graph.edges"][n][:, 0] >= 0]
        assert sorted(map(tuple, there.tolist())) == sorted(map(tuple, graph.edge_index.T.tolist()))
    trained = next(iter(training_loader(source, schema, batch_size=2, steps=1, seed=0)))
    for row, index in enumerate(trained["index"].tolist()):
        assert torch.equal(trained["graph"][row, : len(graphs[index].x)], graphs[index].x)
    assert source.in_memory and duplicates_across(source, source.subset([2])) == [(2, 0)]


def test_targets_of_graphs_are_numbers():
    source = open_source([ring(4, y=torch.tensor([0.5])), ring(5, y=torch.tensor([1.25]))])
    assert source.labels is None and source.targets.tolist() == [0.5, 1.25]


def test_without_features_the_degree_is_taken_and_said():
    star = Data(edge_index=torch.tensor([[1, 2, 3], [0, 0, 0]]), num_nodes=4)
    source = open_source([star, star])
    x = source[0]["graph"].x
    assert x.shape == (4, DEGREES + 1) and x.argmax(1).tolist() == [3, 0, 0, 0]
    assert "degree" in infer_schema(source).notes[0]


# Folders of csv files.


def test_csv_folder(tmp_path):
    nodes = "id,a,b,label,split\n10,1,2,cat,train\n11,3,4,dog,val\n12,5,6,,test\n"
    source = open_source(csv(tmp_path / "g", nodes, "source,target,w\n10,11,0.5\n12,10,2\n"))
    graph = source[0]["graph"]
    assert graph.x.tolist() == [[1, 2], [3, 4], [5, 6]]
    both = {(0, 1): 0.5, (1, 0): 0.5, (2, 0): 2, (0, 2): 2}
    assert {tuple(e): a for e, (a,) in zip(graph.edges.tolist(), graph.edge_attr.tolist())} == both
    labels = source.token_labels
    assert labels.names == ["cat", "dog"] and labels.labels[0].tolist() == [0, 1, -1]
    assert labels.parts[0].tolist() == [0, 1, 2] and source.columns["graph"].names == ("a", "b")
    assert "both directions" in source.notes[0]


def test_folder_of_csv_graphs(tmp_path):
    for n, name in enumerate(("one", "two", "three")):
        csv(tmp_path / name, f"id,a,b\nx,{n},2\ny,3,4\n", "source,target\nx,y\n")
    (tmp_path / "graphs.csv").write_text("graph,label\ntwo,p\none,q\nthree,p\n")
    source = open_source(tmp_path)
    assert source.ids == ["one", "three", "two"] and [source.label_names[n] for n in source.labels] == ["q", "p", "p"]
    assert [source[n]["graph"].x[0, 0] for n in range(3)] == [0, 2, 1]


# What is refused.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data(x=torch.tensor([[1.0], [float("nan")]]), edge_index=torch.tensor([[0], [1]])), "not finite .*node 1"),
        (Data(x=torch.tensor([[1.0], [float("inf")]]), edge_index=torch.tensor([[0], [1]])), "not finite"),
        (Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [5]])), "edge 0 .*between nodes 0 and 5.*number nodes"),
        (Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0.0], [1.0]])), "whole numbers"),
        (Data(x=torch.ones(0, 1), edge_index=torch.zeros(2, 0, dtype=torch.long)), "no nodes"),
        (Data(x=torch.ones(2, 1)), "without edge_index"),
        (HeteroData(), "HeteroData"),
    ],
    ids=["nan", "inf", "range", "float", "empty", "no edges", "hetero"],
)
def test_bad_graphs(data, message):
    with pytest.raises(DataError, match=message):
        open_source(data)


def test_graphs_that_do_not_fit_together():
    with pytest.raises(DataError, match=r"2 features a node, others have 3|3 features a node, others have 2"):
        infer_schema(open_source([ring(4), Data(x=torch.ones(2, 2), edge_index=torch.tensor([[0], [1]]))]))
    with pytest.raises(DataError, match="no graph of 'graph' has two nodes"):
        infer_schema(open_source(Data(x=torch.ones(1, 2), edge_index=torch.zeros(2, 0, dtype=torch.long))))
    trained = infer_schema(open_source([ring(4), ring(5)]))
    other = infer_schema(open_source(Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0], [1]]))))
    with pytest.raises(SchemaError, match="2 features in graph and 3 in graphs"):
        trained.check(other)
    with pytest.raises(DataError, match="no split 'test'"):
        open_source(ring(4), split="test")


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ("id,a,b\nx,1,2\ny,3,4\n", "source,target\nx,q\n", "row 1 of .*edges.csv has the target 'q'"),
        ("id,a,b\nx,1,2\nx,3,4\n", "source,target\nx,x\n", "the id 'x' in several rows"),
        ("id,a,b\nx,1,2\ny,3,4\n", "from,to\nx,y\n", "needs the columns source and target"),
        ("id,a,b\nx,1,red\ny,3,blue\n", "source,target\nx,y\n", "column 'b' .*holds text.*ignore"),
        ("id,a,label,split\nx,1,p,train\ny,3,q,maybe\n", "source,target\nx,y\n", "holds 'maybe'; use train"),
        ("id,a,b\nx,1,\ny,3,4\n", "source,target\nx,y\n", "not finite"),
    ],
    ids=["end", "twice", "columns", "text", "split", "gap"],
)
def test_bad_csv(tmp_path, nodes, edges, message):
    with pytest.raises(DataError, match=message):
        open_source(csv(tmp_path / "g", nodes, edges))


def test_incomplete_folders(tmp_path):
    (tmp_path / "edges.csv").write_text("source,target\n0,1\n")
    with pytest.raises(DataError, match=r"no nodes.csv; add one"):
        open_source(tmp_path)
    (tmp_path / "p" / "processed").mkdir(parents=True)
    (tmp_path / "p" / "processed" / "data.pt").write_bytes(b"x")
    with pytest.raises(DataError, match="pickles and are not read; give its raw"):
        open_source(tmp_path / "p")
    (tmp_path / "tu").mkdir()
    (tmp_path / "tu" / "X_A.txt").write_text("1, 2\n2, 1\n")
    with pytest.raises(DataError, match=r"X_graph_indicator.txt cannot be read"):
        open_source(tmp_path / "tu")
    (tmp_path / "tu" / "X_graph_indicator.txt").write_text("1\n1\n")
    (tmp_path / "tu" / "X_node_labels.txt").write_text("1\n")
    with pytest.raises(DataError, match="1 lines for 2 nodes"):
        open_source(tmp_path / "tu")


class Evil:
    """What runs code where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch was-here",)


def test_planetoid_pickles_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("x", "tx", "allx", "y", "ty", "ally", "graph"):
        (tmp_path / f"ind.evil.{part}").write_bytes(pickle.dumps(Evil(), 2))
    (tmp_path / "ind.evil.test.index").write_text("1\n")
    with pytest.raises(DataError, match=r"asks for posix.system, which is no array"):
        open_source(tmp_path)
    assert not (tmp_path / "was-here").exists()
    assert not any(module in ("os", "posix", "builtins", "subprocess") and name != "list" for module, name in ALLOWED)
    (tmp_path / "ind.evil.tx").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path)


# Against PyTorch Geometric's own readers.


@pytest.mark.parametrize("name", ["Cora", "Citeseer"])
@pytest.mark.realdata
def test_planetoid_is_what_pyg_reads(name):
    if not (DATA / "planetoid" / name).is_dir():
        pytest.skip("no real data")
    from torch_geometric.io import read_planetoid_data

    theirs = read_planetoid_data(str(DATA / "planetoid" / name / "raw"), name.lower())
    ours = open_source(DATA / "planetoid" / name)
    graph, labels = ours[0]["graph"], ours.token_labels
    np.testing.assert_array_equal(graph.x, theirs.x.numpy())
    loopless = theirs.edge_index[:, theirs.edge_index[0] != theirs.edge_index[1]]
    assert set(map(tuple, graph.edges.tolist())) == set(map(tuple, loopless.T.tolist()))
    np.testing.assert_array_equal(labels.labels[0], theirs.y.numpy())
    for number, mask in enumerate((theirs.train_mask, theirs.val_mask, theirs.test_mask)):
        np.testing.assert_array_equal(labels.parts[0] == number, mask.numpy())


@pytest.mark.realdata
def test_tu_is_what_pyg_reads():
    if not (DATA / "tu").is_dir():
        pytest.skip("no real data")
    from torch_geometric.io import read_tu_data

    theirs, slices, _ = read_tu_data(str(DATA / "tu" / "MUTAG" / "raw"), "MUTAG")
    ours = open_source(DATA / "tu" / "MUTAG")
    assert ours.labels.tolist() == theirs.y.tolist()
    for n in range(len(ours)):
        graph, nodes, edges = ours[n]["graph"], slices["x"][n : n + 2], slices["edge_index"][n : n + 2]
        np.testing.assert_array_equal(graph.x, theirs.x[nodes[0] : nodes[1]].numpy())
        own = theirs.edge_index[:, edges[0] : edges[1]]
        own = own - own.min()
        assert set(map(tuple, graph.edges.tolist())) == set(map(tuple, own.T.tolist()))
        by_edge = dict(zip(map(tuple, own.T.tolist()), theirs.edge_attr[edges[0] : edges[1]].tolist()))
        assert [by_edge[tuple(e)] for e in graph.edges.tolist()] == graph.edge_attr.tolist()
