from anymask.claims import Claim
from anymask.parts.losses import mse
from anymask.parts.masks import Block
from anymask.parts.targets import Hog, Pixels
from anymask.recipe import P, recipe
from anymask.recipes.image.simmim import simmim


@recipe(parent=simmim, paper="arXiv:2112.09133", name="MaskFeat")
def maskfeat(r):
    """A linear layer predicts histograms of oriented gradients of block-masked patches instead of pixels.

    Run: anymask pretrain IMAGES --recipe maskfeat --size base --epochs 1600 --batch-size 2048
    Cost: as simmim.
    Expected: 84.0 % ImageNet-1K fine-tuned (ViT-B, paper table 9). Not reproduced: ImageNet runs, MViT, video.
    """
    return r.but(
        mask=P(Block, ratio=0.4),
        target=P(Hog, bins=9, cells=2),
        loss=mse,
        optimiser={"lr": 1.6e-3, "betas": (0.9, 0.999)},
    )


claim = Claim(
    text="predicting HOG beats predicting pixels with the same masks and head (table 1)",
    better_than=lambda r: r.but(target=P(Pixels, normalise=False)),
)

further_claims = {
    "normalisation": Claim(
        text="histograms normalised by local contrast are better targets than the same ones as they are (abstract)",
        better_than=lambda r: r.but(target={"normalise": False}),
    )
}
