"""Parts of graphs: against PyTorch Geometric, loops over nodes and dense products; what mask and decoder see."""

import signal

import numpy as np
import pytest
import torch
from train_tools import QUIET, At

from anymask import keyed
from anymask.contract.data import batch_of, example_schema
from anymask.data import infer_schema, open_source, ordered_loader
from anymask.engine import everything
from anymask.parts import graph_layers
from anymask.parts.graph_layers import GatLayer, GinLayer, MlpLayer, Packed, dropout
from anymask.parts.graphs import NodeEmbed, Nodes, SwapFeatures
from anymask.parts.losses import scaled_cosine
from anymask.recipe import P, Recipe, RecipeError, Size, find
from anymask.run import Run
from anymask.train import Interrupted, pretrain

pytest.importorskip("torch_geometric")
from torch_geometric.data import Data

SIZE = Size(32, 2, 4, 32, 1, 1)
SCHEMA = example_schema("graph")


def edges_of(nodes=30, count=120, seed=0):
    """(2, E), every node with an edge to itself, in the order of the targets."""
    ends = torch.randint(0, nodes, (2, count), generator=torch.Generator().manual_seed(seed))
    ends = torch.unique(ends[:, ends[0] != ends[1]], dim=1)
    ends = torch.cat([ends, torch.arange(nodes).expand(2, -1)], 1)
    return ends[:, ends[1].argsort(stable=True)]


def built(**changes):
    torch.manual_seed(0)
    return find("graphmae").but(changes).build(SCHEMA, SIZE)


def test_attention_is_that_of_pyg_with_its_gradients():
    torch.manual_seed(0)
    layer, edges = GatLayer(16, heads=4, dropout=0.0), edges_of()
    layer.conv.bias.data.normal_()
    x = torch.randn(30, 16, requires_grad=True)
    packed = Packed(edges, edges[0].argsort(stable=True), None)
    ours, theirs = layer(x, packed), layer.act(layer.conv(layer.lin(x), edges))
    torch.testing.assert_close(ours, theirs)
    weight, parts = torch.randn_like(ours), [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), parts) for y in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_isomorphism_layer_sums_neighbours():
    torch.manual_seed(0)
    layer, edges = GinLayer(8).eval(), edges_of()
    x = torch.randn(30, 8)
    h = layer.lin(x)
    summed = torch.stack([h[n] + h[edges[0][edges[1] == n]].sum(0) for n in range(30)])
    torch.testing.assert_close(layer(x, Packed(edges, edges[0].argsort(stable=True), None)), layer.conv.nn(summed))


def test_sparse_products_are_the_dense_ones():
    torch.manual_seed(0)
    model = find("graphmae").build(SCHEMA, SIZE)
    stem = NodeEmbed(model, dropout=0.0)
    x = torch.where(torch.rand(2, 9, 6) < 0.2, torch.randn(2, 9, 6), 0.0)
    shown = torch.rand(2, 9) < 0.7
    outs = []
    for sparse in (False, True):
        stem.sparse = sparse
        out = torch.where(shown[..., None], stem.products(x, shown), 0.0)
        (grad,) = torch.autograd.grad(out.square().sum(), stem.embed.weight)
        outs.append((out, grad))
    for dense, sparse in zip(*outs):
        torch.testing.assert_close(dense, sparse)


def test_dropout():
    torch.manual_seed(0)
    x = torch.rand(999, 101) + 1
    out = dropout(x, 0.2, True)
    assert abs((out == 0).float().mean().item() - 0.2) < 0.005
    torch.testing.assert_close(out[out != 0], (x / 0.8)[out != 0])
    kept = out.flatten().ne(0).float()
    for apart in (1, 2, 3, 4):  # four values share the bits of one number
        assert abs(torch.stack([kept[:-apart], kept[apart:]]).corrcoef()[0, 1].item()) < 0.01
    assert dropout(x, 0.2, False) is x and dropout(x, 0.0, True) is x
    torch.manual_seed(0)
    torch.rand(999, 101)
    assert torch.equal(dropout(x, 0.2, True), out)


