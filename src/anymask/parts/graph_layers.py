"""Layers of message passing: those of PyTorch Geometric, with sums over neighbours as sparse products.

Graphs of several sizes are padded in a batch; layers work on the real nodes of all graphs, one below another
(`Packed`), so that padding costs them nothing and batch norm does not see it.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.engine import Tokens
from anymask.parts.layers import Linear
from anymask.recipe import RecipeError

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # what is used of it is tested here


def pyg() -> Any:
    """PyTorch Geometric's layers."""
    try:
        import torch_geometric.nn as layers
    except ImportError as error:
        raise RecipeError("graph layers are PyTorch Geometric's: pip install 'anymask[graphs]'") from error
    return layers


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
        self.conv = pyg().GATConv(width, width // heads, heads, dropout=dropout, add_self_loops=False)
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
        self.conv = pyg().GINConv(nn.Sequential(nn.BatchNorm1d(width), nn.PReLU(), *rest))

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


class Products(torch.autograd.Function):
    """A matrix (n, F) of the values (V,) at `rows` and `columns` (V,), in order, with weights (F, D); gradients for the
    weights alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, values: Tensor, count: int, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns, values)
        ctx.features = len(weight)
        return sparse(rows, columns, values, (count, len(weight))) @ weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, values = ctx.saved_tensors
        order = columns.argsort(stable=True)
        back = sparse(columns[order], rows[order], values[order], (ctx.features, len(grad)))
        return None, None, None, None, back @ grad.contiguous()


def sparse(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix of values in the order of their rows."""
    starts = F.pad(torch.bincount(rows, minlength=shape[0]).cumsum(0), (1, 0))
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
