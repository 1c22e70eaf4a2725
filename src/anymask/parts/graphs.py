"""Parts of graphs: nodes as tokens, message passing, and what GraphMAE (arXiv:2205.10803) adds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Head, Latent, Model, Part, Sample, Seen, Step, Tokens, take
from anymask.parts.decoders import Heads
from anymask.parts.graph_layers import GatLayer, MlpLayer, Packed, Products, dropout, glorot
from anymask.parts.layers import Linear
from anymask.recipe import RecipeError

SPARSE = 0.1  # share of values that are not 0, below which a sparse product is the faster one


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
        self.filled = graph.filled if self.rows else 1.0
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
            return Products.apply(rows, columns, values, len(flat), self.embed.weight.T).unflatten(0, x.shape[:2])


# GraphMAE.


class SwapFeatures(Part):
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
