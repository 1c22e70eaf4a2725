from anymask.claims import Claim, Probe
from anymask.data.augment import CropTurn
from anymask.parts.corruptions import Drop
from anymask.parts.decoders import Transformer
from anymask.parts.encoders import ViT
from anymask.parts.losses import observed_mse
from anymask.parts.skeleton import ByAxis, JointSegments, Motion, MotionAware, Positions
from anymask.parts.stems import Embed
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2308.07092", name="MAMP")
def mamp(r):
    """Of 90 % of the joints over segments of time, moving ones rather than others, the displacement is predicted.

    Run: anymask pretrain SEQUENCES --recipe mamp --epochs 400 --batch-size 128
    Cost: the paper pre-trains 8 blocks of width 256 for 400 epochs of 40,091 NTU-60 sequences of 120 frames.
    Expected: 84.9 % NTU-60 cross-subject, linear; 93.1 % fine-tuned (paper, tables 1 and 2). Not reproduced: NTU-60,
        which has to be asked for; two bodies in one sequence.
    """
    return r.but(
        tokenizer=P(JointSegments, segment=4),
        mask=P(MotionAware, ratio=0.9, tau=0.8),
        corruption=P(Drop),
        stem=P(Embed),
        positions=P(ByAxis),
        encoder=P(ViT, cls=False),
        decoder=P(Transformer),
        target=P(Motion, normalise=True),
        loss=observed_mse,
        augment=P(CropTurn),
        optimiser=P(adamw, lr=1e-3, lr_batch=128, lr_width=256, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=P(warmup_cosine, warmup=20 / 400, final=0.5),
    )


claim = Claim(
    text="predicting the motion of hidden joints gives better features than predicting where they are (section 4.4)",
    better_than=lambda r: r.but(target=P(Positions)),
    on="msr_action3d",
    metric=Probe(),
    smallest_effect=2.0,
    epochs=60,
    samples=291,
    batch_size=32,
)
