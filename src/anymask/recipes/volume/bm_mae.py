from anymask.claims import Claim, Contrast
from anymask.parts.corruptions import Drop
from anymask.parts.encoders import ViT
from anymask.parts.losses import mse
from anymask.parts.masks import Random
from anymask.parts.positions import SinCos
from anymask.parts.sets import PerSet, SetPixels, Sets, SharedOut
from anymask.parts.stems import Embed
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2505.00568", name="BM-MAE")
def bm_mae(r):
    """Scans of a case are token sets with embeddings and decoders of their own around one encoder, under one mask.

    Run: anymask pretrain CASES --recipe bm-mae --size base --epochs 1000 --batch-size 32
    Cost: the paper pre-trains a ViT-B on some 1,250 cases of four scans of 128 x 128 x 128 voxels in 16-voxel cubes.
    Expected: above training from scratch in segmentation, subtyping and survival, with any subset of scans (abstract).
        Not reproduced: these runs; its decoders' sizes, which are those of the size here.
    """
    return r.but(
        tokenizer=P(Sets, kind="volume"),
        mask=P(SharedOut, ratio=0.75),
        corruption=P(Drop),
        stem=P(Embed),
        positions=P(SinCos),
        encoder=P(ViT),
        decoder=P(PerSet),
        target=P(SetPixels),
        loss=mse,
        optimiser=P(adamw, lr=1e-3, lr_batch=64, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=P(warmup_cosine, warmup=0.05),
    )


claim = Claim(
    text="drawing how many visible tokens each scan has rebuilds a missing contrast better than drawing tokens evenly",
    better_than=lambda r: r.but(mask=P(Random, ratio=0.75)),
    on="volumes",
    metric=Contrast(pair=("chris_t1", "chris_PD")),
    smallest_effect=0.2,
    epochs=25,
    samples=100,
    batch_size=16,
)
