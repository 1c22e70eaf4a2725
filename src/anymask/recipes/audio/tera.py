from anymask.claims import Claim
from anymask.parts.decoders import MlpHead
from anymask.parts.encoders import ViT
from anymask.parts.frames import Alter, Spans
from anymask.parts.losses import l1
from anymask.parts.positions import SinCos
from anymask.parts.spectrograms import LogMel
from anymask.parts.stems import Embed
from anymask.parts.targets import Pixels
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2007.06028", name="TERA")
def tera(r):
    """Frames are altered along time, frequency and magnitude; a transformer regresses all clean frames, L1.

    Run: anymask pretrain SOUNDS --recipe tera --size base --set encoder.depth=3 --epochs 30 --batch-size 128
    Cost: the encoder runs on all frames, a hundred for each second, so that attention grows with the square of length.
    Expected: better phonemes, speakers and keywords than earlier models that reconstruct (directional, abstract). Not
        reproduced: LibriSpeech; post-norm blocks, dropout and the layers of the head's normalisation; the tenth of the
        chosen frames that stays as it is, which is the same as a lower ratio where all frames are predicted.
    """
    return r.but(
        tokenizer=P(LogMel, patch=(0, 1)),
        mask=P(Spans, ratio=0.9 * 0.15, span=7, ask=None),
        corruption=P(Alter),
        stem=P(Embed),
        positions=P(SinCos, axes=(1,)),
        encoder=P(ViT, cls=False),
        decoder=P(MlpHead),
        target=P(Pixels, normalise=False),
        loss=l1,
        optimiser=P(adamw, lr=2e-4, lr_batch=128, betas=(0.9, 0.999), weight_decay=0.01),
        schedule=P(warmup_cosine, warmup=0.07),
    )


claim = Claim(
    text="altering frames along time, frequency and magnitude beats altering them along time alone (section III-A)",
    better_than=lambda r: r.but({"corruption.bands": 0.0, "corruption.noisy": 0.0}),
    on="fsdd",
    smallest_effect=1.0,
    size="pico",
    epochs=15,
    samples=1500,
    batch_size=64,
)
