from anymask.claims import Claim
from anymask.parts.codebooks import Aggregation, Quantised, VisualWords
from anymask.parts.corruptions import Replace
from anymask.parts.decoders import LinearHead
from anymask.parts.losses import cosine, cross_entropy
from anymask.parts.masks import Block
from anymask.parts.noise import All
from anymask.parts.teachers import Codes
from anymask.recipe import FromStage, P, recipe
from anymask.recipes.image.mae import mae
from anymask.train.optim import adamw


@recipe(parent=mae, paper="arXiv:2208.06366", name="VQ-KD", slug="beit-v2-words")
def words(r):
    """Visual words: an autoencoder of patches with a codebook, which predicts a teacher's codes.

    Run: anymask pretrain IMAGES --recipe beit-v2
    Cost: an encoder and a pass of the teacher over whole images.
    Expected: the stage of beit-v2 that makes its codebook.
    """
    return r.but(
        mask=P(All, shown=True),
        decoder=P(Quantised, codes=8192, dimensions=32, depth=3),
        target=P(Codes, decay=1.0, final=1.0, normalise=True, teacher=FromStage("mae")),
        loss=cosine,
        optimiser=P(adamw, lr=2e-4, lr_batch=512, betas=(0.9, 0.99), weight_decay=1e-4),
        stages=(mae,),
    )


@recipe(parent=mae, paper="arXiv:2208.06366", name="BEiT v2")
def beit_v2(r):
    """Visual words of hidden patches are predicted: numbers in the codebook of an autoencoder that rebuilds a teacher's
    codes. A shallow branch predicts them once more by way of the CLS token.

    Run: anymask pretrain IMAGES --recipe beit-v2 --size base --epochs 1600 --batch-size 2048
    Cost: three stages: the teacher (mae), the codebook, the model; then an encoder over all patches, and a pass of the
        codebook's encoder.
    Expected: 85.5 % ImageNet-1K fine-tuned, 80.1 % linear probe (ViT-B, 1600 epochs, paper table 1). Not reproduced:
        these runs; CLIP as the teacher (mae's student here, or another run: --set stages...); relative positions.
    """
    return r.but(
        mask=P(Block, ratio=0.4),
        corruption=P(Replace),
        encoder={"layers": True, "drop_path": 0.1},
        decoder=P(LinearHead),
        target=P(VisualWords, words=FromStage("beit-v2-words")),
        loss=cross_entropy,
        extras=(P(Aggregation, layer=0.75, depth=2),),
        optimiser=P(adamw, lr=1.5e-3, lr_batch=2048, betas=(0.9, 0.98), weight_decay=0.05),
        stages=(words,),
    )


claim = Claim(
    text="a branch that predicts words by way of the CLS token makes better features than none (table 6)",
    better_than=lambda r: r.but(extras=()),
    epochs=5,
    samples=4000,
)
