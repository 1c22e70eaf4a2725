from anymask.claims import Claim
from anymask.parts.codebooks import Quantised, WordPatches
from anymask.parts.corruptions import Replace
from anymask.parts.decoders import FromCls
from anymask.parts.losses import cross_entropy, mse
from anymask.parts.noise import All, Varying
from anymask.parts.targets import Classes, Pixels
from anymask.recipe import FromStage, P, recipe
from anymask.recipes.image.mae import mae
from anymask.train.optim import adamw


@recipe(parent=mae, paper="arXiv:2211.09117", name="MAGE, codebook", slug="mage-words")
def words(r):
    """Visual words: an autoencoder of patches with a codebook, which rebuilds their pixels.

    Run: anymask pretrain IMAGES --recipe mage
    Cost: an encoder over whole images.
    Expected: the stage of mage that makes its codebook.
    """
    return r.but(
        mask=P(All, shown=True),
        decoder=P(Quantised, codes=1024, dimensions=32),
        target=P(Pixels, normalise=False),
        loss=mse,
    )


@recipe(parent=mae, paper="arXiv:2211.09117", name="MAGE")
def mage(r):
    """Images are numbers in a learned codebook, of which any share from a half to all is hidden, so that one model
    makes features and draws images.

    Run: anymask pretrain IMAGES --recipe mage --size base --epochs 1600 --batch-size 4096; anymask generate RUN
    Cost: two stages; half of the tokens enter the encoder.
    Expected: 74.7 % ImageNet-1K linear probe, FID 11.1 unconditional (ViT-B, 1600 epochs, paper tables 1 and 2). Not
        reproduced: these runs; VQGAN, which has convolutions and adversarial and perceptual losses; a head tied to the
        embedding.
    """
    return r.but(
        tokenizer=P(WordPatches, words=FromStage("mage-words")),
        mask=P(Varying, mean=0.55, spread=0.25, low=0.5, high=1.0, drop=0.5),
        corruption=P(Replace),
        decoder=P(FromCls),
        target=P(Classes),
        loss=P(cross_entropy, smoothing=0.1),
        optimiser=P(adamw, lr=2.4e-3, lr_batch=4096, betas=(0.9, 0.95), weight_decay=0.05),
        stages=(words,),
    )


claim = Claim(
    text="a share that varies makes better features than a fixed one of 0.55 (section 4.4)",
    better_than=lambda r: r.but({"mask.low": 0.55, "mask.high": 0.55}),
    epochs=5,
    samples=4000,
)
