"""The page: pieces of HTML, and the file they make. Everything is in the file: no script, no font, no address."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from anymask.table import Figure, Table

from .renderer import Drawing


class Section(NamedTuple):
    """`body` is HTML; the other two are text."""

    title: str
    intro: str
    body: str

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z]+", "-", self.title.lower()).strip("-")


def card(title: str, body: str, caption: str = "", *, wide: bool = False, level: int = 3) -> str:
    """A figure with its title and a caption (text)."""
    words = f"<p>{escape(caption)}</p>" if caption else ""
    kind = "card wide" if wide else "card"
    return (
        f'<figure class="{kind}"><figcaption><h{level}>{escape(title)}</h{level}>{words}</figcaption>{body}</figure>'
    )


def missing(title: str, why: str, *, wide: bool = False) -> str:
    """A card that says what is not there, and what supplies it."""
    kind = "card wide" if wide else "card"
    return f'<div class="{kind} missing"><h3>{escape(title)}</h3><p>{escape(why)}</p></div>'


def details(title: str, body: str, caption: str = "") -> str:
    """A wide card that is closed until it is asked for."""
    words = f"<p>{escape(caption)}</p>" if caption else ""
    return f'<details class="card wide"><summary><h3>{escape(title)}</h3></summary>{words}{body}</details>'


def cards(*each: str) -> str:
    """Cards in rows. Those that stand beside each other get a grid of their own, which knows how many they are, so that
    none is left alone in a row of holes; those that say what is missing come after them."""
    made = []
    for wide, some in itertools.groupby(each, key=lambda card: 'class="card wide' in card[:40]):
        group = list(some)
        lacking = [] if wide else [card for card in group if 'class="card missing"' in card[:40]]
        there = [card for card in group if card not in lacking]
        made += [f'<div class="cards{"" if wide else f" n{min(len(there), 4)}"}">{"".join(there)}</div>'] * bool(there)
        made += [f'<div class="cards">{"".join(lacking)}</div>'] * bool(lacking)
    return "".join(made)


def sheet(drawings: Sequence[Drawing], layout: str, what: str) -> str:
    """Drawings side by side; narrow columns keep their order and scroll within themselves on small screens."""
    cells = "".join(f'<div class="cell">{_image(d)}<span>{escape(d.name)}</span></div>' for d in drawings)
    if layout == "blocks":
        return f'<div class="blocks">{cells}</div>'
    columns = f'<div class="sheet" style="--n:{len(drawings)}">{cells}</div>'
    return scroll(columns, what)


def scroll(body: str, what: str) -> str:
    """A region that scrolls within itself, also by keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(what)}">{body}</div>'


def table(made: Table, what: str) -> str:
    """A table; the first cell of each row is its heading."""
    numeric = [
        bool(made.rows) and all(isinstance(row[i], (int, float, Figure, type(None))) for row in made.rows)
        for i in range(len(made.columns))
    ]
    classes = ['class="n"' if right else "" for right in numeric]
    head = "".join(f'<th scope="col" {c}>{escape(str(n))}</th>' for n, c in zip(made.columns, classes))
    rows = []
    for row in made.rows:
        cells = "".join(f"<td {c}>{escape(cell_text(cell))}</td>" for cell, c in zip(row[1:], classes[1:]))
        rows.append(f'<tr><th scope="row">{escape(cell_text(row[0]))}</th>{cells}</tr>')
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in made.notes)
    return scroll(body, what) + (f'<ul class="notes">{notes}</ul>' if notes else "")


def cell_text(cell: Any) -> str:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: (figure, what it is, more about it)."""
    each = "".join(
        f'<div class="tile"><dt>{escape(what)}</dt><dd><b>{escape(value)}</b><small>{escape(more)}</small></dd></div>'
        for value, what, more in facts
    )
    return f'<dl class="tiles">{each}</dl>'


def page(*, title: str, eyebrow: str, finding: str, summary: str, sections: Sequence[Section], footer: str) -> str:
    """The whole file. `finding` is text; `summary` is HTML."""
    style = files("anymask.reports").joinpath("page.css").read_text()
    links = "".join(f'<li><a href="#{s.slug}">{escape(s.title)}</a></li>' for s in sections)
    parts = "".join(
        f'<section id="{s.slug}" aria-labelledby="{s.slug}-h"><h2 id="{s.slug}-h">{escape(s.title)}</h2>'
        f'<p class="intro">{escape(s.intro)}</p>{s.body}</section>'
        for s in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1>{escape(title)}</h1>'
        f'<p class="finding">{escape(finding)}</p>{summary}</header>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{parts}\n</main>\n'
        f"<footer><p>{escape(footer)}</p></footer>\n</body>\n</html>\n"
    )


def _image(drawing: Drawing) -> str:
    if drawing.svg is not None:
        return drawing.svg
    data = base64.b64encode(drawing.png or b"").decode()
    return f'<img alt="{escape(drawing.alt)}" src="data:image/png;base64,{data}">'
