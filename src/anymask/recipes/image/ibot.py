from anymask.claims import Claim
from anymask.data.augment import RandomResizedCrop
from anymask.parts.corruptions import Replace
from anymask.parts.distillation import Projection, SelfDistilled, ViewBlocks
from anymask.parts.losses import own
from anymask.parts.views import Crops
from anymask.recipe import P, recipe
from anymask.recipes.image.mae import mae
from anymask.train.optim import adamw, warmup_cosine


@recipe(parent=mae, paper="arXiv:2111.07832", name="iBOT")
def ibot(r):
    """A slow teacher is the tokenizer: at hidden patches the student predicts the teacher's distribution over
    prototypes, and the CLS token of each of two crops that of the other.

    Run: anymask pretrain IMAGES --recipe ibot --size small --epochs 800 --batch-size 1024
    Cost: student and teacher see two whole crops of each image, about ten times the tokens of mae's encoder.
    Expected: 77.9 % ImageNet-1K linear probe, 75.2 % k-NN (ViT-S/16, 800 epochs, paper table 1). Not reproduced: these
        runs; ten further small crops, colour jitter, blur and solarisation; the teacher's temperature that rises to
        0.07, at which runs of a few thousand steps end with teachers that tell nothing apart
        (--set target.teacher=[0.04,0.07]).
    """
    return r.but(
        tokenizer=P(Crops, outer=(0.25, 1.0), inner=(0.25, 1.0), nested=False),
        mask=P(ViewBlocks, ratio=(0.1, 0.5), share=0.5),
        corruption=P(Replace),
        encoder={"drop_path": 0.1},
        decoder=P(Projection, out=8192),
        target=P(SelfDistilled, out=8192),
        loss=own,
        augment=P(RandomResizedCrop, scale=(1.0, 1.0), flip=0.5),
        optimiser=P(adamw, lr=2e-3, lr_batch=1024, betas=(0.9, 0.999), weight_decay=0.04),
        schedule=P(warmup_cosine, warmup=10 / 800),
    )


def small(r):
    """Prototypes and layers for small sets."""
    return r.but({"decoder.out": 512, "target.out": 512, "decoder.hidden": 256, "decoder.bottleneck": 64})


claim = Claim(
    text="predicting the teacher's patches beside its CLS token makes better features than CLS alone (table 9)",
    ours=small,
    better_than=lambda r: small(r).but({"target.patches": 0.0}),
    epochs=6,
    samples=3000,
)
