"""Classes of single tokens and of whole graphs: parts, probes on validation, folds, pools, claims; and the drawings."""

import re

import numpy as np
import pytest
import torch
from train_tools import QUIET

from anymask.claims import ClaimError, Folds, TokenProbe
from anymask.data import DataError, infer_schema, open_source, ordered_loader
from anymask.evaluation import EvaluateError, embed, evaluate
from anymask.evaluation.folds import svm_folds
from anymask.evaluation.probe import linear_probe
from anymask.evaluation.token_classes import divide, probed, token_features
from anymask.recipe import Size
from anymask.reports import Panel, renderer_of, report
from anymask.reports.graphs import MOST
from anymask.reports.renderer import edges_of
from anymask.train import pretrain

pytest.importorskip("torch_geometric")
from torch_geometric.data import Data

SIZE = Size(16, 2, 4, 16, 1, 1)


def blocks(nodes=90, seed=0, **more):
    """Three groups of nodes that are joined within, and whose features say a little of the group."""
    rng = np.random.default_rng(seed)
    group = np.arange(nodes) % 3
    ends = rng.integers(0, nodes, (2, 20 * nodes))
    ends = ends[:, (group[ends[0]] == group[ends[1]]) | (rng.random(20 * nodes) < 0.02)]
    x = np.eye(3)[group] + 1.5 * rng.normal(size=(nodes, 3))
    return Data(x=torch.tensor(x), edge_index=torch.tensor(np.concatenate([ends, ends[::-1]], 1)), **more)


def labelled(nodes=90):
    part = torch.arange(nodes) // 3 % 3
    masks = {f"{name}_mask": part == n for n, name in enumerate(("train", "val", "test"))}
    return blocks(nodes, y=torch.arange(nodes) % 3, **masks)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return pretrain(labelled(), out=tmp_path_factory.mktemp("r") / "one", size=SIZE, steps=20, **QUIET)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    data = [blocks(n, seed=n, y=torch.tensor([n % 2])) for n in range(12, 36)]
    return pretrain(data, out=tmp_path_factory.mktemp("r") / "many", size=SIZE, steps=4, **QUIET), data


def test_nodes_are_probed_on_their_own_parts(one):
    table = evaluate(one, labelled(), labels=(1, "all"), draws=3)  # the task is found by the labels
    assert table.columns == ("features", "probe", "1 label a class", "all labels")
    assert [row[0] for row in table.rows[::2]] == ["raw input", "untrained encoder", "pre-trained encoder"]
    notes = " ".join(table.notes)
    assert "30 tokens of training, 30 of validation and 30 of test" in notes and "on the validation tokens" in notes
    raw, trained = (next(r[3] for r in table.rows if r[:2] == (name, "linear probe"))
                    for name in ("raw input", "pre-trained encoder"))  # fmt: skip
    assert trained.mean > raw.mean + 5  # neighbours tell a group better than a node alone
    with pytest.raises(EvaluateError, match="attentive probe pools"):
        evaluate(one, labelled(), probes="attentive")


def test_token_features(one):
    source = open_source(labelled())
    x = token_features(one, source, trained=None)
    (batch,) = ordered_loader(source, one.schema, batch_size=1)
    np.testing.assert_array_equal(x, one.model().tokenizer(batch).x["graph"][0].numpy())
    codes = token_features(one, source, trained=True)
    np.testing.assert_allclose(codes, one.model().embed(batch).x[0].detach().numpy(), rtol=1e-5)
    source._row_token_labels.labels[0] = source.token_labels.labels[0][:-1]
    with pytest.raises(DataError, match="90 tokens and 89 labels"):
        token_features(one, source, trained=None)


def test_without_parts_samples_are_divided(one):
    data = [blocks(30, seed=n, y=torch.arange(30) % 3) for n in range(5)]
    division = divide(one, open_source(data), None, 0)
    assert len(division.sources) == 2 and len(division.train) == 120 and len(division.test) == 30
    assert division.validation is None and division.reference.tolist() == list(range(120))
    x = np.eye(3)[division.labels] + 0.1 * np.random.default_rng(0).normal(size=(150, 3))
    assert probed(division, x.astype(np.float32), linear_probe).accuracy == 1.0
    given = divide(one, open_source(data[:3]), open_source(data[3:]), 0)
    assert len(given.train) == 90 and len(given.test) == 60
    with pytest.raises(DataError, match="no labels of tokens"):
        divide(one, open_source(blocks()), None, 0)


