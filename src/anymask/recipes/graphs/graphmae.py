from anymask.claims import Claim, TokenProbe
from anymask.parts.graph_layers import GatLayer
from anymask.parts.graphs import Features, MessagePassing, NodeEmbed, Nodes, Remasked, SwapFeatures
from anymask.parts.losses import mse, scaled_cosine
from anymask.parts.masks import Random
from anymask.parts.positions import SinCos
from anymask.recipe import P, recipe
from anymask.train.optim import adam, warmup_cosine


@recipe(paper="arXiv:2205.10803", name="GraphMAE")
def graphmae(r):
    """Half of the nodes lose their features; one graph layer rebuilds them from codes that are masked again.

    Run: anymask pretrain data/planetoid/Cora --recipe graphmae --size graph --epochs 1500
    Cost: 1,500 steps of Cora take three to four minutes on one CPU core with bf16 products.
    Expected: 84.2 % on Cora, 73.4 % on Citeseer by a linear probe (table 1). Not reproduced: ogbn-arxiv, PPI, Reddit.
    """
    return r.but(
        tokenizer=P(Nodes),
        mask=P(Random, ratio=0.5),
        corruption=P(SwapFeatures, rate=0.05),
        stem=P(NodeEmbed, dropout=0.2),
        positions=P(SinCos),
        encoder=P(MessagePassing, layer=GatLayer, dropout=0.2),
        decoder=P(Remasked, layer=GatLayer, remask=True, dropout=0.2),
        target=P(Features),
        loss=P(scaled_cosine, power=3.0),
        optimiser=P(adam, lr=1e-3, weight_decay=2e-4),
        schedule=P(warmup_cosine, warmup=0.0),
    )


claim = Claim(
    text="the scaled cosine error teaches more than the mean squared error (section 4.4)",
    ours=lambda r: r.but({"encoder.depth": 2}),
    better_than=lambda r: r.but({"encoder.depth": 2}, loss=mse),
    on="planetoid/Cora",
    metric=TokenProbe(),
    smallest_effect=1.0,
    size="nano",
    epochs=150,
    samples=1,
    batch_size=1,
)
