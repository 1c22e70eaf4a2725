"""Parts of graphs: nodes as tokens, message passing, and what GraphMAE (arXiv:2205.10803) adds. Layers are those of
PyTorch Geometric.

Graphs of several sizes are padded in a batch; layers work on the real nodes of all graphs, one below another
(`Packed`), so that padding costs them nothing and batch norm does not see it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Head, Latent, Model, Part, Sample, Seen, Step, Tokens, take
from anymask.parts.decoders import Heads
from anymask.parts.layers import Linear
from anymask.recipe import RecipeError

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # what is used of it is tested here

SPARSE = 0.1  # share of values that are not 0, below which a sparse product is the faster one


def _layers() -> Any:
    try:
        import torch_geometric.nn as layers
    except ImportError as error:
        raise RecipeError("graph layers are PyTorch Geometric's: pip install 'anymask[graphs]'") from error
    return layers


# Tokens.


class Nodes(Part):
    """Graphs to one token a node.

    (B, N, F) with NaN for nodes that a graph does not have -> stream `graph` (B, N, F), 0 there and not `valid`;
    `valid` is None where no node lacks. `edges` are numbered over the batch. Nodes have no coordinates: `pos` is 0.

    Args:
        rows: each node's features are divided by their sum (bags of words, one-hot classes); otherwise they are
            standardised by the schema; None = rows where no value is negative and most are 0.
        field: of the schema.
    """

    takes = "graph"
    renderer = "anymask.reports.graphs:Graphs"
    grid = None
    pitch = (1.0,)

    def __init__(self, model: Model, *, rows: bool | None = None, field: str = "graph"):
        super().__init__(model)
        graph = model.schema.fields[field]
        self.field, self.streams = field, {field: graph.shape[1]}
        self.rows = graph.low >= 0 and graph.filled < 0.5 if rows is None else rows
        self.filled = graph.filled if self.rows or not any(graph.mean) else 1.0
        self.register_buffer("mean", torch.tensor(graph.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(graph.std, dtype=torch.float32), persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, sample: Sample) -> Tokens:
        x = sample[self.field]
        b, n = x.shape[:2]
        valid = ~x[..., 0].isnan()
        padded = not valid.all()
        if padded:
            x = torch.where(valid[..., None], x, 0.0)
        x = x / x.sum(-1, keepdim=True).clamp(min=1e-12) if self.rows else (x - self.mean) / self.std
        edges = sample[f"{self.field}.edges"]  # B E 2
        there = edges[..., 0] >= 0
        edges = edges + n * torch.arange(b, device=x.device)[:, None, None]
        kept = sample.get(f"{self.field}.edge_attr")
        return Tokens(
            {self.field: torch.where(valid[..., None], x, 0.0) if padded and not self.rows else x},
            torch.zeros(1, n, 1, device=x.device),
            valid if padded else None,
            edges=edges[there].T.contiguous(),
            edge_attr=None if kept is None else kept[there],
        )


class Packed(NamedTuple):
    """The real nodes of all graphs of a batch, one below another."""

    edges: Tensor  # (2, E) from, to, in the order of "to"; every node has an edge to itself
    back: Tensor  # (E,) numbers of the edges in the order of "from"
    where: Tensor | None  # (n,) places among the B*N of the tokens; None = all are real

    @classmethod
    def of(cls, tokens: Tokens) -> Packed:
        b, n = tokens.shape
        if tokens.edges is None:
            raise RecipeError("message passing needs tokens with edges: give graphs")
        edges, count, where = tokens.edges, b * n, None
        if tokens.valid is not None:
            real = tokens.valid.flatten()
            where = real.nonzero()[:, 0]
            edges = edges[:, real[edges].all(0)]
            edges, count = (real.cumsum(0) - 1)[edges], len(where)
        edges = torch.cat([edges, torch.arange(count, device=edges.device).expand(2, -1)], 1)
        edges = edges[:, edges[1].argsort(stable=True)]
        return cls(edges, edges[0].argsort(stable=True), where)

    def pack(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (n, D)"""
        x = x.flatten(0, 1)
        return x if self.where is None else x[self.where]

    def unpack(self, x: Tensor, tokens: Tokens) -> Tensor:
        """(n, D) -> (B, N, D), 0 for other nodes."""
        if self.where is not None:
            b, n = tokens.shape
            x = x.new_zeros(b * n, x.shape[-1]).index_copy(0, self.where, x)
        return x.unflatten(0, tokens.shape)


# Layers: (n, D) of packed nodes -> (n, D). `projected`: the first product has been done, by the stem.


