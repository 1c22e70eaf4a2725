from anymask.claims import Claim
from anymask.data.augment import RandomResizedCrop
from anymask.parts.encoders import ViT, within_kind
from anymask.parts.views import Crops, CrossView, SecondView
from anymask.recipe import P, recipe
from anymask.recipes.image.mae import mae


@recipe(parent=mae, paper="arXiv:2403.17823", name="CropMAE")
def cropmae(r):
    """Two crops of each image, one within the other: the inner one, of which all but two patches are hidden, is decoded
    by reading the outer one.

    Run: anymask pretrain IMAGES --recipe cropmae --size small --epochs 400 --batch-size 2048
    Cost: the encoder sees one whole crop and two patches, about four times what it sees in mae.
    Expected: 60.4 J&F on DAVIS-2017 by label propagation (ViT-S/16, K400, paper table 1). Not reproduced: these runs;
        label propagation.
    """
    return r.but(
        tokenizer=P(Crops),
        mask=P(SecondView, ratio=0.985, fewest=2),
        encoder=P(ViT, cls=False, within=within_kind),
        decoder=P(CrossView),
        augment=P(RandomResizedCrop, scale=(1.0, 1.0), flip=0.5),
    )


claim = Claim(
    text="two crops of one image make better features than an image and one crop hidden at random (section 4.3)",
    better_than=lambda r: r.but({"tokenizer.outer": (1.0, 1.0), "tokenizer.inner": (1.0, 1.0)}),
)
