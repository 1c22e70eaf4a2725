"""Self-distillation: a slow teacher is the tokenizer of its own student, for patches and for whole views."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Head, Latent, Mask, Model, Part, Step
from anymask.parts.layers import Linear, init_weights, split_heads
from anymask.parts.losses import divergence
from anymask.parts.masks import rectangles
from anymask.parts.teachers import Teacher, cosine
from anymask.recipe import RecipeError


class ViewBlocks(Part):
    """Each of two views is an encoder row of its own: half of the rows stay whole, of the others rectangles are hidden
    that add up to a share drawn anew (iBOT, arXiv:2111.07832, section 3.3). Hidden tokens enter replaced.

    Args:
        ratio: smallest and largest hidden share of a row.
        share: of the rows of which something is hidden.
        smallest, aspect: of the rectangles, see `masks.Block`.
    """

    sometimes_whole = "half of the views stay whole"

    def __init__(
        self,
        model: Model,
        *,
        ratio: tuple[float, float] = (0.1, 0.5),
        share: float = 0.5,
        smallest: float = 16 / 196,
        aspect: float = 1 / 0.3,
    ):
        super().__init__(model)
        if not 0.0 < ratio[0] <= ratio[1] < 1.0 or not 0.0 < share <= 1.0:
            raise RecipeError(f"mask.ratio is a range within 0 to 1 and mask.share above 0 to 1, not {ratio}, {share}")
        self.ratio, self.share, self.smallest, self.aspect = tuple(ratio), share, smallest, aspect

    def forward(self, step: Step, model: Model) -> Mask:
        if step.tokens.kinds is None:
            raise RecipeError("masks of two views need them: use tokenizer=P(Crops, nested=False)")
        if model.corruption.keep != 1.0:
            raise RecipeError("hidden tokens of views are replaced, not dropped: use corruption=P(Replace)")
        b, n = len(step.sample["key"]), step.tokens.shape[1] // 2
        device = step.sample["key"].device
        of = torch.arange(b, device=device).repeat_interleave(2)  # R: views of a sample follow each other
        view = torch.arange(2 * b, device=device) % 2
        key = keyed.fold(step.sample["key"][of], view)
        u = keyed.uniform(key, 2, salt=51)
        hidden = ((self.ratio[0] + u[:, 0] * (self.ratio[1] - self.ratio[0])) * n).long().clamp(min=1)
        hidden = hidden * (u[:, 1] < self.share)
        order = self.score(step, key, of, view, model).argsort(dim=1, descending=True, stable=True)  # hidden first
        place = torch.arange(n, device=device)
        first = view[:, None] * n
        gone = torch.zeros(2 * b, n, dtype=torch.bool, device=device).scatter(1, order, place < hidden[:, None])
        visible = torch.zeros(2 * b, 2 * n, dtype=torch.bool, device=device)
        visible = visible.scatter(1, first + place, ~gone)
        most = max(1, int(self.ratio[1] * n))
        return Mask(
            visible, keep=first + place, ask=first + order[:, :most], ask_ok=place[:most] < hidden[:, None],
            keep_of=of, ask_of=of,
        )  # fmt: skip

    def score(self, step: Step, key: Tensor, of: Tensor, view: Tensor, model: Model) -> Tensor:
        """(R, N) which tokens of a row are hidden first, the highest."""
        assert step.tokens.grid is not None
        return rectangles(key, step.tokens.grid[1:], self.ratio[1], self.smallest, self.aspect)


class AttentionGuided(ViewBlocks):
    """The tokens that the teacher's CLS token attends to most are hidden first, by the attention of its last block on
    the whole view, mean over heads (AttMask, arXiv:2203.12719, section 3.2). It costs a further pass of the teacher.

    Args:
        ratio, share: see `ViewBlocks`.
        hint: share of these that stay visible, drawn at random (AttMask-Hint); others are hidden in their place.
        low: hide those attended to least (AttMask-Low, for comparison).
    """

    def __init__(
        self,
        model: Model,
        *,
        ratio: tuple[float, float] = (0.1, 0.5),
        share: float = 0.5,
        hint: float = 0.0,
        low: bool = False,
    ):
        super().__init__(model, ratio=ratio, share=share)
        if not 0.0 <= hint < 1.0:
            raise RecipeError(f"mask.hint is a share, 0 or more and below 1, not {hint}")
        self.hint, self.low = hint, low

    @torch.no_grad()
    def score(self, step: Step, key: Tensor, of: Tensor, view: Tensor, model: Model) -> Tensor:
        n = step.tokens.shape[1] // 2
        keep = view[:, None] * n + torch.arange(n, device=key.device)
        attention = model.target.attention(step._replace(mask=whole_views(keep, of)), model)
        attention = -attention if self.low else attention
        shown = keyed.uniform(key, n, salt=52) < self.hint
        return attention - shown * 2.0  # an attention is 1 at most


def whole_views(keep: Tensor, of: Tensor) -> Mask:
    """The rows of a mask of views with nothing hidden: keep (R, N) and of (R,) as in `Mask`."""
    visible = torch.zeros(len(keep), 2 * keep.shape[1], dtype=torch.bool, device=keep.device).scatter(1, keep, True)
    return Mask(visible, keep=keep, keep_of=of)


class Projection(Part):
    """Codes of the asked tokens to scores of prototypes, by three layers and a last one whose rows have length 1, which
    tokens and CLS share (DINO, arXiv:2104.14294, section 3.1; iBOT, section 3.2).

    Args:
        out: prototypes.
        hidden, bottleneck: widths of the layers.
    """

    def __init__(self, model: Model, *, out: int = 8192, hidden: int = 2048, bottleneck: int = 256):
        super().__init__(model)
        self.mlp = nn.Sequential(
            Linear(model.encoder.width, hidden), nn.GELU(), Linear(hidden, hidden), nn.GELU(),
            Linear(hidden, bottleneck),
        )  # fmt: skip
        init_weights(self.mlp)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(out, bottleneck), dim=-1))
        if model.target.out != out:
            raise RecipeError(f"decoder.out and target.out are the same prototypes, not {out} and {model.target.out}")

    def scores(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., out), cosines."""
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).to(x.dtype).T

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return {"patches": self.scores(viewed(step.latent.x, step.mask))}


