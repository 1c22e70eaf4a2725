from anymask.claims import Claim, Forecast
from anymask.parts.series import Complementary, PatchMlp, TemporalContrast
from anymask.recipe import P, recipe
from anymask.recipes.series.patchtst import patchtst


@recipe(parent=patchtst, paper="arXiv:2312.16427", name="PITS")
def pits(r):
    """An MLP on each patch by itself rebuilds the patches that it sees; two complementary views are contrasted.

    Run: anymask pretrain ETTh1.csv --parts 12,4,4 --recipe pits --epochs 100 --batch-size 64
    Cost: the MLP of two layers is the smallest encoder here; an epoch of ETTh1 takes seconds on two CPU cores.
    Expected: ETTh1, horizon 96, MSE 0.367 fine-tuned (paper). Not reproduced: dropout of the head, channels
        side by side in the contrast of the authors' code (here each channel by itself, as the paper writes it).
    """
    return r.but(
        {"stem.positions": False},
        mask=P(Complementary, ratio=0.5),
        encoder=P(PatchMlp),
        extras=(P(TemporalContrast, weight=0.5),),  # the paper adds the errors of both views; here is their mean
    )


claim = Claim(
    text="rebuilding patches from themselves forecasts better than predicting hidden ones, with the same MLP",
    better_than=lambda r: r.but({"mask.itself": False}),
    on="ett/ETTh1.csv",
    metric=Forecast(horizon=96),
    smallest_effect=0.5,
    size="nano",
    epochs=5,
    samples=3000,
    batch_size=64,
)
