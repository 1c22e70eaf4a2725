from anymask.claims import Claim, Forecast
from anymask.parts.series import Mixer
from anymask.recipe import P, recipe
from anymask.recipes.series.patchtst import patchtst


@recipe(parent=patchtst, paper="arXiv:2306.09364", name="PatchTSMixer")
def patchtsmixer(r):
    """MLPs over patches and over features, each followed by gated attention, in place of a transformer; no positions.

    Run: anymask pretrain ETTh1.csv --parts 12,4,4 --recipe patchtsmixer --set tokenizer.patch=16 --epochs 100
    Cost: the paper's mixers take a half to a third of the time and memory of PatchTST (abstract).
    Expected: ETTh1, horizon 96, MSE 0.368 (paper). Not reproduced: dropout, mixing of channels, online
        reconciliation of forecasts.
    """
    return r.but(
        {"stem.positions": False},
        encoder=P(Mixer),
    )


claim = Claim(
    text="gated attention after each MLP forecasts better than the MLPs alone (section 3.2)",
    better_than=lambda r: r.but({"encoder.gated": False}),
    on="ett/ETTh1.csv",
    metric=Forecast(horizon=96),
    smallest_effect=0.5,
    size="nano",
    epochs=8,
    samples=2000,
    batch_size=32,
)