def viewed(x: Tensor, mask: Mask) -> Tensor:
    """(R, M, D) the asked tokens of rows that hold one view each, kept whole: of x (R, N, D)."""
    assert mask.ask is not None and mask.keep is not None
    place = mask.ask - mask.keep[:, :1]
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[-1]))


class SelfDistilled(Teacher):
    """The teacher's distribution over prototypes at hidden tokens, which it sees: (R, M, out). The CLS tokens of the
    two views predict each other's as well, a loss that is added as `cls` (iBOT, arXiv:2111.07832, equations 2 and 3).
    So that the teacher does not collapse, its scores are centred by their running mean and sharpened by a low
    temperature, those of tokens and those of CLS each by their own (DINO, arXiv:2104.14294, section 3.1).

    Args:
        decay, final, over: see `Teacher`.
        out: prototypes, as many as of the decoder.
        student: temperature of the student.
        teacher: of the teacher, at the start and after the share `warmup` of the training.
        keep: share of the running mean that stays in a step.
        patches, cls: weights of the two losses; 0 = without.
    """

    copies = ("stem", "encoder", "decoder")

    def __init__(
        self,
        model: Model,
        *,
        decay: float = 0.996,
        final: float = 1.0,
        over: int | None = None,
        out: int = 8192,
        student: float = 0.1,
        teacher: tuple[float, float] = (0.04, 0.04),
        warmup: float = 30 / 800,
        keep: float = 0.9,
        patches: float = 1.0,
        cls: float = 1.0,
    ):
        super().__init__(model, decay=decay, final=final, rise=cosine, over=over)
        if min(student, *teacher, warmup) <= 0 or not 0.0 <= keep < 1.0 or min(patches, cls) < 0:
            raise RecipeError(
                "temperatures and target.warmup are above 0, target.keep 0 or more and below 1, weights 0 or more; not "
                f"student={student}, teacher={teacher}, warmup={warmup}, keep={keep}, patches={patches}, cls={cls}"
            )
        self.out, self.student, self.sharp, self.warmup = out, student, tuple(teacher), warmup
        self.stays, self.cls = keep, cls
        self.heads = {"patches": Head(out, weight=patches)}
        self.losses = {"patches": functools.partial(divergence, temperature=student)}
        self.register_buffer("temperature", torch.tensor(float(teacher[0])))
        for name in ("centre", "latest"):  # of tokens, of CLS: the running mean, and that of the last batch
            self.register_buffer(name, torch.zeros(2, out))

    temperature: Tensor
    centre: Tensor
    latest: Tensor
    decoder: Projection

    def attach(self, model: Model) -> None:
        super().attach(model)
        if getattr(model.encoder, "prefix", None) is None:
            raise RecipeError("views are compared by their CLS tokens: --set encoder.cls=true")

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        with torch.no_grad():
            mask = step.mask
            assert mask.keep is not None and mask.keep_of is not None
            latent = self.whole(step._replace(mask=whole_views(mask.keep, mask.keep_of)), model)
            scores = self.decoder.scores(latent.x).float()  # R N out
            cls = self.decoder.scores(latent.cls()).float()  # R out
            if self.training:
                self.latest.copy_(torch.stack([scores.mean((0, 1)), cls.mean(0)]))
            goal = ((viewed(scores, mask) - self.centre[0]) / self.temperature).softmax(-1)
            other = ((cls - self.centre[1]) / self.temperature).softmax(-1).unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        if self.cls:
            mine = model.decoder.scores(step.latent.cls())
            step.aux["cls"] = self.cls * divergence(mine.float(), other, self.student).mean()
        return {"patches": goal}

    def whole(self, step: Step, model: Model) -> Latent:
        """The copy's codes of the rows of the step's mask."""
        return self.encoder(step._replace(seen=self.stem(step)), model)

    def attention(self, step: Step, model: Model) -> Tensor:
        """(R, N) how much the CLS token attends to each token in the last block, mean over heads."""
        encoder = self.encoder
        if not getattr(encoder, "layers", False):
            raise RecipeError("attention is read from the input of the last block: --set encoder.layers=true")
        layers = self.whole(step, model).layers
        block: Any = encoder.blocks[-1]  # type: ignore[index, union-attr]
        q, k, _ = split_heads(block.attn.qkv(block.norm1(layers[-2])), 3, block.attn.heads)
        scores = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # R H 1 t+N
        return scores.softmax(-1).mean(1)[:, 0, -step.mask.keep.shape[1] :].float()  # type: ignore[union-attr]

    @torch.no_grad()
    def after_step(self, model: Model, progress: float) -> None:
        super().after_step(model, progress)
        self.centre.lerp_(self.latest, 1.0 - self.stays)
        start, end = self.sharp
        self.temperature.fill_(start + (end - start) * min(1.0, progress / self.warmup))