class GatLayer(nn.Module):
    """Graph attention (GAT, arXiv:1710.10903): each node takes in its neighbours and itself, weighed.

    Args:
        projected: `x` is multiplied with the layer's weights already.
        act: a PReLU at the end.
        dropout: of the weights of the neighbours.
    """

    def __init__(self, width: int, *, heads: int = 4, projected: bool = False, act: bool = True, dropout: float = 0.1):
        super().__init__()
        if width % heads:
            raise RecipeError(f"{heads} heads do not divide a width of {width} (--set encoder.heads=...)")
        self.heads = heads
        self.lin = nn.Identity() if projected else glorot(Linear(width, width, bias=False))
        self.conv = _layers().GATConv(width, width // heads, heads, dropout=dropout, add_self_loops=False)
        self.conv.lin = nn.Identity()  # in its place `self.lin`, which may multiply in bf16
        self.act = nn.PReLU() if act else nn.Identity()

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """What `act(conv(lin(x), packed.edges))` is, several times as fast on a CPU: weights are PyTorch Geometric's,
        the sum that they weigh is a sparse product."""
        x, conv = self.lin(x).float(), self.conv
        with torch.autocast(x.device.type, enabled=False):
            both = torch.block_diag(*torch.stack([conv.att_src[0], conv.att_dst[0]], -1))  # D 2H, a block for each head
            alpha = (x @ both).unflatten(1, (self.heads, 2)).unbind(-1)  # n H, as source and as target
            weights = conv.edge_updater(packed.edges, alpha=alpha, edge_attr=None, size=(len(x), len(x)))  # E H
            x = _Weighted.apply(weights, x.unflatten(1, (self.heads, -1)), packed.edges, packed.back)
            return self.act(x.flatten(1) + conv.bias)


class GinLayer(nn.Module):
    """Graph isomorphism (GIN, arXiv:1810.00826): the sum over a node's neighbours and itself, then two point-wise
    layers with batch norm.

    Args:
        projected: `x` is multiplied with the weights of the first of them already.
        act: norm and PReLU at the end, after the second; False = the first one only.
    """

    def __init__(self, width: int, *, heads: int = 1, projected: bool = False, act: bool = True, dropout: float = 0.0):
        super().__init__()
        # A product of the sum is the sum of products, so the first linear layer may come before the sum.
        self.lin = nn.Identity() if projected else glorot(Linear(width, width, bias=False))
        rest = [glorot(Linear(width, width, bias=False)), nn.BatchNorm1d(width), nn.PReLU()] if act else []
        self.conv = _layers().GINConv(nn.Sequential(nn.BatchNorm1d(width), nn.PReLU(), *rest))

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        return self.conv(self.lin(x).float(), packed.edges)


class MlpLayer(nn.Module):
    """No message passing: a point-wise layer. It cannot see a neighbour."""

    def __init__(self, width: int, *, heads: int = 1, projected: bool = False, act: bool = True, dropout: float = 0.0):
        super().__init__()
        self.lin = nn.Identity() if projected else Linear(width, width)
        self.act = nn.PReLU()

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        return self.act(self.lin(x))


class _Weighted(torch.autograd.Function):
    """For each node the sum of x (n, H, C) over the edges (2, E) that reach it, weighed with (E, H): (n, H, C). Edges
    are in the order of their targets, `back` (E,) gives that of their sources."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, edges: Tensor, back: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        ctx.save_for_backward(weights, rows, edges, back)
        return (_by_head(edges[1], edges[0], weights, len(x))[0] @ rows).view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, rows, edges, back = ctx.saved_tensors
        count, g = len(grad), grad.contiguous().flatten(0, 1)
        pattern, place = _by_head(edges[1], edges[0], torch.zeros_like(weights), count)
        to_weights = torch.sparse.sampled_addmm(pattern, g, rows.T, beta=0.0).values()[place]
        by_source, _ = _by_head(edges[0][back], edges[1][back], weights[back], count)
        return to_weights.view_as(weights), (by_source @ g).view_as(grad), None, None


def _by_head(rows: Tensor, columns: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Edges with weights (E, H), in the order of their rows, as a sparse matrix (n*H, n*H) that joins each head of a
    node with the same one of another; and where in it each weight is, (E*H,)."""
    heads = weights.shape[1]
    each = rows.bincount(minlength=count)  # n
    start = each.cumsum(0) - each
    head = torch.arange(heads, device=rows.device)
    here = torch.arange(len(rows), device=rows.device) - start[rows]
    place = (heads * start[rows] + here)[:, None] + head * each[rows][:, None]  # a row for each head of a node, in turn
    place = place.flatten()
    ends = torch.empty_like(place).index_copy_(0, place, (columns[:, None] * heads + head).flatten())
    values = torch.empty_like(weights.flatten()).index_copy_(0, place, weights.flatten())
    starts = F.pad(each.repeat_interleave(heads).cumsum(0), (1, 0))
    return torch.sparse_csr_tensor(starts, ends, values, (count * heads,) * 2, check_invariants=False), place


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """As torch's, with 16 random bits a value in place of 32, which is thrice as fast on a CPU."""
    if not training or not rate:
        return x
    some = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = some.view(torch.int16)[: x.numel()].view(x.shape) >= round(rate * 2**16) - 2**15
    return x * (kept * (1 / (1 - rate))).to(x.dtype)


def glorot(linear: nn.Linear) -> nn.Linear:
    """Normal weights of Glorot's spread, times the square root of 2 for the rectifiers that follow."""
    nn.init.xavier_normal_(linear.weight, gain=2**0.5)
    return linear


class _Products(torch.autograd.Function):
    """A matrix (n, F) of the values (V,) at `rows` and `columns` (V,), in order, with weights (F, D); gradients for the
    weights alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, values: Tensor, count: int, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns, values)
        ctx.features = len(weight)
        return _sparse(rows, columns, values, (count, len(weight))) @ weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, values = ctx.saved_tensors
        order = columns.argsort(stable=True)
        back = _sparse(columns[order], rows[order], values[order], (ctx.features, len(grad)))
        return None, None, None, None, back @ grad.contiguous()


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix of values in the order of their rows."""
    starts = F.pad(torch.bincount(rows, minlength=shape[0]).cumsum(0), (1, 0))
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


class NodeEmbed(Part):
    """The first product of the first layer, on the features of the nodes: sparse where most of them are 0. It has no
    bias, since a layer has its own; what hidden nodes get in its place is their product.

    Args:
        dropout: of the features.
    """

    def __init__(self, model: Model, *, dropout: float = 0.2):
        super().__init__(model)
        ((self.stream, features),) = model.tokenizer.streams.items()
        self.width, self.dropout = model.size.width, dropout
        self.sparse = model.tokenizer.filled < SPARSE
        self.embed = glorot(Linear(features, self.width, bias=False))

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        """
        Args:
            content: other content in place of the tokens' own.
            fill: (D,) what hidden nodes get.
        """
        tokens, mask = step.tokens, step.mask
        x = (tokens.x if content is None else content)[self.stream]
        x = self.products(x, mask.visible)
        if fill is not None:
            x = torch.where(mask.visible[..., None], x, fill.to(x.dtype))
        return Seen(x, tokens.pos, mask.keep_ok, None, content)

    def products(self, x: Tensor, wanted: Tensor) -> Tensor:
        """(B, N, D) of x (B, N, F); sparse ones are 0 where they are not wanted (B, N)."""
        if not self.sparse:
            return self.embed(dropout(x, self.dropout, self.training))
        with torch.autocast(x.device.type, enabled=False):
            flat = x.flatten(0, 1)
            rows, columns = flat.nonzero(as_tuple=True)
            there = wanted.flatten()[rows]
            rows, columns = rows[there], columns[there]
            values = dropout(flat[rows, columns], self.dropout, self.training)
            return _Products.apply(rows, columns, values, len(flat), self.embed.weight.T).unflatten(0, x.shape[:2])


# GraphMAE.


class Substitute(Part):
    """Hidden nodes enter as one learned vector; some of them with the features of another, visible node of their graph
    (GraphMAE, arXiv:2205.10803, section 3.2). The authors' code also takes features of hidden nodes, which would show
    them.

    Args:
        rate: share of the hidden nodes that get another's features.
    """

    keep = 1.0

    def __init__(self, model: Model, *, rate: float = 0.05):
        super().__init__(model)
        if not 0.0 <= rate < 1.0:
            raise RecipeError(f"corruption.rate is a share of the hidden nodes, from 0 to below 1, not {rate}")
        self.rate = float(rate)
        self.token = nn.Parameter(torch.zeros(model.size.width))

    def forward(self, step: Step, model: Model) -> Seen:
        if not self.rate:
            return model.stem(step, fill=self.token)
        key, visible, n = step.sample["key"], step.mask.visible, step.tokens.shape[1]
        hidden = ~visible if step.tokens.valid is None else ~visible & step.tokens.valid
        rank = keyed.uniform(key, n, salt=21).masked_fill(~hidden, torch.inf).argsort(1).argsort(1)
        shown = visible.sum(1, keepdim=True)
        chosen = hidden & (rank < (hidden.sum(1, keepdim=True) * self.rate).floor()) & (shown > 0)
        others = keyed.uniform(key, n, salt=22).masked_fill(~visible, torch.inf).argsort(1)  # visible ones first
        drawn = (keyed.uniform(key, n, salt=23) * shown).long().minimum((shown - 1).clamp(min=0))
        index = torch.where(chosen, others.gather(1, drawn), torch.arange(n, device=key.device))
        content = {name: take(x, index) for name, x in step.tokens.x.items()}
        return model.stem(step._replace(mask=step.mask._replace(visible=visible | chosen)), content, self.token)

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}}


