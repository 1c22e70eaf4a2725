"""Teachers: slow copies of a model's own stem and encoder, and targets that are their codes."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask.engine import Head, Latent, Model, Part, Step, everything, take
from anymask.recipe import RecipeError


def linear(progress: float) -> float:
    """From 0 to 1 in a straight line."""
    return progress


def cosine(progress: float) -> float:
    """From 0 to 1 along half a cosine (BYOL, arXiv:2006.07733, section 3.2)."""
    return (1 - math.cos(math.pi * progress)) / 2


def opened(given: Model | str, tokenizer: Any) -> Model:
    """The model of an earlier stage, given as it is or as the folder of its run.

    Raises:
        RecipeError: it reads tokens of another form than those of `tokenizer`.
    """
    if isinstance(given, str):
        from anymask.run import Run

        given = Run.open(given).model()
    for name in ("streams", "grid"):
        its, ours = getattr(given.tokenizer, name), getattr(tokenizer, name)
        if its != ours:
            raise RecipeError(
                f"an earlier model reads the tokens of the later one: its {name} are {its}, the later one's {ours}; "
                "use a run on data and patches of the same form (--set tokenizer.patch=...)"
            )
    return given


def is_hugging_face(folder: str) -> bool:
    """Whether a folder holds a model as Hugging Face's libraries save it, and no run."""
    path = Path(folder).expanduser()
    return (path / "config.json").is_file() and not (path / "run.json").is_file()


class Teacher(Part):
    """A target that is made by a slow copy of stem and encoder: after each step the copy moves a little towards them,
    by an exponential moving average (mean teacher, arXiv:1703.01780, section 2). A subclass says `heads`, and in
    `forward` what of the codes is the goal.

    The copy is part of the model's weights and of its state file, in float32; it has no gradient, is in no optimiser
    and always in evaluation mode, so that drop path and dropout are the student's alone.

    Args:
        decay: share of the copy that stays in a step, in the beginning.
        final: that share at the end of the rise.
        ramp: share of the training in which it rises.
        rise: how: progress within the rise, 0 to 1, to the share of the way from `decay` to `final`.
        over: steps of the training that these shares are meant for. In a shorter one each step counts for several, so
            that the copy remembers the same part of the training; None = the shares are those of any training.
        teacher: what is copied in place of the model as it begins: the model of an earlier stage, the folder of a run
            on data of the same form, or that of a vision model of Hugging Face (see `anymask.interop.vision`). One that
            is not built like the model has to be frozen: decay=1.
    """

    def __init__(
        self,
        model: Model,
        *,
        decay: float = 0.996,
        final: float = 1.0,
        ramp: float = 1.0,
        rise: Callable[[float], float] = linear,
        over: int | None = None,
        teacher: Model | str | None = None,
    ):
        super().__init__(model)
        if over is not None:
            if over < 1:
                raise RecipeError(f"target.over counts steps of a training, from 1 on, not {over}")
            self.register_buffer("before", torch.zeros((), dtype=torch.float64))  # progress at the last step
        self.over = over
        if not 0.0 <= decay <= final <= 1.0 or not 0.0 < ramp <= 1.0:
            raise RecipeError(
                f"a teacher keeps a share of itself in every step that rises from decay to final, both 0 to 1, within "
                f"a share ramp of the training; not decay={decay}, final={final}, ramp={ramp} (--set target.decay=...)"
            )
        self.decay, self.final, self.ramp, self.rise = decay, final, ramp, rise
        self._given = None if teacher is None else self._opened(teacher, model)

    copies: tuple[str, ...] = ("stem", "encoder")
    stem: Part
    encoder: Part
    before: Tensor

    @staticmethod
    def _opened(teacher: Model | str, model: Model) -> Any:
        if isinstance(teacher, str) and is_hugging_face(teacher):
            from anymask.interop.vision import vision_model

            return vision_model(teacher, model)
        return opened(teacher, model.tokenizer)

    def attach(self, model: Model) -> None:
        if self._given is not None and self.decay < 1.0:
            mine, its = ([p.shape for name in self.copies for p in getattr(m, name).parameters()]
                         for m in (self._given, model))  # fmt: skip
            if mine != its:
                raise RecipeError(
                    "a teacher that is not built like its student cannot follow it: freeze it (--set target.decay=1)"
                )
        for name in self.copies:
            setattr(self, name, copy.deepcopy(getattr(self._given or model, name)).float())
        self._given = None  # only what is copied is kept
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        super().train(mode)
        for part in (getattr(self, name, None) for name in self.copies):
            if part is not None:
                part.eval()
        return self

    def kept(self, progress: float) -> float:
        """Share of the copy that stays in a step, at `progress` of the training."""
        return self.decay + (self.final - self.decay) * self.rise(min(1.0, progress / self.ramp))

    @torch.no_grad()
    def after_step(self, model: Model, progress: float) -> None:
        if self.decay == 1.0:
            return  # frozen
        kept = self.kept(progress)
        if self.over is not None:
            kept **= max(1.0, self.over * (progress - self.before.item()))
            self.before.fill_(progress)
        for mine, its in ((getattr(self, name), getattr(model, name)) for name in self.copies):
            slow: list[Tensor] = list(mine.parameters())
            fast = [p.detach().float() for p in its.parameters()]
            if slow:
                torch._foreach_lerp_(slow, fast, 1.0 - kept)
            for held, new in zip(mine.buffers(), its.buffers()):  # statistics, not weights: as the student has them
                held.copy_(new)

    @torch.no_grad()
    def whole(self, step: Step, model: Model) -> Latent:
        """The copy's codes of the whole samples, nothing masked: one row for each sample, however many masks it has."""
        step = step._replace(mask=everything(step.tokens))
        return self.encoder(step._replace(seen=self.stem(step)), model)


