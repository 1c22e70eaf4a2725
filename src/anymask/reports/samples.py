"""The section of a report that shows new samples, of runs that can draw them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

import numpy as np

from anymask.data import Field
from anymask.generation import GenerateError, check_generates, generate, picture

from . import page
from .page import Section
from .renderer import Drawing
from .sections import title
from .subject import Subject

TEXTS, IMAGES = 4, 8
STEPS = 64  # of a sampler, at most: a page should not take minutes


def new_samples(subjects: Sequence[Subject]) -> list[Section]:
    """Nothing where no run can draw samples."""
    able = [subject for subject in subjects if _able(subject)]
    if not able:
        return []
    intro = "Drawn by the model from nothing: everything is hidden at first, and filled in step by step."
    return [Section("New samples", intro, page.cards(*(_drawn(s, title("Drawn", s, subjects)) for s in able)))]


def _able(subject: Subject) -> bool:
    if not (subject.run.folder / "model.safetensors").is_file():
        return False
    try:
        check_generates(subject.model)
    except GenerateError:
        return False
    return True


def _drawn(subject: Subject, name: str) -> str:
    tokenizer, run = subject.model.tokenizer, subject.run
    images = hasattr(tokenizer, "pixels")
    if images and len(tokenizer.grid) != 2:
        return page.missing(name, "These are no pictures: anymask generate writes them to a .npy file.", wide=True)
    n, sampler = (IMAGES, "confidence") if images else (TEXTS, "ancestral")
    found = generate(run, n=n, sampler=sampler, steps=STEPS, seed=subject.seed)
    how = f"anymask generate {run.folder.name} -n {n} --sampler {sampler} --steps {STEPS} --seed {subject.seed}"
    if not images:
        texts = "".join(f"<pre>{escape(text)}</pre>" for text in found)
        return page.card(name, texts, how, wide=True)
    field = run.schema.fields[tokenizer.field]
    drawings = [Drawing(f"{k}", f"drawn image {k} of {n}", png=_png(image, field)) for k, image in enumerate(found, 1)]
    return page.card(name, page.sheet(drawings, "columns", name), f"{how} -o images.png", wide=True)


def _png(image: np.ndarray, field: Field) -> bytes:
    out = io.BytesIO()
    picture(image[None], field).save(out, "png", optimize=True)
    return out.getvalue()
