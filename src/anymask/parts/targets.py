"""Targets: what is predicted at the asked tokens. `heads` says how wide each prediction is; `forward` gives goals."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask.engine import Head, Model, Part, Step, per_valid, take


class Pixels(Part):
    """The content of the asked tokens of one stream, in standardised units: (Q, M, D).

    Args:
        normalise: each token by its own mean and spread (MAE, arXiv:2111.06377, section 4.1).
        by_channel: each channel of a token by those of its own (VideoMAE, arXiv:2203.12602, the authors' code).
        fewest: values of a token that have statistics of their own; smaller tokens are not normalised.
        stream: None = the tokenizer's only one.
    """

    def __init__(
        self,
        model: Model,
        *,
        normalise: bool = True,
        by_channel: bool = False,
        fewest: int = 16,
        stream: str | None = None,
    ):
        super().__init__(model)
        self.stream = stream or next(iter(model.tokenizer.streams))
        width = model.tokenizer.streams[self.stream]
        self.channels = model.tokenizer.channels if by_channel else 1
        self.normalise = normalise and width // self.channels >= fewest
        self.heads = {"pixels": Head(width)}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        x = self.asked(step)
        if self.normalise:
            mean, spread = self.moments(x)
            x = ((x.unflatten(-1, (-1, self.channels)) - mean) / spread).flatten(-2)
        return {"pixels": x}

    def asked(self, step: Step) -> Tensor:
        """(Q, M, D) content of the asked tokens."""
        return take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of).float()

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread that tokens (Q, M, D) are normalised with: (Q, M, 1, channels), or one for all channels."""
        if self.channels == 1:
            mean, spread = moments(x)
            return mean[..., None], spread[..., None]
        var, mean = torch.var_mean(x.unflatten(-1, (-1, self.channels)), -2, keepdim=True)
        return mean, (var + 1e-6).sqrt()

    def content(self, step: Step) -> Tensor:
        """Predictions in the units of the tokens' content: (Q, M, D). With `normalise`, a prediction says nothing of a
        token's own mean and spread; they are borrowed from the true content."""
        pred = step.pred["pixels"].float()
        if not self.normalise:
            return pred
        mean, spread = self.moments(self.asked(step))
        return (pred.unflatten(-1, (-1, self.channels)) * spread + mean).flatten(-2)

    @property
    def borrows(self) -> str | None:
        """What `content` takes from the truth, in words; None = nothing."""
        return "each hidden patch borrows the mean and spread of the true patch" if self.normalise else None


class FirstFrame(Pixels):
    """The first frame of each asked patch of a video: (Q, M, D / frames). One frame of a patch is enough to learn from,
    and halves the last layer (MAE-ST, arXiv:2205.09113, section 3.3).

    Args:
        normalise, fewest: see `Pixels`; by mean and spread of that frame.
    """

    def __init__(self, model: Model, *, normalise: bool = True, fewest: int = 16):
        super().__init__(model, normalise=normalise, fewest=fewest)
        self.frames = model.tokenizer.sides[0]
        width = model.tokenizer.streams[self.stream] // self.frames
        self.normalise = normalise and width >= fewest
        self.heads = {"pixels": Head(width)}

    def asked(self, step: Step) -> Tensor:
        x = step.tokens.x[self.stream]
        return take(x[..., : x.shape[-1] // self.frames], step.mask.ask, step.mask.ask_of).float()

    def content(self, step: Step) -> Tensor:
        """As `Pixels.content`, the predicted frame standing for all frames of its patch: (Q, M, D)."""
        return super().content(step).repeat(1, 1, self.frames)


class Classes(Part):
    """The content of the asked tokens of one stream of integers: (Q, M) int64, a class each.

    Args:
        stream: None = the tokenizer's only one.
        bound: the loss is a mean over all real tokens, asked for or not, as a bound of the likelihood in nats a token.
    """

    def __init__(self, model: Model, *, stream: str | None = None, bound: bool = False):
        super().__init__(model)
        self.stream = stream or next(iter(model.tokenizer.streams))
        self.heads = {"classes": Head(-model.tokenizer.streams[self.stream], per=per_valid if bound else None)}
        counts = getattr(model.tokenizer, "counts", {}).get(self.stream)
        if counts is not None:
            share = torch.tensor(counts) + 0.5
            self.register_buffer("prior", (share / share.sum()).log(), persistent=False)

    prior: Tensor

    @property
    def constants(self) -> dict[str, Tensor]:
        """What a head would predict that knew nothing but how often each class occurs in the training data."""
        return {"classes": self.prior} if hasattr(self, "prior") else {}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return {"classes": take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of)}

    def content(self, step: Step) -> Tensor:
        """(Q, M) the likeliest class."""
        return step.pred["classes"].argmax(-1)


class Replaced(Part):
    """Whether the corruption put another token in the place of an asked one, which only it knows: (Q, M, 1), 0 or 1. A
    drawn token that happens to be the true one counts as not replaced (ELECTRA, arXiv:2003.10555, section 2).

    Args:
        weight: of this loss beside that of the corruption.
    """

    def __init__(self, model: Model, *, weight: float = 50.0):
        super().__init__(model)
        self.stream = model.tokenizer.field
        self.heads = {"replaced": Head(1, weight=weight)}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        content = step.seen.content
        if content is None:
            raise ValueError("whether tokens were replaced is known where the corruption leaves other content")
        replaced = content[self.stream] != step.tokens.x[self.stream]
        return {"replaced": take(replaced.float()[..., None], step.mask.ask)}


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread over the last axis, kept; as MAE, unbiased and with 1e-6 added to the variance."""
    return x.mean(-1, keepdim=True), (x.var(-1, keepdim=True) + 1e-6).sqrt()


def spreads(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `moments` over the values that are there; NaN is a missing one."""
    count = (~x.isnan()).sum(-1, keepdim=True)
    mean = x.nanmean(-1, keepdim=True).nan_to_num()
    variance = (x - mean).square().nansum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return mean, (variance + 1e-6).sqrt()


class Hog(Part):
    """Histograms of oriented gradients (Dalal & Triggs 2005) of the asked patches, cells of one patch side by side
    (MaskFeat, arXiv:2112.09133, section 3.2): (Q, M, C * cells * cells * bins).

    Gradients are central differences, of the whole image with its edges repeated; a pixel votes for the bin of its
    orientation, opposite directions being one, with its magnitude.

    Args:
        bins: orientations.
        cells: cells along each side of a patch (16-pixel patches, 8-pixel cells: 2).
        normalise: each cell's histogram to length 1.
    """

    def __init__(self, model: Model, *, bins: int = 9, cells: int = 2, normalise: bool = True):
        super().__init__(model)
        tokenizer = model.tokenizer
        if tokenizer.patch % cells:
            raise ValueError(f"{cells} HOG cells a side do not fit patches of {tokenizer.patch} pixels")
        self.bins, self.cells, self.normalise = bins, cells, normalise
        self.heads = {"hog": Head(tokenizer.channels * cells * cells * bins)}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        tokenizer, tokens = model.tokenizer, step.tokens
        images = tokenizer.whole(tokens.x[tokenizer.field].float(), tokens.grid)
        hog = self.histograms(images, tokenizer.patch // self.cells)  # B C bins h w
        hog = hog.unflatten(4, (-1, self.cells)).unflatten(3, (-1, self.cells))  # B C bins h c w c
        hog = hog.permute(0, 3, 5, 1, 2, 4, 6).flatten(3).flatten(1, 2)  # B N C*bins*c*c
        return {"hog": take(hog, step.mask.ask, step.mask.ask_of)}

    def histograms(self, images: Tensor, cell: int) -> Tensor:
        """(B, C, H, W) -> (B, C, bins, H / cell, W / cell)."""
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        angle = torch.atan2(dy, dx) / math.pi * self.bins  # half a turn spans all bins: opposite gradients share one
        votes = F.one_hot(angle.floor().long() % self.bins, self.bins) * (dx.square() + dy.square()).sqrt()[..., None]
        votes = votes.permute(0, 1, 4, 2, 3).flatten(0, 1)
        hog = F.avg_pool2d(votes, cell).unflatten(0, images.shape[:2])
        return F.normalize(hog, dim=2) if self.normalise else hog
