from anymask.claims import Claim
from anymask.parts.spectrograms import LogMel, Windows
from anymask.recipe import P, recipe
from anymask.recipes.image.mae import mae


@recipe(parent=mae, paper="arXiv:2207.06405", name="Audio-MAE")
def audio_mae(r):
    """MAE on patches of log-mel spectrograms, four fifths hidden; the decoder attends within shifted local windows.

    Run: anymask pretrain SOUNDS --recipe audio-mae --size base --epochs 32 --batch-size 512
    Cost: the paper's ViT-B takes 32 epochs of AudioSet (2 million sounds of 10 s); fsdd takes minutes on two CPU cores.
    Expected: 47.3 mAP AudioSet-2M fine-tuned (ViT-B, paper). Not reproduced: AudioSet; the relative positions and
        cosine attention of the decoder's Swin V2 blocks; rolled and louder or softer waveforms; masks in fine-tuning.
    """
    return r.but(
        {"mask.ratio": 0.8},
        tokenizer=P(LogMel),
        decoder=P(Windows, window=4, shift=(0, 2)),
        augment=None,
        optimiser={"lr": 4e-4, "lr_batch": 512, "weight_decay": 1e-4},
        schedule={"warmup": 3 / 32},
    )


claim = Claim(
    text="a decoder that attends within shifted local windows beats one that attends to everything (section 3)",
    better_than=lambda r: r.but({"decoder.window": None}),
    on="fsdd",
    smallest_effect=1.0,
    size="nano",
    epochs=10,
    samples=1500,
    batch_size=64,
)