class MessagePassing(Part):
    """Layers of message passing over the nodes and their edges; the first product of the first one is the stem's.

    Args:
        layer: `GatLayer` or `GinLayer`, or another class with their arguments.
        depth, heads: None = of the size.
        dropout: of what enters each layer but the first, whose stem has its own.
        layers: also return what enters the first layer and the output of each one.
    """

    breaks_graph = "the nodes of graphs of several sizes are packed, so their number is a batch's own"

    def __init__(
        self,
        model: Model,
        *,
        layer: Callable[..., nn.Module] = GatLayer,
        depth: int | None = None,
        heads: int | None = None,
        dropout: float = 0.2,
        layers: bool = False,
    ):
        super().__init__(model)
        self.width, self.dropout, self.layers = model.size.width, dropout, layers
        heads = heads or model.size.heads
        self.blocks = nn.ModuleList(
            layer(self.width, heads=heads, projected=n == 0) for n in range(depth or model.size.depth)
        )

    def forward(self, step: Step, model: Model) -> Latent:
        tokens, seen = step.tokens, step.seen
        packed = Packed.of(tokens)
        x = packed.pack(seen.x)
        all_ = [seen.x]
        for n, block in enumerate(self.blocks):
            x = block(dropout(x, self.dropout, self.training and n > 0), packed)
            if self.layers:
                all_.append(packed.unpack(x, tokens))
        layers = tuple(all_) if self.layers else ()
        return Latent(packed.unpack(x, tokens), seen.pos, seen.ok, seen.kind, layers=layers)


