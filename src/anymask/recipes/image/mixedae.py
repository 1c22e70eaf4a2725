from anymask.claims import Claim
from anymask.parts.encoders import ViT
from anymask.parts.mixing import MixedViT, Mixing, SameSource, Unmixed
from anymask.recipe import P, recipe
from anymask.recipes.image.mae import mae


@recipe(parent=mae, paper="arXiv:2303.17152", name="MixedAE")
def mixedae(r):
    """Two images share one grid of patches, and each is rebuilt from its half; attention reads the most similar half of
    the tokens, and a contrastive loss tells whose token is whose.

    Run: anymask pretrain IMAGES --recipe mixedae --size base --epochs 800 --batch-size 1024
    Cost: the encoder sees a whole grid for two images, so half of a grid an image; the decoder is mae's.
    Expected: 83.8 % ImageNet-1K fine-tuned (ViT-B, 800 epochs, paper table 1). Not reproduced: ImageNet runs; segment
        embeddings in the decoder, which here sees one image at a time.
    """
    return r.but(
        mask=P(Mixing, samples=2),
        encoder=P(MixedViT),
        decoder=P(Unmixed),
        extras=(P(SameSource, weight=0.1, temperature=0.25),),
    )


claim = Claim(
    text="mixing helps only if tokens of one image are recognised: by attention and a contrastive loss (table 5)",
    better_than=lambda r: r.but(encoder=P(ViT), extras=()),
    epochs=8,
)
