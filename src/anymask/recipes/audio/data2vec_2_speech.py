from anymask.claims import Claim
from anymask.parts.waveforms import Convolved, WaveWindows
from anymask.recipe import P, recipe
from anymask.recipes.image.data2vec_2 import data2vec_2


@recipe(parent=data2vec_2, paper="arXiv:2212.07525", name="data2vec 2.0, speech", slug="data2vec-2-speech")
def data2vec_2_speech(r):
    """Codes of a slow teacher, from eight masked copies of each sound; convolutions over the waveform embed 25 ms every
    20 ms, and no reconstruction, augmentation or spectrogram is made.

    Run: anymask pretrain SOUNDS --recipe data2vec-2-speech --size base --rate 16000 --batch-size 40
    Cost: the paper's base model takes 400,000 steps of 8 minutes of LibriSpeech; the convolutions take as long as some
        blocks of the encoder.
    Expected: the word errors of wav2vec 2.0 on LibriSpeech in a tenth of its time (abstract). Not reproduced: that run;
        positions by convolutions and distances (sines here); spans are hidden there, and stay visible here; layers and
        inputs that are left out at random.
    """
    return r.but(
        {"encoder.cls": False},
        tokenizer=P(WaveWindows),
        mask={"ratio": 0.5, "side": 5, "masks": 8},
        stem=P(Convolved),
        decoder={"depth": 4, "kernel": 7},
        target={
            "decay": 0.999, "ramp": 75 / 400, "over": 400_000, "top": 8, "normalise": False, "cls": 0.0,
        },
        augment=None,
        optimiser={"lr": 7.5e-4, "lr_batch": 40, "weight_decay": 0.01},
        schedule={"warmup": 8 / 400},
    )  # fmt: skip


claim = Claim(
    text="the mean of the teacher's blocks is a better target than its last block (data2vec, arXiv:2202.03555, fig. 2)",
    ours=lambda r: r.but({"mask.masks": 4}),
    better_than=lambda r: r.but({"mask.masks": 4, "target.top": 1}),
    on="fsdd",
    opening={"rate": 16_000},
    size="pico",
    epochs=10,
    samples=1500,
    batch_size=32,
)