class Remasked(Part):
    """The codes of hidden nodes are masked again, so that a node is rebuilt from what its neighbours know; then one
    layer of message passing, and a linear layer for the asked nodes (GraphMAE, arXiv:2205.10803, section 3.2).

    Graph attention with one head is a weighted mean, so the linear layer comes after it, where it is cheaper.

    Args:
        layer: as the encoder's; `MlpLayer` sees no neighbours, so it needs remask=False.
        remask: mask again, with a learned vector that begins as 0 (the authors' code keeps it there).
        dropout: of what enters the layer.
    """

    breaks_graph = MessagePassing.breaks_graph

    def __init__(
        self, model: Model, *, layer: Callable[..., nn.Module] = GatLayer, remask: bool = True, dropout: float = 0.2
    ):
        super().__init__(model)
        width = model.encoder.width
        if remask and layer is MlpLayer:
            raise RecipeError(
                "a decoder without message passing sees nothing of a node that is masked again; "
                "--set decoder.remask=false"
            )
        self.dropout = dropout
        self.token = nn.Parameter(torch.zeros(width)) if remask else None
        self.bridge = Linear(width, width, bias=False)
        self.layer = layer(width, heads=1, projected=layer is not MlpLayer, act=False)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        packed = Packed.of(step.tokens)
        x = self.bridge(step.latent.x)
        if self.token is not None:
            x = torch.where(step.mask.visible[..., None], x, self.token.to(x.dtype))
        x = self.layer(dropout(packed.pack(x), self.dropout, self.training), packed)
        return self.heads(take(packed.unpack(x, step.tokens), step.mask.ask))

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}}


class Features(Part):
    """The features of the asked nodes, as the tokenizer scales them: (Q, M, F)."""

    borrows = "each predicted node borrows the length of its true features"

    def __init__(self, model: Model):
        super().__init__(model)
        ((self.stream, width),) = model.tokenizer.streams.items()
        self.heads = {"features": Head(width)}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return {"features": take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of).float()}

    def content(self, step: Step) -> Tensor:
        """Predictions at the length of the true features (Q, M, F), as their cosine is all that is asked for."""
        truth = take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of).float()
        return F.normalize(step.pred["features"].float(), dim=-1) * truth.norm(dim=-1, keepdim=True)
