from anymask.claims import Claim
from anymask.parts.corruptions import Foreign, Replace
from anymask.parts.decoders import MlpHead
from anymask.parts.masks import Block
from anymask.recipe import P, recipe
from anymask.recipes.image.simmim import simmim


@recipe(parent=simmim, paper="arXiv:2205.14986", name="GMML")
def gmml(r):
    """Groups of patches are overwritten with another image or noise, and a light decoder restores the pixels.

    Run: anymask pretrain IMAGES --recipe gmml --size small --epochs 800 --batch-size 512
    Cost: as simmim.
    Expected: large gains over random start on small sets (directional in the paper). Not reproduced: its tables.
    """
    return r.but(
        mask=P(Block, ratio=0.7),
        corruption=P(Foreign, noise=0.3),
        decoder=P(MlpHead),
        optimiser={"lr": 5e-4, "lr_batch": 512},
    )


claim = Claim(
    text="overwriting groups of patches with other content beats hiding them behind one mask token",
    better_than=lambda r: r.but(corruption=P(Replace)),
    batch_size=32,
)
