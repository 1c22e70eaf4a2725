from anymask.claims import Claim
from anymask.parts.distillation import AttentionGuided, ViewBlocks
from anymask.recipe import P, recipe
from anymask.recipes.image.ibot import ibot, small


@recipe(parent=ibot, paper="arXiv:2203.12719", name="AttMask")
def attmask(r):
    """The patches that the teacher's CLS token attends to most are hidden, in place of rectangles.

    Run: anymask pretrain IMAGES --recipe attmask --size small --epochs 100 --batch-size 240
    Cost: as ibot, and a further pass of the teacher for its attention.
    Expected: 76.1 % ImageNet-1K linear probe, 72.8 % k-NN (ViT-S/16, 100 epochs, paper table 4). Not reproduced: these
        runs, and the one pass of the teacher for mask and target.
    """
    return r.but(mask=P(AttentionGuided, ratio=(0.1, 0.5), share=0.5), encoder={"layers": True})


claim = Claim(
    text="hiding what the teacher attends to most makes better features than hiding rectangles (table 1)",
    ours=small,
    better_than=lambda r: small(r).but(mask=P(ViewBlocks, ratio=(0.1, 0.5), share=0.5)),
    epochs=6,
    samples=3000,
)