def test_c_and_scale_are_those_that_are_right_most_often_on_validation():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (np.eye(3)[y][:, [0, 1, 2] * 20] + 2 * rng.normal(size=(90, 60))) * rng.choice([0.01, 1], 60)
    train, held, test = (slice(30 * n, 30 * n + 30) for n in range(3))
    best = linear_probe(x[train], y[train], x[test], y[test], validation=(x[held], y[held]))
    right = {}
    for common in (False, True):
        scale = x[train].std() if common else x[train].std(0)
        for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            scaled = (x - x[train].mean(0)) / (np.sqrt((x[train].std(0) ** 2).mean()) if common else scale)
            ours = linear_probe(scaled[train] * 1.0, y[train], scaled[held], y[held], strengths=(c,),
                                reference=np.array([[-1.0] * 60, [1.0] * 60]))  # fmt: skip
            right[common, c] = ours.accuracy
    chosen = max(accuracy for (_, c), accuracy in right.items() if c == best.chosen)
    assert chosen == pytest.approx(max(right.values()), abs=1e-6)


def test_folds():
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    right, fold = svm_folds(x, y, folds=5)
    assert 0.94 < right.mean() < 1 and np.bincount(fold).tolist() == [30] * 5
    assert all(np.bincount(y[fold == n]).tolist() == [10, 10, 10] for n in range(5))
    with pytest.raises(DataError, match="do not fill 60 folds; give 2 to 50"):
        svm_folds(x, y, folds=60)


def test_graphs_are_classified_in_folds(many):
    run, data = many
    table = evaluate(run, data, folds=3, pool="sum")
    assert table.columns == ("features", "probe", "3 folds") and len(table.rows) == 3
    assert "'sum'" in table.notes[0] and "24 samples" in table.title


def test_pools_of_graphs_of_several_sizes(many):
    run, data = many
    source = open_source(data)
    model, loader = run.model(), ordered_loader(source, run.schema, batch_size=1)
    codes = [model.embed(batch).x[0].detach().numpy() for batch in loader]
    for pool, of in (("sum", lambda x: x.sum(0)), ("max", lambda x: x.max(0)), ("mean", lambda x: x.mean(0))):
        np.testing.assert_allclose(embed(run, source, pool=pool), [of(x) for x in codes], rtol=1e-3, atol=1e-4)


def test_metrics_of_claims(one, many):
    nodes, graphs = open_source(labelled()), open_source(many[1])
    train, test = TokenProbe().parts(nodes, np.array([0]))
    assert TokenProbe().scores(one, train, test, precision="fp32").shape == (30,)
    folds = Folds(folds=3)
    assert folds.scores(many[0], *folds.parts(graphs, np.arange(24)), precision="fp32").shape == (24,)
    with pytest.raises(ClaimError, match="no labels of tokens"):
        TokenProbe().parts(graphs, np.arange(3))
    with pytest.raises(ClaimError, match="has no labels"):
        folds.parts(nodes, np.array([0]))


# Drawings.


def test_drawings(many):
    run, data = many
    model, source = run.model(), open_source(data)
    (batch,) = ordered_loader(source.subset([0, 5]), run.schema, batch_size=2)
    tokens = model.tokenizer(batch)
    content = torch.where(tokens.valid[..., None], tokens.x["graph"], torch.nan)
    edges = edges_of(tokens)
    for n, graph in enumerate((source[0]["graph"], source[5]["graph"])):
        there = edges[n][edges[n][:, 0] >= 0]
        assert sorted(map(tuple, there.tolist())) == sorted(map(tuple, graph.edges.tolist()))
    shown, made = tokens.valid.clone(), torch.zeros_like(tokens.valid)
    shown[:, 3], made[:, 4] = False, True
    first, second = renderer_of(model).draw(
        [Panel("original", content, edges=edges), Panel("step 1", content, shown, predicted=made, edges=edges)]
    )
    assert "2 graphs of 29 nodes" in first.alt and first.svg.count("<circle") == 2 * 29  # each on a ground
    assert "2 nodes hidden" in second.alt and "2 nodes predicted, mean cosine with the truth 1.00" in second.alt
    assert second.svg.count('stroke-dasharray="2 1.5"') == 2
    places = [re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing.svg) for drawing in (first, second)]
    assert places[0] == places[1]  # a node stays where it is


def test_a_neighbourhood_of_a_large_graph_is_drawn(one):
    source = open_source(labelled())
    (batch,) = ordered_loader(source, infer_schema(source), batch_size=1)
    tokens = one.model().tokenizer(batch)
    (drawing,) = renderer_of(one.model()).draw([Panel("original", tokens.x["graph"], edges=edges_of(tokens))])
    assert drawing.svg.count("<circle") == 2 * MOST and f"{MOST} nodes of each large one drawn" in drawing.alt
    (bare,) = renderer_of(one.model()).draw([Panel("original", tokens.x["graph"][:, :5])])
    assert bare.svg.count("<circle") == 2 * 5 and "M" not in re.findall(r'<path d="([^"]*)"', bare.svg)[0]


def test_pages(one, many, tmp_path):
    for run, data in ((one, labelled()), many):
        text = report(run, data, tmp_path / "r.html", samples=24).read_text()  # too few for t-SNE, which takes long
        assert "nodes predicted, mean cosine with the truth" in text and "names no renderer" not in text
        assert "nan" not in re.sub(r"nan[a-z]", "", text.lower())
