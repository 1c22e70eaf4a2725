from anymask.claims import Claim, FineTune
from anymask.parts.corruptions import Replace
from anymask.parts.decoders import LinearHead
from anymask.parts.losses import l1
from anymask.parts.masks import Random
from anymask.parts.targets import Pixels
from anymask.recipe import P, recipe
from anymask.recipes.image.mae import mae


@recipe(parent=mae, paper="arXiv:2111.09886", name="SimMIM")
def simmim(r):
    """Mask tokens enter the encoder; one linear layer predicts raw pixels, L1.

    Run: anymask pretrain IMAGES --recipe simmim --size base --epochs 800 --batch-size 2048
    Cost: two to three times a step of mae, since the encoder runs on all tokens.
    Expected: 83.8 % ImageNet-1K fine-tuned (ViT-B, paper table 7). Not reproduced: ImageNet runs. With a Swin
        encoder: simmim-swin.
    """
    return r.but(
        mask=P(Random, ratio=0.6, unit=2),  # 32-pixel units of 16-pixel patches
        corruption=P(Replace),
        decoder=P(LinearHead),
        target=P(Pixels, normalise=False),
        loss=l1,
        optimiser={"lr": 8e-4, "lr_batch": 2048, "betas": (0.9, 0.999)},
    )


claim = Claim(
    text="predicting hidden patches only beats rebuilding all of them (section 4.1, masked prediction)",
    better_than=lambda r: r.but(mask={"ask": None}),
    metric=FineTune(labels=100, epochs=25),
    batch_size=32,
)
