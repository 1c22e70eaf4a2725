from anymask.claims import Claim, Forecast
from anymask.parts.corruptions import Zero
from anymask.parts.decoders import LinearHead
from anymask.parts.losses import observed_mse
from anymask.parts.positions import SinCos
from anymask.parts.series import ByChannel, ChannelPatches, ChannelViT, PatchValues
from anymask.parts.stems import Embed
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2211.14730", name="PatchTST")
def patchtst(r):
    """Patches of each channel by itself; 40 % of them enter a transformer as zeros and are predicted by a linear layer.

    Run: anymask pretrain ETTh1.csv --parts 12,4,4 --recipe patchtst --epochs 100 --batch-size 64
    Cost: the paper takes 100 epochs of windows of 512 moments (7 variables, 8,033 windows for ETTh1).
    Expected: ETTh1, horizon 96, MSE 0.370 (paper, table 3, supervised). Not reproduced: batch normalisation and dropout
        in the encoder, learned positions (here sines and cosines of the moment).
    """
    return r.but(
        tokenizer=P(ChannelPatches),
        mask=P(ByChannel, ratio=0.4),
        corruption=P(Zero),
        stem=P(Embed),
        positions=P(SinCos, axes=(1,)),
        encoder=P(ChannelViT),
        decoder=P(LinearHead),
        target=P(PatchValues),
        loss=observed_mse,
        optimiser=P(adamw, lr=5e-4, lr_batch=64, lr_width=1, betas=(0.9, 0.99), weight_decay=0.01),
        schedule=P(warmup_cosine, warmup=0.1),
    )


claim = Claim(
    text="attention within each channel forecasts better than attention over all channels (section 3.1)",
    better_than=lambda r: r.but({"encoder.across": True, "positions.axes": (0, 1)}),
    on="ett/ETTh1.csv",
    metric=Forecast(horizon=96),
    smallest_effect=0.5,
    size="nano",
    epochs=4,
    samples=1500,
    batch_size=32,
)
