from anymask.claims import Claim
from anymask.parts.convolutional import SparseResNet, UNet, Values
from anymask.recipe import P, recipe
from anymask.recipes.image.mae import mae


@recipe(parent=mae, paper="arXiv:2301.03580", name="SparK")
def spark(r):
    """A convolutional network sees visible patches only, as a sparse image whose holes stay empty after every layer,
    and a decoder over all its scales rebuilds the hidden ones.

    Run: anymask pretrain IMAGES --recipe spark --size base --set tokenizer.patch=32 --epochs 1600 --batch-size 4096
    Cost: holes are computed and emptied, so a step costs as much as on whole images.
    Expected: 80.6 % ImageNet-1K fine-tuned (ResNet-50, paper table 2). Not reproduced: ImageNet runs; bottleneck blocks
        and ConvNeXt; the LAMB optimiser.
    """
    return r.but(
        mask={"ratio": 0.6},
        stem=P(Values),
        encoder=P(SparseResNet),
        decoder=P(UNet),
        optimiser={"lr": 3.2e-3, "lr_batch": 4096},
    )


claim = Claim(
    text="leaving holes empty after every layer makes better features than zeros in an ordinary network (table 5)",
    better_than=lambda r: r.but({"encoder.sparse": False}),
    epochs=6,
)

further_claims = {
    "hierarchy": Claim(
        text="a decoder over all scales makes better features than one of the coarsest (table 5)",
        better_than=lambda r: r.but({"decoder.hierarchical": False}),
        epochs=6,
    )
}
