from dataclasses import replace

from anymask.claims import Bound, Claim
from anymask.parts.corruptions import Shift, Substitute
from anymask.parts.encoders import earlier
from anymask.parts.noise import Absorbing, All
from anymask.recipe import P, recipe
from anymask.recipes.text.bert import bert


@recipe(parent=bert, paper="arXiv:2406.07524", name="MDLM")
def mdlm(r):
    """Any share of the words is hidden, drawn anew for each text, and errors weigh by the inverse of that share: the
    loss bounds the likelihood, and texts are drawn by unmasking step by step.

    Run: anymask pretrain TEXTS --recipe mdlm --size base --batch-size 512; anymask generate RUN
    Cost: the paper's 110M model takes 1 million steps of 512 texts of 128 words (LM1B).
    Expected: perplexity of at most 27.0 on LM1B (paper table 1; 22.3 autoregressive). Not reproduced: that run; the
        diffusion transformer with rotary positions (bert's encoder here); averaged weights; dropout.
    """
    return r.but(
        {"decoder.mask": False, "target.bound": True},
        mask=P(Absorbing),
        corruption=P(Substitute, random=0.0),
    )


def autoregressive(r):
    """Each word predicted from those before it by the same transformer."""
    return r.but(mask=P(All), corruption=P(Shift), encoder=dict(within=earlier))


claim = Claim(
    text="hiding any share of the characters bounds the likelihood better than always hiding 15 % (section 3.3)",
    better_than=lambda r: r.but({"mask.level": 0.15}),
    on="tiny_shakespeare/input.txt",
    opening={"tokenizer": "characters", "cased": True},
    metric=Bound(),
    smallest_effect=0.02,
    size="pico",
    epochs=6,
    samples=6000,
    batch_size=64,
)

further_claims = {
    "weights": replace(
        claim,
        text="errors weighed by the inverse of the hidden share bound the likelihood better than errors weighed alike",
        better_than=lambda r: r.but({"mask.weighted": False}),
    ),
    "autoregressive": replace(
        claim,
        text="the bound is below the loss of the same transformer trained autoregressively (the paper: above, table 1)",
        better_than=autoregressive,
    ),
}
