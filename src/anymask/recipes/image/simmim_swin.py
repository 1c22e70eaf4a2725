from anymask.claims import Claim
from anymask.parts.windows import CellEmbed, Swin
from anymask.recipe import P, recipe
from anymask.recipes.image.simmim import simmim


@recipe(parent=simmim, paper="arXiv:2111.09886", name="SimMIM, Swin", slug="simmim-swin")
def simmim_swin(r):
    """Mask tokens enter a hierarchical encoder, whose attention is within shifted windows; its coarsest cells are the
    patches that are hidden.

    Run: anymask pretrain IMAGES --recipe simmim-swin --size base --set tokenizer.patch=32 --set encoder.window=6
        --epochs 800 --batch-size 2048
    Cost: attention grows with the number of cells, not with its square; finer scales have more cells and less width.
    Expected: 84.0 % ImageNet-1K fine-tuned (Swin-B, 800 epochs, the authors' models). Not reproduced: ImageNet runs.
    """
    return r.but(mask={"unit": 1}, stem=P(CellEmbed), encoder=P(Swin))


claim = Claim(
    text="windows that shift make better features than windows that stay (Swin, arXiv:2103.14030, table 4)",
    better_than=lambda r: r.but({"encoder.shift": False}),
    epochs=6,
)
