from anymask.claims import Claim, FillIn
from anymask.parts.ehr import CodeAndValue, HidePairs, Measurements, PairEmbed, PairHeads, WithValue
from anymask.parts.encoders import ViT
from anymask.parts.losses import choice, observed_mse
from anymask.parts.positions import SinCos
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2312.11502", name="Labrador")
def labrador(r):
    """Code and value of a measurement are one token; of hidden ones, two heads predict both from the others of the bag.

    Run: anymask pretrain data/physionet2012 --recipe labrador
    Cost: the paper takes 100 million laboratory tests; 4,000 intensive care stays take minutes on two CPU cores.
    Expected: neither model beats gradient boosting consistently on outcomes (paper, abstract). Not reproduced: bags of
        one moment (here of one stay, with the hour as position), of which one test is hidden (here 15 %, and half of
        them keep their code); blocks that normalise last; fine-tuning.
    """
    return r.but(
        tokenizer=P(Measurements),
        mask=P(WithValue, ratio=0.15),
        corruption=P(HidePairs, value_only=0.5),
        stem=P(PairEmbed),
        positions=P(SinCos),
        encoder=P(ViT, cls=False),
        decoder=P(PairHeads),
        target=P(CodeAndValue, weight=10.0),
        loss={"code": choice, "value": observed_mse},
        optimiser=P(adamw, lr=1e-3, lr_batch=64, lr_width=1, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=P(warmup_cosine, warmup=0.1),
    )


claim = Claim(
    text="continuous values beside their codes are filled in better than values cut into words (section 3.2, table 2)",
    better_than=lambda r: r.but({"stem.bins": 10}),
    on="physionet2012",
    metric=FillIn(),
    smallest_effect=0.1,
    size="pico",
    epochs=6,
    samples=2000,
    batch_size=64,
)
