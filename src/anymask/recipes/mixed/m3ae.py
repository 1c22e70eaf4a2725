from anymask.claims import Claim, Probe
from anymask.parts.decoders import Transformer
from anymask.parts.mixed import ByField
from anymask.parts.several import Own, Several
from anymask.recipe import P, recipe
from anymask.recipes.mixed.multimae import multimae


@recipe(parent=multimae, paper="arXiv:2205.14204", name="M3AE")
def m3ae(r):
    """Three quarters of the patches and of the words are hidden; one decoder rebuilds both from one encoder's codes.

    Run: anymask pretrain IMAGES_WITH_TEXTS --kind mix --recipe m3ae --size base
    Cost: the paper takes 50 epochs of CC12M (ViT-B to ViT-H, TPU); 1,500 pictures of 72 pixels take minutes.
    Expected: better linear probes on ImageNet than MAE on the same pictures (paper, section 4.2); text hidden by 50 to
        90 % is best (section 4.3). Not reproduced: CC12M runs. Pictures, texts and pairs of them may be mixed.
    """
    return r.but(
        tokenizer=P(Several, kinds=("image", "text")),
        mask=P(ByField, ratios={"image": 0.75, "text": 0.75}),
        decoder=P(Transformer),
        target=P(Own, weights={"text": 0.5}),
    )


claim = Claim(
    text="hiding 75 % of the words makes better features of pictures than hiding 15 % (section 4.3)",
    better_than=lambda r: r.but({"mask.ratios": {"image": 0.75, "text": 0.15}}),
    on="openmoji",
    opening={"kind": "mix"},
    metric=Probe(part="image"),
    smallest_effect=1.0,
    epochs=15,
    samples=1522,
    batch_size=64,
)
