"""New samples from a masked model: everything hidden at first, then filled in step by step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from anymask.engine import Mask, Model, Step
from anymask.errors import AnymaskError
from anymask.parts.corruptions import Replace, Substitute
from anymask.parts.targets import Classes
from anymask.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image

    from anymask.data import Field

HIDDEN = -1  # stands at places that are still to be drawn


class GenerateError(AnymaskError):
    """Samples that cannot be drawn as asked; the message names the mend."""


@torch.no_grad()
def generate(
    run: Run | str | Path,
    *,
    n: int = 4,
    sampler: str = "ancestral",
    steps: int | None = None,
    length: int | None = None,
    block: int | None = None,
    prompt: str = "",
    guidance: float = 0.0,
    temperature: float = 1.0,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
) -> list[str] | np.ndarray:
    """Draws texts (or proteins, molecules: all that is spelled), or images, from a run of a recipe that predicts hidden
    tokens of a vocabulary or a codebook.

    Args:
        run: a Run or its folder. `mdlm` (texts) and `mage` (images) learn every share of hidden tokens that the
            samplers meet; recipes with one share, such as bert, draw worse.
        n: samples.
        sampler: "ancestral" (a hidden token appears in a step with the probability that the noise level falls by, and
            stays; MDLM, arXiv:2406.07524, section 3.4), "confidence" (the tokens that the model is surest of appear
            first, as many as a cosine schedule says; MaskGIT, arXiv:2202.04200, section 3.2) or "semi-autoregressive"
            (blocks from left to right, each ancestral; MDLM, section 3.4).
        steps: from all hidden to none, of each block; None = as many as there are tokens to draw.
        length: of texts: tokens, the prompt counted; None = the median of the training texts.
        block: of texts: tokens of a block of the semi-autoregressive sampler; None = a quarter of the length.
        prompt: of texts: how every one begins.
        guidance: of texts: how much more the scores follow the prompt than they do without it: scores with it times
            1 + guidance, less those with a hidden prompt times guidance (arXiv:2410.18514, section 3.3).
        temperature: scores are divided by it; 0 = always the likeliest.
        out: texts: a .txt file (an empty line between them) or a .jsonl file ({"text": ...}) to write to; images: a
            .png file (side by side) or a .npy file, as other samples that are cut into patches.

    Returns:
        Texts; or images (n, C, H, W) float32 in the units of the training data (series: (n, C, T), and so on).

    Raises:
        GenerateError: a run that predicts no tokens, or an option that does not fit it.
    """
    if sampler not in SAMPLERS:
        raise GenerateError(f"no sampler {sampler!r}; there is: {', '.join(SAMPLERS)}")
    if n < 1 or temperature < 0 or guidance < 0 or (steps is not None and steps < 1):
        raise GenerateError(
            f"n and steps are numbers from 1 on, temperature and guidance from 0 on; not n={n}, steps={steps}, "
            f"temperature={temperature}, guidance={guidance}"
        )
    run = run if isinstance(run, Run) else Run.open(run)
    model = run.model()
    check_generates(model)
    generator = torch.Generator().manual_seed(seed)
    path = None if out is None else Path(out).expanduser()
    if hasattr(model.tokenizer, "pixels"):
        if sampler == "semi-autoregressive" or prompt or guidance or length is not None or block is not None:
            raise GenerateError(
                "length, block, prompt, guidance and the semi-autoregressive sampler are for texts; leave them out"
            )
        return _images(run, model, Draw(model, 0, 0.0, temperature, generator), n, sampler, steps, path, progress)
    from anymask.data.kinds._vocabulary import encode, loaded

    if path is not None and path.suffix not in (".txt", ".jsonl"):
        raise GenerateError(f"texts are written to .txt or .jsonl, not to {path.name}")
    field = run.schema.fields[model.tokenizer.field]
    vocabulary = loaded(field.more["tokenizer"])
    begin = encode(vocabulary, [prompt])[0].tolist() if prompt else []
    if guidance and not begin:
        raise GenerateError("guidance follows a prompt; give one (--prompt), or leave --guidance out")
    longest = model.tokenizer.longest
    length = min(longest, max(len(begin) + 1, int(field.sizes[1][-1]))) if length is None else length
    if not len(begin) < length <= longest:
        raise GenerateError(
            f"a text of this run has at most {longest} tokens and the prompt has {len(begin)}: --length is above the "
            f"latter and not above the former, not {length}"
        )
    if block is not None and (sampler != "semi-autoregressive" or block < 1):
        raise GenerateError('block= (--block) is a number from 1 on, for sampler="semi-autoregressive"')
    draw = Draw(model, len(begin), guidance, temperature, generator)
    ids = torch.full((n, length), HIDDEN)
    ids[:, : len(begin)] = torch.tensor(begin, dtype=torch.long)
    pieces = block or max(1, -(-length // 4)) if sampler == "semi-autoregressive" else length
    for start in range(len(begin), length, pieces):
        end = min(length, start + pieces)
        ids[:, :end] = _filled(draw, ids[:, :end], start, sampler, steps, progress)
    texts = [vocabulary.decode(row, skip_special_tokens=True) for row in ids.tolist()]
    if path is not None:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(lines) if path.suffix == ".jsonl" else "\n\n".join(texts)
        path.write_text(text + "\n", encoding="utf-8")
    return texts


def _images(
    run: Run,
    model: Model,
    draw: Draw,
    n: int,
    sampler: str,
    steps: int | None,
    path: Path | None,
    progress: bool,
) -> np.ndarray:
    if path is not None and path.suffix not in (".png", ".npy"):
        raise GenerateError(f"images are written to .png or .npy, not to {path.name}")
    axes = len(model.tokenizer.grid)
    if path is not None and path.suffix == ".png" and axes != 2:
        raise GenerateError(f"samples of {axes} axes are no pictures; write them to {path.with_suffix('.npy').name}")
    ids = _filled(draw, torch.full((n, math.prod(model.tokenizer.grid)), HIDDEN), 0, sampler, steps, progress)
    found = model.tokenizer.pixels(ids).numpy()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, found)
        else:
            picture(found, run.schema.fields[model.tokenizer.field]).save(path)
    return found


def picture(images: np.ndarray, field: Field) -> Image:
    """Images (n, C, H, W) side by side, in rows of eight; of more than three channels the first."""
    from PIL import Image

    low, high = field.low or 0.0, field.high if field.high is not None else 1.0
    shown = images if images.shape[1] in (1, 3) else images[:, :1]
    scaled = ((shown - low) / max(high - low, 1e-12)).clip(0, 1) * 255
    count, channels, height, width = scaled.shape
    across = min(8, count)
    sheet = np.full((-(-count // across) * (height + 2), across * (width + 2), channels), 255, np.uint8)
    for k, one in enumerate(scaled.round().astype(np.uint8)):
        top, left = k // across * (height + 2), k % across * (width + 2)
        sheet[top : top + height, left : left + width] = one.transpose(1, 2, 0)
    times = max(1, 64 // max(height, width))
    sheet = sheet.repeat(times, 0).repeat(times, 1)
    return Image.fromarray(sheet if channels == 3 else sheet[..., 0])


def _filled(draw: Draw, ids: Tensor, start: int, sampler: str, steps: int | None, progress: bool) -> Tensor:
    """ids (n, L) with every place from `start` on drawn."""
    places = ids.shape[1] - start
    count = steps or places
    for step in track(range(count), description="drawing", disable=not progress, transient=True):
        ids = SAMPLERS[sampler](draw, ids, ids == HIDDEN, Progress(step, count, places))
    return ids


def check_generates(model: Model) -> None:
    """
    Raises:
        GenerateError: the model does not predict hidden tokens of one stream of integers from a sequence that holds
            mask tokens in their place.
    """
    known = hasattr(model.tokenizer, "mask_id") or hasattr(model.tokenizer, "pixels")
    masked = isinstance(model.corruption, (Replace, Substitute)) and model.corruption.keep == 1.0
    if not isinstance(model.target, Classes) or not masked or not known:
        raise GenerateError(
            "this run predicts no pieces of texts or words of images at hidden places, so none can be drawn; use a run "
            "of mdlm (anymask pretrain TEXTS --recipe mdlm) or mage (anymask pretrain IMAGES --recipe mage)"
        )


class Progress(NamedTuple):
    """Where a piece of text is: step number `step` of `steps` for so many places."""

    step: int
    steps: int
    places: int


class Draw:
    """Draws tokens for hidden places, given everything that is not hidden."""

    def __init__(
        self, model: Model, begin: int, guidance: float, temperature: float, generator: torch.Generator
    ) -> None:
        self.model, self.begin, self.guidance, self.temperature = model, begin, guidance, temperature
        self.generator = generator

    def scores(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """(n, L, classes) of ids (n, L) with `hidden` (n, L) places."""
        tokenizer, shown = self.model.tokenizer, ids.clamp(min=0)  # what stands at hidden places is not read
        sample = {tokenizer.field: shown, "key": torch.arange(len(ids))}
        tokens = tokenizer.placed(shown) if hasattr(tokenizer, "placed") else tokenizer(sample)
        return self.model.predict(Step(sample, tokens, Mask(~hidden), aux={})).pred["classes"].float()

    def __call__(self, ids: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """A token for each place (n, L), and its log-probability."""
        scores = self.scores(ids, hidden)
        if self.guidance:
            alone = hidden.clone()
            alone[:, : self.begin] = True
            scores = (1 + self.guidance) * scores - self.guidance * self.scores(ids, alone)
        if hasattr(self.model.tokenizer, "mask_id"):
            scores[..., self.model.tokenizer.mask_id] = -torch.inf
        if self.temperature == 0:
            logp = scores.log_softmax(-1)
            return logp.argmax(-1), logp.amax(-1)
        logp = (scores / self.temperature).log_softmax(-1)
        drawn = torch.multinomial(logp.exp().flatten(0, 1), 1, generator=self.generator).view(ids.shape)
        return drawn, logp.gather(-1, drawn[..., None]).squeeze(-1)

    def uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=self.generator)


def ancestral(draw: Draw, ids: Tensor, hidden: Tensor, now: Progress) -> Tensor:
    """One step: the noise level falls from 1 - step / steps by 1 / steps."""
    appears = hidden & (draw.uniform(hidden.shape) < 1 / (now.steps - now.step))
    if not appears.any():  # nothing to ask the model for (MDLM, section 3.4: cached)
        return ids
    return torch.where(appears, draw(ids, hidden)[0], ids)


def confidence(draw: Draw, ids: Tensor, hidden: Tensor, now: Progress) -> Tensor:
    """One step: so many places stay hidden as the cosine of the progress says, those whose drawn tokens are the least
    likely; Gumbel noise, less and less of it, keeps samples apart."""
    done = (now.step + 1) / now.steps
    stay = int(now.places * math.cos(math.pi / 2 * done) + 1e-6)
    drawn, logp = draw(ids, hidden)
    noise = -torch.log(-torch.log(draw.uniform(hidden.shape).clamp(1e-6, 1 - 1e-6)))
    sure = logp + draw.temperature * (1 - done) * noise
    order = sure.masked_fill(~hidden, torch.inf).argsort(1)  # hidden places first, the least sure before the others
    stays = torch.zeros_like(hidden).scatter(1, order[:, :stay], True) & hidden
    return torch.where(hidden & ~stays, drawn, ids)


SAMPLERS: dict[str, Callable[[Draw, Tensor, Tensor, Progress], Tensor]] = {
    "ancestral": ancestral,
    "confidence": confidence,
    "semi-autoregressive": ancestral,
}
