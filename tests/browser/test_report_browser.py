"""A report in a real Chromium: no error, nothing asked for, no horizontal scroll on a phone, both schemes, fast."""

import sys
from pathlib import Path

import pytest
import torch

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
    data = (images(), torch.arange(40).numpy() % 2)
    runs = [run(folder / name, data, steps=6, probe_labels=(1, 5)) for name in ("a", "b")]
    return report(runs, data, folder / "report.html", samples=40)


@pytest.fixture(scope="module")
def browser():
    with Chromium() as started:
        yield started


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_without_error_and_without_horizontal_scroll(made, browser, width, dark):
    page = browser.page(made, width=width, dark=dark)
    assert page.errors == []
    assert [r for r in page.requests if not r.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.seconds < 2
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 384) == dark
    page.close()
