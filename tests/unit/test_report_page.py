"""The report: one file, nothing from outside, a text alternative for every figure, figures of the run itself."""

import itertools
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from train_tools import images, run

from anymask.data import SchemaError
from anymask.reports import ReportError, compare_runs, page, report
from anymask.reports.reporting import percent
from anymask.run import RunError
from anymask.table import Figure
from anymask.train import metrics

ON = {"c1", "c2", "c3", "c4", "c5", "c6", "ink", "muted", "accent"}  # written as text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = (images(), np.arange(40) % 2)
    return run(folder / "one", data, steps=8, probe_labels=(1, 5)), data


@pytest.fixture(scope="module")
def html(trained, tmp_path_factory):
    made, data = trained
    return report(made, data, tmp_path_factory.mktemp("out") / "r.html", samples=40).read_text()


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_nothing_comes_from_outside(html):
    for tag, attrs in Reader(html).tags:
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "action"):
            assert name not in attrs or attrs[name].startswith(("#", "data:")), (tag, attrs[name][:60])
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_samples_are_drawn_by_models_that_can(html):
    assert "New samples" not in html


def test_every_picture_has_a_text_alternative(html):
    found = [a for t, a in Reader(html).tags if t in ("img", "svg")]
    assert len(found) > 10
    assert all(len(a.get("alt") or a.get("aria-label") or "") > 8 for a in found)


def test_headings_do_not_skip_a_level(html):
    levels = [int(t[1]) for t, _ in Reader(html).tags if re.fullmatch(r"h[1-6]", t)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_ids_are_unique_and_references_are_there(html):
    tags = Reader(html).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in tags if a.get("href", "").startswith("#")} <= set(ids)


def test_figures_are_those_of_the_run(html, trained):
    rows = metrics.read(trained[0].folder / "metrics.csv")
    assert f"{rows[0]['loss']:.3g} at the start, {rows[-1]['loss']:.3g} over the last tenth" in html


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_are_legible_in_both_schemes(scheme):
    css = files("anymask.reports").joinpath("page.css").read_text()
    colours = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]
    found = colours[scheme]
    for back in ("bg", "surface"):
        assert all(contrast(found[name], found[back]) >= 4.5 for name in ON)
        assert contrast(found["axis"], found[back]) >= 3


def contrast(a, b):
    """WCAG 2.2, relative luminance."""

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(
            w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), parts)
        )

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_errors_name_the_mend(trained, tmp_path):
    made, _ = trained
    with pytest.raises(RunError, match="anymask pretrain"):
        report(tmp_path, out=tmp_path / "r.html")
    with pytest.raises(ReportError, match="name one run"):
        report([], out=tmp_path / "r.html")
    with pytest.raises(ReportError, match="name 6 or fewer"):
        report([made] * 7, out=tmp_path / "r.html")
    with pytest.raises(SchemaError):
        report(made, images(channels=3), tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_what_is_missing_is_said(trained, tmp_path):
    made, data = trained
    text = report(made, (data[0][:12], data[1][:12]), tmp_path / "few.html").read_text()
    assert "t-SNE needs at least 30 samples" in text
    assert "trained on an object in memory" in report(made, out=tmp_path / "none.html").read_text()


def test_comparing_names_what_differs(trained, tmp_path):
    other = run(tmp_path / "two", images(), steps=4, changes={"mask.ratio": 0.5})
    table = compare_runs([trained[0], other])
    assert list(table.columns[1:]) == ["one", "two"]
    assert ("mask.ratio *", "0.75", "0.5") in [tuple(row) for row in table.rows]
    assert any("two has no recorded evaluation" in note for note in table.notes)


def test_a_run_without_its_records_says_which_command_supplies_them(trained, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(trained[0].folder, bare)
    for name in ("metrics.csv", "history.npz", "evaluation.json"):
        (bare / name).unlink()
    text = report(bare, out=tmp_path / "r.html").read_text()
    assert "no metrics.csv in the folder; anymask pretrain writes it" in text
    assert "kept no history.npz; anymask pretrain writes it while it trains" in text
    assert f"anymask report {bare} --source SOURCE" in text


def test_labels_that_cannot_be_measured_with_are_said(trained, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(trained[0].folder, bare)
    (bare / "evaluation.json").unlink()
    one = report(bare, (images(), np.zeros(40, dtype=int)), tmp_path / "one.html").read_text()
    assert re.search(r"The features of bare could not be measured: [^<]*class", one)
    none = report(bare, images(), tmp_path / "none.html").read_text()
    assert "has no labels; name the column or file that holds them: --label" in none


def test_runs_of_different_kinds_stand_side_by_side(trained, tmp_path):
    cells = np.random.default_rng(0).normal(size=(40, 5))
    table = run(tmp_path / "table", cells, steps=4)
    text = report([trained[0], table], out=tmp_path / "r.html").read_text()
    assert "2 runs side by side" in text and "different targets, so their losses do not compare" in text
    assert "trained on an object in memory" in text


def test_a_card_is_never_left_beside_one_that_is_missing():
    full, lacking = page.card("a", ""), page.missing("b", "c")
    assert page.cards(full, lacking, full).count('class="cards') == 2
    assert 'class="cards n2"' in page.cards(full, lacking, full)


def test_interval_follows_the_percentage():
    assert percent(Figure(67.66, 66.0, 69.4)) == "67.7 % (66.0 to 69.4)"
    assert percent(Figure(67.66)) == "67.7 %"
