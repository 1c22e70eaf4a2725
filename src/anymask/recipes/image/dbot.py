from anymask.claims import Claim
from anymask.parts.losses import smooth_l1
from anymask.parts.teachers import Codes
from anymask.recipe import FromStage, P, recipe
from anymask.recipes.image.mae import mae


@recipe(parent=mae, paper="arXiv:2209.03917", name="dBOT, first stage", slug="dbot-random")
def random_teacher(r):
    """The codes of a network that is not trained are predicted.

    Run: anymask pretrain IMAGES --recipe dbot
    Cost: as mae, and one pass of the teacher over the whole image.
    Expected: the first stage of dbot.
    """
    return r.but(target=P(Codes, decay=1.0, final=1.0, normalise=True), loss=smooth_l1)


@recipe(parent=mae, paper="arXiv:2209.03917", name="dBOT")
def dbot(r):
    """Codes of a frozen teacher are predicted in place of pixels, in two stages: the first teacher has random weights,
    the second is the first one's student, and the student begins anew.

    Run: anymask pretrain IMAGES --recipe dbot --size base --epochs 800 --batch-size 4096
    Cost: twice mae's, for two stages, and in each step one pass of the teacher over the whole image.
    Expected: 84.5 % ImageNet-1K fine-tuned (ViT-B, paper table 4). Not reproduced: ImageNet runs; teachers larger than
        the student are given as the folder of a run (--set target.teacher=RUN).
    """
    return r.but(
        target=P(Codes, decay=1.0, final=1.0, normalise=True, teacher=FromStage("dbot-random")),
        loss=smooth_l1,
        stages=(random_teacher,),
    )


claim = Claim(
    text="a teacher that was itself a student makes better features than one with random weights (table 1)",
    better_than=lambda r: r.but({"target.teacher": None}),
    epochs=6,
)
