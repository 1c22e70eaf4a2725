from anymask.claims import Claim, Cross
from anymask.parts.corruptions import Drop
from anymask.parts.encoders import ViT
from anymask.parts.losses import l1, own
from anymask.parts.masks import Random
from anymask.parts.mixed import Decoders, Dirichlet
from anymask.parts.several import Own, Places, Several, Stems, own_augment
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2204.01678", name="MultiMAE")
def multimae(r):
    """A sixth of all parts' tokens is seen, divided at random; a decoder for each part rebuilds it from all codes.

    Run: anymask pretrain RGBD --recipe multimae --size base --epochs 1600 --batch-size 2048
    Cost: the paper takes 1,600 epochs of ImageNet-1K with pseudo labels (98 of 588 tokens, ViT-B).
    Expected: 83.3 % ImageNet-1K, 46.2 mIoU ADE20K fine-tuned (ViT-B, paper). Not reproduced: these runs. A part of any
        kind has the tokenizer, target and loss of its kind: images those of MAE, depth the absolute error of known
        pixels, class maps cross-entropy; parts may be missing.
    """
    return r.but(
        tokenizer=P(Several),
        mask=P(Dirichlet, ratio=5 / 6, alpha=1),
        corruption=P(Drop),
        stem=P(Stems),
        positions=P(Places),
        encoder=P(ViT),
        decoder=P(Decoders),
        target=P(Own),
        loss=own,
        augment=P(own_augment),
        optimiser=P(adamw, lr=2.4e-3, lr_batch=4096, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=P(warmup_cosine, warmup=0.05),
    )


def three_losses(r):
    """Squared errors of the brightness, absolute ones of the edges, cross-entropy of the colours."""
    return r.but({"target.losses": {"edges": l1}})


claim = Claim(
    text="Dirichlet shares rebuild a part from another one better than masks drawn from all tokens alike (section 3.2)",
    ours=three_losses,
    better_than=lambda r: three_losses(r).but(mask=P(Random, ratio=5 / 6)),
    on="cifar10",
    opening={"derive": ["luma", "edges", "colours"]},
    metric=Cross(),
    smallest_effect=1.0,
    epochs=4,
    samples=4000,
    batch_size=64,
)
