from anymask.claims import Claim, RepeatedFolds
from anymask.parts.corruptions import Drop
from anymask.parts.decoders import Transformer
from anymask.parts.encoders import ViT
from anymask.parts.losses import mse
from anymask.parts.masks import Random
from anymask.parts.scenes import Scenes
from anymask.parts.sets import SamePlaces, SetPixels, SetPlaces
from anymask.parts.stems import Embed
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2207.08051", name="SatMAE")
def satmae(r):
    """Groups of bands, and dates, are token sets with encodings of their own, whose patches are hidden independently.

    Run: anymask pretrain SCENES --recipe satmae --size large --epochs 50 --batch-size 512
    Cost: the paper pre-trains a ViT-L on 712,874 Sentinel-2 scenes of 96 x 96 pixels and 10 bands in 8-pixel patches.
    Expected: EuroSAT 98.98 % fine-tuned (ViT-L, paper table 4). Not reproduced: these runs; the hour of the day
        beside year and month; bands B1, B9 and B10 are kept, as a group of their own.
    """
    return r.but(
        tokenizer=P(Scenes),
        mask=P(Random, ratio=0.75),
        corruption=P(Drop),
        stem=P(Embed, kinds=False),
        positions=P(SetPlaces),
        encoder=P(ViT),
        decoder=P(Transformer),
        target=P(SetPixels),
        loss=mse,
        optimiser=P(adamw, lr=1e-3, lr_batch=64, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=P(warmup_cosine, warmup=0.05),
    )


claim = Claim(
    text="patches hidden independently in each group of bands teach more than the same places hidden in all of them",
    better_than=lambda r: r.but(mask=P(SamePlaces, ratio=0.75)),
    on="eurosat_ms/tif",
    metric=RepeatedFolds(),
    smallest_effect=2.0,
    epochs=40,
    samples=100,
    batch_size=20,
)