def test_nodes():
    model = built()
    batch = batch_of(SCHEMA, 4)
    tokens = model.tokenizer(batch)
    there = ~batch["graph"][..., 0].isnan()
    assert torch.equal(tokens.valid, there) and (tokens.x["graph"][~there] == 0).all()
    raw = batch["graph"][there]
    field = SCHEMA.fields["graph"]
    torch.testing.assert_close(tokens.x["graph"][there], (raw - torch.tensor(field.mean)) / torch.tensor(field.std))
    assert tokens.valid.flatten()[tokens.edges].all()  # edges are of nodes that there are, and stay within a graph
    assert torch.equal(tokens.edges[0] // tokens.shape[1], tokens.edges[1] // tokens.shape[1])
    counts = torch.tensor([[2.0, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0]])
    words = open_source(Data(x=counts, edge_index=torch.tensor([[0], [1]])))
    schema = infer_schema(words)
    bag = Nodes(find("graphmae").build(schema, SIZE))
    (one,) = ordered_loader(words, schema, batch_size=1)
    assert bag.rows and bag(one).x["graph"][0].tolist() == [[0.5, 0, 0, 0.5], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert bag(one).valid is None


@pytest.mark.parametrize("slug", ["graphmae", "graphmae-gin"])
def test_graphs_of_a_batch_do_not_mix(slug):
    torch.manual_seed(0)
    model = find(slug).build(SCHEMA, SIZE)
    batch = batch_of(SCHEMA, 4)
    together = model.embed(batch)
    for n in range(4):
        alone = model.embed({name: value[n : n + 1] for name, value in batch.items()})
        torch.testing.assert_close(together.mean()[n : n + 1], alone.mean())


def test_packed():
    tokens = built().tokenizer(batch_of(SCHEMA, 3))
    packed = Packed.of(tokens)
    count = int(tokens.valid.sum())
    assert packed.edges.shape[1] == tokens.edges.shape[1] + count and packed.edges.max() == count - 1
    assert (packed.edges[1].diff() >= 0).all()
    x = torch.randn(*tokens.shape, 2)
    back = packed.unpack(packed.pack(x), tokens)
    assert torch.equal(back, torch.where(tokens.valid[..., None], x, 0.0))


def seen_by(rate, count=400):
    """Content, mask and what the encoder gets of one graph of many nodes, each of its own content."""
    model, none = built(), torch.zeros(1, 0, 2, dtype=torch.long)
    sample = {"graph": torch.randn(1, count, 6), "graph.edges": none, "key": keyed.keys(0, 0, torch.arange(1))}
    step = model.hide(sample)
    part = SwapFeatures(model, rate=rate)
    part.token.data.fill_(7.0)
    model.stem.dropout = 0.0
    return model, step, part(step, model).x[0]


def test_some_hidden_nodes_show_a_visible_one():
    model, step, x = seen_by(0.1)
    own = model.stem.embed(step.tokens.x["graph"])[0]
    visible = step.mask.visible[0]
    torch.testing.assert_close(x[visible], own[visible])
    hidden = x[~visible]
    token = (hidden == 7.0).all(1)
    assert len(hidden) == 200 and (~token).sum() == 20
    near = torch.cdist(hidden[~token], own, compute_mode="donot_use_mm_for_euclid_dist")
    assert near.min(1).values.max() < 1e-3 and visible[near.argmin(1)].all()
    assert len(near.argmin(1).unique()) > 10
    _, step, x = seen_by(0.0)
    assert (x[~step.mask.visible[0]] == 7.0).all()
    with pytest.raises(RecipeError, match="share of the hidden nodes"):
        SwapFeatures(model, rate=1.0)


def test_the_decoder_rebuilds_from_neighbours():
    step = built().hide(batch_of(SCHEMA, 2))
    for remask, same in ((True, True), (False, False)):
        model = built(**{"decoder.remask": remask}).eval()
        with torch.no_grad():
            done = model.predict(step)
            noise = torch.where(step.mask.visible[..., None], 0.0, torch.randn_like(done.latent.x))
            other = model.decoder(done._replace(latent=done.latent._replace(x=done.latent.x + noise)), model)
        assert torch.equal(done.pred["features"], other["features"]) == same
    without = step._replace(tokens=step.tokens._replace(edges=step.tokens.edges[:, :0]))
    with torch.no_grad():
        assert not torch.allclose(model.predict(without).pred["features"], done.pred["features"])


def test_a_decoder_without_neighbours_needs_codes():
    with pytest.raises(RecipeError, match=r"decoder.remask=false"):
        built(**{"decoder.layer": MlpLayer})
    built(**{"decoder.layer": MlpLayer, "decoder.remask": False})
    with pytest.raises(RecipeError, match="3 heads do not divide a width of 32"):
        built(**{"encoder.heads": 3})


def test_scaled_cosine():
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    torch.testing.assert_close(scaled_cosine(a, b, power=2.0), (1 - cosine) ** 2)
    torch.testing.assert_close(scaled_cosine(3 * a, b), scaled_cosine(a, 5 * b))
    assert scaled_cosine(a, torch.zeros_like(b)).isfinite().all()
    recipe = find("graphmae").but({"loss.power": 1.5})
    again = Recipe.from_json(recipe.to_json())
    assert again.loss == P(scaled_cosine, power=1.5)
    torch.testing.assert_close(again.build(SCHEMA, SIZE).losses["features"](a, b), (1 - cosine) ** 1.5)


def test_layers_of_the_encoder():
    model = built(**{"encoder.layers": True})
    latent = model.embed(batch_of(SCHEMA, 3))
    assert len(latent.layers) == 3 and torch.equal(latent.layers[-1], latent.x)


def test_without_pyg_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_geometric.nn", None)
    with pytest.raises(RecipeError, match=r"pip install 'anymask\[graphs\]'"):
        graph_layers.pyg()


# Training.


def cycle(nodes=40):
    ends = torch.arange(nodes)
    edges = torch.stack([ends, (ends + 1) % nodes])
    phase = 2 * torch.pi * ends / nodes
    x = torch.stack([phase.sin(), phase.cos(), (2 * phase).sin()], 1)
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), y=(ends * 4 // nodes),
                **{f"{name}_mask": ends % 3 == n for n, name in enumerate(("train", "val", "test"))})  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_graph_trains_and_resumes_bit_for_bit(tmp_path, precision):
    options = QUIET | dict(size=SIZE, steps=6, precision=precision)
    whole = pretrain(cycle(), out=tmp_path / "whole", **options)
    assert whole.recipe.slug == "graphmae" and whole.settings["batch_size"] == 1
    with pytest.raises(Interrupted):
        pretrain(cycle(), out=tmp_path / "cut", loggers=(At(3, signal.SIGINT),), **options)
    cut = pretrain(cycle(), out=tmp_path / "cut", resume=True, **QUIET)
    for a, b in zip(whole.model().parameters(), cut.model().parameters()):
        assert torch.equal(a, b)
    assert "predicted" in np.load(tmp_path / "whole" / "history.npz")


def test_many_graphs_have_a_recipe_of_their_own(tmp_path):
    run = pretrain([cycle(n) for n in range(6, 26)], out=tmp_path / "r", **(QUIET | dict(size=SIZE, steps=3)))
    assert run.recipe.slug == "graphmae-gin" and run.settings["batch_size"] == 16
    model = Run.open(run.folder).model()
    tokens = model.tokenizer(batch_of(run.schema, 2))
    assert everything(tokens).keep is None