class Codes(Teacher):
    """The teacher's codes of the asked tokens, made with the whole sample in view: (Q, M, D).

    Args:
        decay, final, ramp, rise, over, teacher: see `Teacher`; with a frozen one it is dBOT (arXiv:2209.03917).
        top: the mean of the outputs of so many last blocks (or of all, if there are fewer), each normalised (data2vec,
            arXiv:2202.03555, section 3.3), which needs an encoder that returns its layers; None = the encoder's output
            as it is.
        by: what a block's output is normalised by: "token", each by its own mean and spread, or "channel", each channel
            by those over the tokens of the sample (data2vec 2.0, arXiv:2212.07525).
        normalise: each code by its own mean and spread.
        cls: weight of a further loss: the squared error of the student's CLS code against the mean of the sample's
            codes (data2vec 2.0, section 3.4); 0 = none.
    """

    def __init__(
        self,
        model: Model,
        *,
        decay: float = 0.996,
        final: float = 1.0,
        ramp: float = 1.0,
        rise: Callable[[float], float] = linear,
        over: int | None = None,
        top: int | None = None,
        by: str = "token",
        normalise: bool = False,
        cls: float = 0.0,
        teacher: Model | str | None = None,
    ):
        super().__init__(model, decay=decay, final=final, ramp=ramp, rise=rise, over=over, teacher=teacher)
        if top is not None and top < 1:
            raise RecipeError(f"target.top counts blocks, from 1 on, not {top}")
        if by not in ("token", "channel"):
            raise RecipeError(f'target.by is "token" or "channel", not {by!r}')
        self.top, self.by, self.normalise, self.cls = top, by, normalise, cls
        self.heads = {"codes": Head((self._given or model).size.width)}

    def attach(self, model: Model) -> None:
        super().attach(model)
        if self.top is not None and not getattr(self.encoder, "layers", False):
            raise RecipeError("a mean of blocks needs an encoder that returns them: --set encoder.layers=true")

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        codes = self.codes(self.whole(step, model))
        if self.cls:
            whole, of = _mean(codes, step.tokens.valid).squeeze(1), step.mask.keep_of
            step.aux["cls"] = self.cls * F.mse_loss(step.latent.cls(), whole if of is None else whole[of])
        return {"codes": take(codes, step.mask.ask, step.mask.ask_of)}

    def codes(self, latent: Latent) -> Tensor:
        """(B, N, D) float32"""
        codes = latent.x.float()
        if self.top is not None:
            layers = [layer[:, -latent.x.shape[1] :].float() for layer in latent.layers[1:][-self.top :]]
            each = _normal if self.by == "token" else functools.partial(_over_tokens, ok=latent.ok)
            codes = torch.stack([each(layer) for layer in layers]).mean(0)
        return _normal(codes) if self.normalise else codes


def _normal(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _over_tokens(x: Tensor, ok: Tensor | None) -> Tensor:
    """Each channel of (B, N, D) by its mean and spread over the real tokens of the sample."""
    centred = x - _mean(x, ok)
    return centred * (_mean(centred.square(), ok) + 1e-5).rsqrt()


def _mean(x: Tensor, ok: Tensor | None) -> Tensor:
    """(B, 1, D) over the real tokens."""
    if ok is None:
        return x.mean(1, keepdim=True)
    return (x * ok[..., None]).sum(1, keepdim=True) / ok.sum(1).clamp(min=1)[:, None, None]


