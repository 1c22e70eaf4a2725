"""Rows of a table as they are drawn, and what a table's run is compared with."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_tools import run

from anymask.reports import Panel, renderer_of, report
from anymask.reports.tables import MOST, figure
from anymask.train import watch
from anymask.train.measure import first_batch


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(60, 5))
    cells[::3, 1] = np.nan
    return run(tmp_path_factory.mktemp("runs") / "table", cells, steps=6), cells


def tokens(made):
    trained, cells = made
    model = trained.model()
    from anymask.data import open_source

    return model, first_batch(open_source(cells[:3]), trained.schema, 3)


def test_figures_in_cells_are_in_the_units_of_the_data(made):
    model, batch = tokens(made)
    x = model.tokenizer(batch).x["table"]
    (drawing,) = renderer_of(model).draw([Panel("original", x)])
    texts = re.findall(r">([^<>]+)</text>", drawing.svg)
    assert texts[:4] == ["column 0", *(figure(float(v)) for v in made[1][:3, 0])]


def test_hidden_missing_and_predicted_cells_look_different(made):
    model, batch = tokens(made)
    x = model.tokenizer(batch).x["table"]
    x = torch.where(batch["table"].isnan()[..., None], torch.nan, x)
    shown, made_up = torch.ones(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    shown[:, 2], made_up[:, 3] = False, True
    first, second = renderer_of(model).draw([Panel("original", x), Panel("step 1", x + 0.1, shown, predicted=made_up)])
    assert first.svg.count("stroke-dasharray") == 1 and "1 cells missing" in first.alt  # row 0 of the three
    assert second.svg.count('fill="var(--line)"') == 3 and "3 cells hidden" in second.alt
    assert second.svg.count('stroke="var(--c2)"') == 3
    true = figure(float(made[1][0, 3]))
    assert f"({true})</text>" in second.svg and "3 cells predicted, off by" in second.alt


def test_wide_tables_say_how_many_columns_are_left_out():
    count = MOST + 7
    field = SimpleNamespace(columns=tuple(f"a<{n}" for n in range(count)), shape=(count,), lows=[0.0] * count,
                            highs=[1.0] * count, more={})  # fmt: skip
    tokenizer = SimpleNamespace(field="t", raw=lambda x: x[..., 0].double(), renderer="anymask.reports.tables:Rows")
    model = SimpleNamespace(tokenizer=tokenizer, schema=SimpleNamespace(fields={"t": field}))
    (drawing,) = renderer_of(model).draw([Panel("original", torch.rand(2, count, 1))])
    assert "and 7 more columns" in drawing.svg and "a&lt;0" in drawing.svg and "a<" not in drawing.svg


@pytest.mark.parametrize(("value", "text"), [(1234567.0, "1.2e+06"), (152.4, "152"), (0.0745, "0.0745"), (0.0, "0")])
def test_figures_are_short(value, text):
    assert figure(value) == text


def test_a_page_of_a_table_with_gaps_is_whole(made, tmp_path):
    trained, cells = made
    text = report(trained, cells, tmp_path / "r.html").read_text()
    assert "names no renderer" not in text and "nan" not in re.sub(r"nan[a-z]", "", text.lower())
    assert "cells predicted, off by" in text and "for the best constant prediction" in text


def test_the_constant_is_on_the_scale_of_the_loss(made):
    """A model that predicts the mean of each scored cell has the loss that is named."""
    model, batch = tokens(made)
    with watch.evaluating(model):
        step = model(batch)
        pred = step.pred["cells"]
        ok = step.mask.ask_ok if step.mask.ask_ok is not None else torch.ones(pred.shape[:2], dtype=torch.bool)
        losses = []
        for value in (step.goal["cells"][ok].mean(), step.goal["cells"][ok].median()):
            again = step._replace(pred={"cells": torch.full_like(pred, value)})
            again = again._replace(error=model.errors(again))
            losses.append((again.error["cells"][ok].mean(), model.total(again._replace(aux={}))))
    _, ours = min(losses)
    found = watch.constant_loss(model, step)
    assert found == pytest.approx(ours.item(), rel=1e-5)
