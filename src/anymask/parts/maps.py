"""Parts of depth maps and class maps, where they are fields beside an image (MultiMAE, arXiv:2204.01678)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask.data.augment import RandomResizedCrop
from anymask.engine import Head, Model, Part, Sample, Step, Tokens, take
from anymask.parts.losses import class_maps, observed_l1
from anymask.parts.positions import SinCos
from anymask.parts.stems import Embed
from anymask.parts.tokenizers import Patches
from anymask.recipe import P


class DepthPatches(Patches):
    """Patches of depth maps, standardised by the mean and spread of the known pixels. Unknown pixels stay NaN, and are
    0 to the encoder; patches without a known pixel are not valid."""

    missing = True

    def __init__(self, model: Model, *, patch: int | None = None, kind: str = "depth", field: str | None = None):
        super().__init__(model, patch=patch, kind=kind, field=field)
        self.renderer = "anymask.reports.maps:Depths"

    def forward(self, sample: Sample) -> Tokens:
        tokens = super().forward(sample)
        known = ~tokens.x[self.field].isnan().all(-1)
        return tokens._replace(valid=known if tokens.valid is None else known & tokens.valid)


class ClassPatches(Patches):
    """Patches of class maps as the one-hot classes of their pixels, one pixel after another: (B, N, pixels * classes)
    of 0 and 1, a pixel without class being 0 everywhere. A linear embedding of it is the sum of an embedding for each
    class and place."""

    def __init__(self, model: Model, *, patch: int | None = None, kind: str = "classmap", field: str | None = None):
        super().__init__(model, patch=patch, kind=kind, field=field)
        self.classes = int(model.schema.fields[self.field].more["classes"])
        self.streams = {self.field: self.streams[self.field] * self.classes}
        self.renderer = "anymask.reports.maps:ClassMaps"

    def forward(self, sample: Sample) -> Tokens:
        tokens = super().forward(sample)  # mean 0 and spread 1: the numbers of the classes
        x = tokens.x[self.field].long()
        one_hot = F.one_hot(x.clamp(max=self.classes), self.classes + 1)[..., :-1].flatten(-2).float()
        return tokens._replace(x={self.field: one_hot})

    def numbers(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Tokens (B, N, pixels * classes) as class numbers (B, 1, H, W), -1 where NaN or no class."""
        one_hot = x.unflatten(-1, (-1, self.classes))
        return self.whole(torch.where(one_hot.amax(-1) > 0, one_hot.argmax(-1), -1).float(), grid)


class Known(Part):
    """The known pixels of the asked depth patches as the tokenizer scales them, NaN for unknown ones: (Q, M, D)."""

    def __init__(self, model: Model):
        super().__init__(model)
        (self.stream,) = model.tokenizer.streams
        self.heads = {"depth": Head(model.tokenizer.streams[self.stream])}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return {"depth": take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of).float()}

    def content(self, step: Step) -> Tensor:
        """Predictions in the units of the tokens' content: (Q, M, D)."""
        return step.pred["depth"].float()


class PixelClasses(Part):
    """The class of each pixel of the asked patches: (Q, M, pixels) int64, -1 for none."""

    def __init__(self, model: Model):
        super().__init__(model)
        (self.stream,) = model.tokenizer.streams
        self.classes = model.tokenizer.classes
        width = model.tokenizer.streams[self.stream]
        self.heads = {"classes": Head(width)}
        share = torch.tensor(model.schema.fields[self.stream].more["counts"]) + 0.5
        prior = (share / share.sum()).log().repeat(width // self.classes)
        self.register_buffer("prior", prior, persistent=False)

    prior: Tensor

    @property
    def constants(self) -> dict[str, Tensor]:
        """What a head would predict that knew nothing but how often each class occurs in the training data."""
        return {"classes": self.prior}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        x = take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of).unflatten(-1, (-1, self.classes))
        return {"classes": torch.where(x.sum(-1) > 0, x.argmax(-1), -1)}

    def content(self, step: Step) -> Tensor:
        """The likeliest class of each pixel, one-hot, as the tokens have them: (Q, M, D)."""
        best = step.pred["classes"].unflatten(-1, (-1, self.classes)).argmax(-1)
        return F.one_hot(best, self.classes).flatten(-2).float()


AUGMENT = P(RandomResizedCrop, scale=(0.2, 1.0), flip=0.5)  # as MAE's, so that maps are cropped as the images are

DEPTH = {
    "tokenizer": P(DepthPatches),
    "stem": P(Embed),
    "positions": P(SinCos),
    "target": P(Known),
    "loss": observed_l1,
    "augment": AUGMENT,
}

CLASSES = {
    "tokenizer": P(ClassPatches),
    "stem": P(Embed),
    "positions": P(SinCos),
    "target": P(PixelClasses),
    "loss": class_maps,
    "augment": AUGMENT,
}
