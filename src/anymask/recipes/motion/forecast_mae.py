from anymask.claims import Claim, ForecastTracks
from anymask.parts.agents import OneOfTwo, PastAndFuture, Steps
from anymask.parts.corruptions import Drop
from anymask.parts.decoders import Transformer
from anymask.parts.encoders import ViT
from anymask.parts.losses import observed_l1
from anymask.parts.masks import Random
from anymask.parts.points import Centres
from anymask.parts.stems import Embed
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2308.09882", name="Forecast-MAE")
def forecast_mae(r):
    """Of each agent the past or the future is hidden, and rebuilt from the other and from the other agents.

    Run: anymask pretrain SCENES --recipe forecast-mae --epochs 60 --batch-size 128
    Cost: the paper pre-trains 4 blocks of width 128 for 60 epochs of Argoverse 2 (199,908 scenes of 11 s).
    Expected: Argoverse 2, single agent, minFDE6 1.409 (paper, table 1). Not reproduced: lanes, of which ETH and UCY
        have none; the embedding of tracks by convolutions (here one layer); six forecasts (here one).
    """
    return r.but(
        tokenizer=P(PastAndFuture),
        mask=P(OneOfTwo, ratio=0.5),
        corruption=P(Drop),
        stem=P(Embed),
        positions=P(Centres),
        encoder=P(ViT, cls=False, drop_path=0.2),
        decoder=P(Transformer),
        target=P(Steps),
        loss=observed_l1,
        optimiser=P(adamw, lr=1e-3, lr_batch=128, lr_width=128, betas=(0.9, 0.999), weight_decay=1e-4),
        schedule=P(warmup_cosine, warmup=10 / 60),
    )


claim = Claim(
    text="hiding one of the two of each agent forecasts better than hiding half of the tokens at random (section 4.4)",
    better_than=lambda r: r.but(mask=P(Random, ratio=0.5)),
    on="eth_ucy",
    metric=ForecastTracks(scene="crowds_zara02"),
    smallest_effect=1.0,
    epochs=8,
    samples=4_000,
    batch_size=128,
)
