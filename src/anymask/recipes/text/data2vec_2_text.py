from anymask.claims import Claim
from anymask.parts.positions import Learned
from anymask.parts.tokenizers import Pieces
from anymask.recipe import P, recipe
from anymask.recipes.image.data2vec_2 import data2vec_2


@recipe(parent=data2vec_2, paper="arXiv:2212.07525", name="data2vec 2.0, text", slug="data2vec-2-text")
def data2vec_2_text(r):
    """Codes of a slow teacher, from eight masked copies of each text, in which hidden words do not enter the encoder.

    Run: anymask pretrain TEXTS --recipe data2vec-2-text --size base --batch-size 64
    Cost: eight masks of a text cost half of its words each, and share one pass of the teacher.
    Expected: the mean GLUE score of a retrained RoBERTa in half of its time (abstract). Not reproduced: that run;
        byte-level pieces; the two layers of the decoder's last projection.
    """
    return r.but(
        tokenizer=P(Pieces),
        mask={"ratio": 0.48, "side": 1, "masks": 8},
        positions=P(Learned),
        decoder={"depth": 5, "kernel": 9, "groups": 1},
        target={"decay": 0.9999, "ramp": 0.1, "over": 1_000_000, "top": 12, "normalise": False, "cls": 0.0},
        augment=None,
        optimiser={"lr": 2e-4, "lr_batch": 64, "weight_decay": 0.01},
        schedule={"warmup": 4 / 1000},
    )


claim = Claim(
    text="the mean of the teacher's blocks is a better target than its last block (data2vec, arXiv:2202.03555, fig. 2)",
    ours=lambda r: r.but({"mask.masks": 4}),
    better_than=lambda r: r.but({"mask.masks": 4, "target.top": 1}),
    on="ag_news",
    size="pico",
    epochs=4,
    samples=6000,
    batch_size=32,
)
