"""A report in a real Chromium: no error, nothing asked for, no horizontal scroll on a phone, both schemes, fast."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit")]
from chromium import Chromium, executable  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from train_tools import images, run

    from anymask.reports import report

    folder = tmp_path_factory.mktemp("browser")
    data = (images(), np.arange(40) % 2)
    runs = [run(folder / name, data, steps=6, probe_labels=(1, 5)) for name in ("a", "b")]
    cells = np.random.default_rng(0).normal(size=(40, 6))
    cells[::4, 2] = np.nan
    table = run(folder / "table", cells, steps=4)
    return {
        "images": report(runs, data, folder / "images.html", samples=40),
        "table": report(table, cells, folder / "table.html", samples=40),
    }


@pytest.fixture(scope="module")
def browser():
    with Chromium() as started:
        yield started


# Every piece of text with its colour, and the first opaque background under it; svg text lies on its card.
CONTRAST = """(() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => { const p = c.slice(0, 3).map(linear);
    return 0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2]; };
  const under = e => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e), colour = e instanceof SVGElement ? style.fill : style.color;
    let back = under(e);
    const box = e.previousElementSibling;
    if (e.getAttribute('text-anchor') === 'middle' && box?.tagName === 'rect' && box.hasAttribute('fill-opacity')) {
      const fill = numbers(getComputedStyle(box).fill), a = Number(box.getAttribute('fill-opacity'));
      back = back.slice(0, 3).map((v, i) => (1 - a) * v + a * fill[i]);
    }
    const pair = [light(numbers(colour)), light(back)].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) poor.push(`${e.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""


@pytest.mark.parametrize("kind", ["images", "table"])
@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_contrast_and_every_figure_an_alternative(made, browser, kind, dark):
    page = browser.page(made[kind], dark=dark)
    assert page.evaluate(CONTRAST) == []
    bare = "[...document.querySelectorAll('img, svg')].filter(e => !(e.alt || e.getAttribute('aria-label'))).length"
    assert page.evaluate(bare) == 0 and page.evaluate("document.querySelectorAll('img, svg').length") > 5
    page.close()


@pytest.mark.parametrize("kind", ["images", "table"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_without_error_and_without_horizontal_scroll(made, browser, kind, width, dark):
    page = browser.page(made[kind], width=width, dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.errors == []
    assert [r for r in page.requests if not r.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.seconds < 2
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 384) == dark
    page.close()
