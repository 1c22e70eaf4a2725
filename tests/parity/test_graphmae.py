"""`graphmae` against the architecture of the authors' code put together from PyTorch Geometric's own GATConv: the same
weights, the same mask, no dropout."""

import pytest
import torch
from torch import nn

from anymask.contract.data import batch_of, example_schema
from anymask.engine import Step, split
from anymask.recipe import Size, find

pytest.importorskip("torch_geometric")
from torch_geometric.nn import GATConv

WIDTH, HEADS = 32, 4


class Theirs(nn.Module):
    """Mask token, two attention layers, a bridge, zeros where hidden, one attention layer to the features, and the
    cosine error to the power of 3 (arXiv:2205.10803, section 3.2)."""

    def __init__(self, features):
        super().__init__()
        self.token = nn.Parameter(torch.randn(features))
        self.first, self.second = GATConv(features, WIDTH // HEADS, HEADS), GATConv(WIDTH, WIDTH // HEADS, HEADS)
        self.act, self.last_act = nn.PReLU(), nn.PReLU()
        self.bridge = nn.Linear(WIDTH, WIDTH, bias=False)
        self.decoder = GATConv(WIDTH, features, 1)

    def encode(self, x, edges):
        return self.last_act(self.second(self.act(self.first(x, edges)), edges))

    def forward(self, x, edges, hidden):
        codes = self.encode(torch.where(hidden[:, None], self.token, x), edges)
        rebuilt = self.decoder(torch.where(hidden[:, None], 0.0, self.bridge(codes)), edges)[hidden]
        cosine = nn.functional.normalize(rebuilt, dim=1) * nn.functional.normalize(x[hidden], dim=1)
        return codes, rebuilt, (1 - cosine.sum(1)).pow(3).mean()


def our_weights(their):
    """Their weights under our names. Our token is the product of theirs; our decoder sums before it multiplies, so its
    attention reads the sums: W^T a in place of a."""
    project = their["decoder.lin.weight"]  # F D
    ours = {
        "corruption.token": their["first.lin.weight"] @ their["token"],
        "stem.embed.weight": their["first.lin.weight"],
        "encoder.blocks.1.lin.weight": their["second.lin.weight"],
        "decoder.token": torch.zeros(WIDTH),
        "decoder.bridge.weight": their["bridge.weight"],
        "decoder.layer.conv.bias": torch.zeros(WIDTH),
        "decoder.heads.heads.features.weight": project,
        "decoder.heads.heads.features.bias": their["decoder.bias"],
        "encoder.blocks.0.act.weight": their["act.weight"],
        "encoder.blocks.1.act.weight": their["last_act.weight"],
    }
    for end in ("att_src", "att_dst"):
        ours[f"decoder.layer.conv.{end}"] = (their[f"decoder.{end}"][0] @ project)[None]
    for name, layer in (("first", 0), ("second", 1)):
        ours |= {f"encoder.blocks.{layer}.conv.{p}": their[f"{name}.{p}"] for p in ("att_src", "att_dst", "bias")}
    return ours


def test_graphmae():
    torch.manual_seed(0)
    schema, batch = example_schema("graph"), batch_of(example_schema("graph"), 3)
    theirs = Theirs(6).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    recipe = find("graphmae").but({"corruption.rate": 0.0})
    ours = recipe.build(schema, Size(WIDTH, 2, HEADS, WIDTH, 1, 1)).eval()
    ours.load_state_dict(our_weights(theirs.state_dict()))
    tokens = ours.tokenizer(batch)
    mask = split(torch.rand(tokens.shape), 0.5, keep=1.0, valid=tokens.valid)
    with torch.no_grad():
        step = ours.learn(Step(batch, tokens, mask, aux={}))
        real = tokens.valid.flatten()
        place = real.cumsum(0) - 1
        x, hidden = tokens.x["graph"].flatten(0, 1)[real], ~mask.visible.flatten()[real]
        codes, rebuilt, loss = theirs(x, place[tokens.edges], hidden)
        embedded = ours.embed(batch).x.flatten(0, 1)[real]
    scattered = torch.zeros(*tokens.shape, 6)
    for b in range(len(scattered)):
        scattered[b, mask.ask[b][mask.ask_ok[b]]] = step.pred["features"][b][mask.ask_ok[b]]
    differences = {
        "codes": (step.latent.x.flatten(0, 1)[real] - codes).abs().max().item(),
        "features without a mask": (embedded - theirs.encode(x, place[tokens.edges])).abs().max().item(),
        "predictions": (scattered.flatten(0, 1)[real][hidden] - rebuilt).abs().max().item(),
        "loss": (step.loss - loss).abs().item(),
    }
    assert hidden.sum() > 20 and 0.1 < loss < 8
    assert max(differences.values()) < 1e-5, differences  # not recorded: the architecture is put together here
