"""What a model sees and makes of it, as pictures: original, visible part, reconstruction."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from anymask.data import infer_schema, open_source
from anymask.engine import Model, Step
from anymask.run import Run, write_atomically

from . import measure, planning
from .errors import TrainError
from .watch import evaluating

SAMPLES = 8
SIDE = 112  # pixels that a panel has at least; smaller images are enlarged by a whole number
GAP, LINE = 4, 14  # pixels between panels, and of a line of text
HIDDEN = 0.5  # grey of what is hidden


def drawable(model: Model) -> bool:
    """Whether the model's data are images on a grid of patches."""
    return hasattr(model.tokenizer, "images") and hasattr(model.tokenizer, "raw")


def picture(model: Model, batch: dict[str, Tensor]) -> Image.Image:
    """A row for each sample of an image batch: original, visible part, reconstruction; a caption below.

    Where the target is not the content (HOG, features), the reconstruction is left out, and the caption says so. Of
    other numbers of channels than 1 and 3 the first ones are drawn, each stretched to its own range.

    Raises:
        TrainError: the model's data are no images.
    """
    _check_drawable(model)
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    with evaluating(model):
        step = model(batch)
        content, shown, made = _contents(model, step)
        panels = [_images(model, content), _masked(model, content, shown)]
        if made is not None:
            predicted, known = made
            panels.append(_masked(model, torch.where(known[..., None], predicted, content), shown | known))
    return _sheet(panels, _caption(model, shown, panels[0].shape[1], made))


def reconstruct(run: Run | str | Path, source: Any, out: str | Path, *, n: int = SAMPLES) -> Path:
    """Draws the first `n` samples of a source (or what `open_source` takes) with a run's trained model into a PNG.

    Raises:
        SchemaError: the data do not fit the model. TrainError: no images, another file ending, or n below 1.
    """
    run, out = run if isinstance(run, Run) else Run.open(run), Path(out)
    if out.suffix.lower() != ".png" or n < 1:
        raise TrainError(f"pictures of one sample or more are written to .png, not {n} to {out.name}")
    model = run.model()
    _check_drawable(model)
    data = open_source(source)
    run.schema.check(infer_schema(data))
    batch = measure.first_batch(data, planning.cropped(run.schema, model), n)
    return save(picture(model, batch), out)


def _check_drawable(model: Model) -> None:
    if not drawable(model):
        raise TrainError(
            "only models of images can be drawn; this one's tokenizer makes no patches of images. For a table, "
            "anymask.evaluation.impute gives the numbers"
        )


def save(image: Image.Image, path: Path) -> Path:
    """Writes a PNG atomically."""
    data = io.BytesIO()
    image.save(data, "png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.getvalue())
    return path


def _contents(model: Model, step: Step) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Content (B, N, D), which of it is visible (B, N), and predictions (B, N, D) with where they are (B, N) or None.

    With several masks for a sample, the first one is drawn.
    """
    content = step.tokens.x[model.tokenizer.field].float()
    b, n, _ = content.shape
    visible = step.mask.visible[_first(step.mask.keep_of, b, content.device)]
    if not hasattr(model.target, "content"):
        return content, visible, None
    rows = _first(step.mask.ask_of, b, content.device)
    pred = model.target.content(step)[rows]
    ask = step.mask.ask[rows] if step.mask.ask is not None else torch.arange(n, device=pred.device).expand(b, n)
    ok = step.mask.ask_ok[rows] if step.mask.ask_ok is not None else torch.ones_like(ask, dtype=torch.bool)
    known = torch.zeros_like(visible).scatter(1, ask, ok) & ~visible
    return content, visible, (torch.zeros_like(content).scatter(1, ask[..., None].expand_as(pred), pred), known)


def _first(of: Tensor | None, samples: int, device: torch.device) -> Tensor:
    """(B,) the first row of each sample."""
    if of is None:
        return torch.arange(samples, device=device)
    of = of if of.ndim == 1 else of[:, 0]
    return torch.stack([torch.nonzero(of == b)[0, 0] for b in range(samples)])


def _images(model: Model, content: Tensor) -> Tensor:
    """Standardised patches to (B, C, H, W) in the units of the data."""
    return model.tokenizer.raw(model.tokenizer.images(content, model.tokenizer.grid))


def _masked(model: Model, content: Tensor, shown: Tensor) -> Tensor:
    """As `_images`, NaN where not shown."""
    return _images(model, torch.where(shown[..., None], content, torch.nan))


def _sheet(panels: list[Tensor], caption: list[str]) -> Image.Image:
    original = panels[0]
    low, high = _range(original)
    drawn = [_rgb((p - low) / (high - low)) for p in panels]  # B H W 3 each
    rows, height, width = drawn[0].shape[:3]
    zoom = max(1, -(-SIDE // min(height, width)))
    cell_h, cell_w = height * zoom + GAP, width * zoom + GAP
    wide = max(len(panels) * cell_w + GAP, max(6 * len(line) + 2 * GAP for line in caption))
    sheet = Image.new("RGB", (wide, rows * cell_h + 2 * GAP + LINE * len(caption)), "white")
    for column, images in enumerate(drawn):
        for row, pixels in enumerate(images):
            one = Image.fromarray(pixels).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(one, (GAP + column * cell_w, GAP + row * cell_h))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(caption):
        pen.text((GAP, rows * cell_h + GAP + LINE * number), line, fill="black")
    return sheet


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) low and high: one range for grey and RGB, one each for other channels."""
    flat = images.transpose(0, 1).flatten(1)
    low, high = flat.quantile(0.005, dim=1), flat.quantile(0.995, dim=1)
    if images.shape[1] in (1, 3):
        low, high = low.min().expand_as(low), high.max().expand_as(high)
    return low[:, None, None], torch.maximum(high, low + 1e-6)[:, None, None]


def _rgb(images: Tensor) -> np.ndarray:
    """(B, C, H, W) in 0..1, NaN hidden, to (B, H, W, 3) uint8."""
    shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    shown = torch.nan_to_num(shown.clamp(0, 1), nan=HIDDEN)
    return (shown * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _caption(model: Model, shown: Tensor, channels: int, made: tuple[Tensor, Tensor] | None) -> list[str]:
    lines = ["original | visible | reconstruction" if made is not None else "original | visible"]
    if made is None:
        lines.append(f"the target is {', '.join(model.target.heads)}, not pixels: no reconstruction can be drawn")
    else:
        if getattr(model.target, "borrows", None):
            lines.append(model.target.borrows)
        if not (shown | made[1]).all():
            lines.append("grey in the reconstruction: hidden and not asked for")
    if channels not in (1, 3):
        drawn = "channels 1 to 3" if channels > 3 else "channel 1"
        lines.append(f"{drawn} of {channels} drawn, each stretched to its own range")
    return lines
