"""Plots as inline SVG, drawn with matplotlib, in the colours and fonts of the page.

Colours are drawn as place-holders and become CSS variables, so that one drawing serves both colour schemes. Text stays
text. A plot is `WIDTH` units wide with text of 12: about the width of a phone, so nothing shrinks below legibility.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT = 372, 248
NAMES = ("ink", "muted", "axis", "line", "surface", "c1", "c2", "c3", "c4", "c5", "c6")
PAINT = {name: f"#0{n:x}0b0{n:x}" for n, name in enumerate(NAMES)}  # no colour of any picture
SERIES = ("c1", "c2", "c3", "c4", "c5", "c6")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (4, 1)), (0, (1, 1)))
MARKS = ("o", "s", "^", "D", "v", "P")


class Line(NamedTuple):
    """One series: values at x, with an interval where there is one. `label` is written at its end."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    paint: str = "c1"
    dash: Any = "-"
    mark: str | None = None


@contextmanager
def axes(*, width: float = WIDTH, height: float = HEIGHT, what: str = "", **more: Any) -> Iterator[tuple[Any, Any]]:
    """A figure without a window, and its axes in the style of the page; `what` names the vertical axis, above it."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 12.0,
        "axes.edgecolor": PAINT["axis"],
        "axes.labelcolor": PAINT["muted"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "xtick.color": PAINT["axis"],
        "xtick.labelcolor": PAINT["muted"],
        "ytick.color": PAINT["axis"],
        "ytick.labelcolor": PAINT["muted"],
        "ytick.major.size": 0.0,
        "text.color": PAINT["ink"],
        "grid.color": PAINT["line"],
        "grid.linewidth": 1.0,
        "hatch.color": PAINT["muted"],
        "hatch.linewidth": 0.8,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        plot = figure.subplots(**more)
        if what:
            plot.set_title(what, loc="left", fontsize=12, color=PAINT["muted"], pad=8)
        yield figure, plot


def curves(lines: Sequence[Line], *, what: str, along: str, alt: str, ticks: Sequence[str] | None = None,
           percent: bool = False, log: bool = False) -> str:  # fmt: skip
    """Lines with their labels at their ends. With `ticks` the places along x are 0, 1, ... and have these names;
    `log`: x is logarithmic."""
    with axes(what=what) as (figure, plot):
        plot.grid(axis="y")
        for line in lines:
            x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
            plot.plot(x, y, color=PAINT[line.paint], linestyle=line.dash, linewidth=1.8, marker=line.mark, markersize=5)
            if line.low is not None and line.high is not None:
                plot.fill_between(x, np.asarray(line.low, dtype=float), np.asarray(line.high, dtype=float),
                                  color=PAINT[line.paint], alpha=0.16, linewidth=0)  # fmt: skip
        plot.set_xlabel(along)
        if log:
            plot.set_xscale("log")
        if ticks is None:
            if not log:
                plot.locator_params(axis="x", nbins=5)
            plot.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else f"{value:g}")
        else:
            plot.set_xticks(range(len(ticks)), list(ticks))
        if percent:
            plot.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        _end_labels(figure, plot, lines)
        return svg(figure, alt)


def cloud(points: np.ndarray, groups: np.ndarray, names: Sequence[str], *, alt: str, marks: bool = True) -> str:
    """Points (N, 2) of groups (N,), numbers into `names`, -1 = none; each group has its own mark and colour, and its
    name at its median. At most 10 groups are told apart; others are drawn as those without."""
    known, counts = np.unique(groups[groups >= 0], return_counts=True)
    shown = sorted(known[np.argsort(-counts, kind="stable")][:10].tolist())
    with axes(height=WIDTH * 0.86) as (figure, plot):
        plot.set_axis_off()
        figure.set_layout_engine("none")  # nothing stands outside: the points may fill the figure
        plot.set_position([0.01, 0.01, 0.98, 0.98])
        rest = ~np.isin(groups, shown)
        if rest.any():
            plot.plot(*points[rest].T, linestyle="", marker=".", markersize=4, color=PAINT["axis"])
        for n, group in enumerate(shown):
            colour, mark = PAINT[SERIES[n % 5]], MARKS[n % 5]
            fill = colour if n < 5 else PAINT["surface"]
            mine = points[groups == group]
            plot.plot(*mine.T, linestyle="", marker=mark, markersize=4.2, color=colour, markerfacecolor=fill,
                      markeredgewidth=0.9)  # fmt: skip
        centres = [np.median(points[groups == group], axis=0) for group in shown] if marks else []
        for group, (x, y) in zip(shown, _apart(centres, points)):
            plot.text(x, y, names[group], ha="center", va="center", fontsize=13, fontweight="bold", gid="halo")
        return svg(figure, alt)


def _apart(places: Sequence[np.ndarray], points: np.ndarray) -> list[np.ndarray]:
    """Places of labels, moved away from each other where they would overlap."""
    room = 0.055 * np.ptp(points, axis=0).max()
    moved = [np.array(place, dtype=float) for place in places]
    for _ in range(60):
        for a in range(len(moved)):
            for b in range(a):
                between = moved[a] - moved[b]
                away = float(np.hypot(*between))
                if away < room:
                    push = (between / away if away else np.array([0.0, 1.0])) * (room - away) / 2
                    moved[a], moved[b] = moved[a] + push, moved[b] - push
    return moved


def _end_labels(figure: Any, plot: Any, lines: Sequence[Line]) -> None:
    """Each label right of its line's last point, moved apart where they would overlap."""
    low, high = plot.get_ylim()
    room = 14 / (HEIGHT * 0.68) * (high - low)  # of one line of text, in data units
    ends = sorted((float(np.asarray(line.y)[-1]), n) for n, line in enumerate(lines) if len(line.y) and line.label)
    places = [y for y, _ in ends]
    for n in range(1, len(places)):
        places[n] = max(places[n], places[n - 1] + room)
    over = max(0.0, places[-1] - high) if places else 0.0
    for n in reversed(range(len(places))):
        places[n] = min(places[n] - over, places[n]) if n == len(places) - 1 else min(places[n], places[n + 1] - room)
    for (_, n), y in zip(ends, places):
        line = lines[n]
        plot.annotate(line.label, (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", color=PAINT[line.paint], fontweight="bold",
                      annotation_clip=False)  # fmt: skip


def svg(figure: Any, alt: str) -> str:
    """A figure as inline SVG with a text alternative."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<title>.*?</title>", "", text, flags=re.S)
    text = re.sub(r' transform="rotate\(-0 [^"]*"|<defs>\s*</defs>', "", text)
    text = re.sub(r'(<g) id="(?!halo)[^"]*"', r"\1", text)
    text = text.replace('id="halo"', 'class="halo"')
    mark = hashlib.sha256((alt + text).encode()).hexdigest()[:8]  # ids are unique in a page of many drawings
    text = re.sub(r'\bid="([^"]+)"', rf'id="{mark}\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{mark}", text).replace("xlink:href", "href")
    for name, colour in PAINT.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", _font, text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub(r"(\d+\.\d{2})\d+", r"\1", text)
    head = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {figure.get_figwidth() * 72:g} '
    text = f'{head}{figure.get_figheight() * 72:g}">' + text[text.index(">") + 1 :]
    return re.sub(r"\n\s*", "\n", text).strip()


def _font(found: re.Match[str]) -> str:
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}px"
