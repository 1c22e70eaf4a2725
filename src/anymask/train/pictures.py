"""What a model sees and makes of it, as pictures: original, visible part, reconstruction."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from anymask.data import infer_schema
from anymask.engine import Model, Step
from anymask.reports.images import Images, rgb, value_range
from anymask.reports.maps import Maps
from anymask.reports.renderer import Panel, Renderer, contents, filled, parts_of, renderer_of
from anymask.run import Run, write_atomically

from . import measure, planning
from .errors import TrainError
from .watch import evaluating

SAMPLES = 8
SIDE = 112  # pixels that a panel has at least; smaller images are enlarged by a whole number
GAP, LINE = 4, 14  # pixels between panels, and of a line of text


def drawable(model: Model) -> bool:
    """Whether the model's data are images on a grid of patches, or have parts that are drawn in columns as these."""
    return any(_in_columns(renderer_of(model, part)) for part in parts_of(model))


def _in_columns(renderer: Renderer | None) -> bool:
    return isinstance(renderer, (Images, Maps))


def picture(model: Model, batch: dict[str, Tensor]) -> Image.Image:
    """A row for each sample of an image batch: original, visible part, reconstruction; a caption below. Of several
    parts, those of them that are images or maps, side by side.

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
        if parts_of(model) != [""]:
            return _parts(model, step)
        content, shown, made = contents(model, step)
        images = Images(model)
        panels = [images.pixels(content), images.masked(content, shown)]
        if made is not None:
            panels.append(images.masked(filled(content, *made), shown | made[1]))
    return _sheet(panels, _caption(model, shown, panels[0].shape[1], made))


def _parts(model: Model, step: Step) -> Image.Image:
    """The same of several parts, side by side."""
    columns, captions = list[Image.Image](), list[str]()
    for part in parts_of(model):
        renderer = renderer_of(model, part)
        if renderer is None or not _in_columns(renderer):
            continue
        content, shown, made = contents(model, step, part)
        panels = [Panel("original", content), Panel("visible", content, shown)]
        if made is not None:
            panels.append(Panel("reconstruction", filled(content, *made), shown | made[1], predicted=made[1]))
        drawn = renderer.draw(panels)
        columns += [Image.open(io.BytesIO(drawing.png)) for drawing in drawn if drawing.png]
        captions.append(f"{part}: {' | '.join(drawing.name for drawing in drawn)}")
    width, height = sum(c.width + GAP for c in columns) + GAP, max(c.height for c in columns)
    sheet = Image.new("RGB", (max(width, *(6 * len(line) + 2 * GAP for line in captions)),
                              height + 3 * GAP + LINE * len(captions)), "white")  # fmt: skip
    x = GAP
    for column in columns:
        sheet.paste(column, (x, GAP), column)
        x += column.width + GAP
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(captions):
        pen.text((GAP, height + 2 * GAP + LINE * number), line, fill="black")
    return sheet


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
    data = run.source(source, labelled=False)
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


def _sheet(panels: list[Tensor], caption: list[str]) -> Image.Image:
    original = panels[0]
    low, high = value_range(original)
    drawn = [rgb((p - low) / (high - low)) for p in panels]  # B H W 3 each
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
