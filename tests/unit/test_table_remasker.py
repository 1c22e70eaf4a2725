"""Tokens of a table, remasker's loss against a plain reference, and imputation."""

import numpy as np
import pandas
import pytest
import torch
from click.testing import CliRunner

from anymask import keyed
from anymask.cli import main
from anymask.contract import SMALL, check_recipe
from anymask.contract.data import batch_of, example_schema, picture_schema
from anymask.data import SchemaError, infer_schema, open_source
from anymask.evaluation import impute
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.inputs import raw_input
from anymask.parts.decoders import LinearHead, Transformer
from anymask.recipe import P, RecipeError, Size, find
from anymask.run import Run
from anymask.train import TrainError, plan, pretrain, reconstruct

SIZE = Size(16, 1, 2, 16, 1, 2)


def table(n=40, f=5, gaps=0.3, seed=0):
    """Rows that one number decides, and which cells are missing."""
    rng = np.random.default_rng(seed)
    x = 10 + 3 * rng.random((n, 1)) * np.arange(1, f + 1)
    return np.where(rng.random((n, f)) < gaps, np.nan, x), x


def model_of(array, recipe="remasker", **changes):
    source = open_source(array)
    torch.manual_seed(0)
    return find(recipe).but(changes).build(infer_schema(source), SIZE), source


def sample(array):
    index = torch.arange(len(array))
    return {"table": torch.tensor(array, dtype=torch.float32), "index": index, "key": keyed.keys(0, 0, index)}


def test_cells_are_scaled_and_missing_ones_are_not_valid():
    array = np.array([[1.0, 10, 7], [np.nan, 30, 7], [3, 20, 7]])
    for standardise, shift, scale in (
        (False, [1, 10, 7], [2, 20, 1]),
        (True, [2, 20, 7], [1, np.std([10, 30, 20]), 1]),
    ):
        model, _ = model_of(array, **{"tokenizer.standardise": standardise})
        tokens = model.tokenizer(sample(array))
        expected = np.nan_to_num((array - shift) / scale)
        np.testing.assert_allclose(tokens.x["table"][..., 0], expected, atol=1e-6)
        assert tokens.valid.tolist() == (~np.isnan(array)).tolist() and tokens.grid == (3,)
        back = np.where(np.isnan(array), shift, array)
        np.testing.assert_allclose(model.tokenizer.raw(tokens.x["table"]), back, rtol=1e-6)


def test_without_gaps_nothing_is_masked_as_missing():
    model, _ = model_of(table(gaps=0)[0])
    full = sample(table(4, gaps=0)[0])
    assert model.tokenizer(full).valid is None and model.hide(full).mask.keep_ok is None
    assert model.tokenizer(sample(table(4)[0])).valid is not None  # a batch may have gaps that training had not


def test_a_large_number_beside_a_small_spread_keeps_its_digits():
    array = np.array([[2001.0, 1], [2002, 2], [2003, 3]])
    tokens = model_of(array)[0].tokenizer(sample(array))
    np.testing.assert_allclose(tokens.x["table"][:, 0, 0], [0, 0.5, 1])


@pytest.mark.parametrize("ratio, observed", [(0.5, False), (0.5, True), (0.0, False)])
def test_what_is_hidden(ratio, observed):
    array = table(200, 8)[0]
    model, _ = model_of(array, **{"mask.ratio": ratio, "mask.observed": observed})
    mask = model.hide(sample(array)).mask
    there = torch.tensor(~np.isnan(array))
    count = there.sum(1)
    assert not (mask.visible & ~there).any() and torch.equal(mask.ask_ok, there)
    shown = (count / 2).floor() if observed else count.clamp(max=4) if ratio else count
    assert torch.equal(mask.visible.sum(1), shown.long())


def test_loss_is_the_mean_of_hidden_plus_the_mean_of_shown_cells():
    array = table(16, 6)[0]
    model, _ = model_of(array)
    batch = sample(array)
    step = model(batch)
    low, high = np.nanmin(array, 0), np.nanmax(array, 0)
    square = (step.pred["cells"][..., 0].detach().numpy() - (array - low) / (high - low)) ** 2
    shown = step.mask.visible.numpy()
    hidden = ~shown & ~np.isnan(array)
    assert step.loss.item() == pytest.approx(square[hidden].mean() + square[shown].mean(), rel=1e-5)
    assert ((step.pred["cells"] > 0) & (step.pred["cells"] < 1)).all()
    step.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_row_without_cells_makes_no_nan():
    array = table(8)[0]
    array[2] = np.nan
    model, source = model_of(array)
    step = model(sample(array))
    assert step.loss.isfinite() and step.pred["cells"].isfinite().all()
    assert model.embed(sample(array)).mean().isfinite().all()
    assert np.isfinite(impute(model, source)).all()


@pytest.mark.parametrize(
    "changes", [{}, {"decoder": P(Transformer)}, {"corruption": "Replace", "decoder": P(LinearHead)}]
)
def test_imputing_a_batch_equals_imputing_its_rows(changes):
    array = table(30)[0]
    model, source = model_of(array, **changes)
    whole = impute(model, source)
    for row in (0, 7, 29):
        np.testing.assert_allclose(impute(model, open_source(array[[row, row]]))[0], whole[row], rtol=1e-5)
    np.testing.assert_allclose(impute(model, source, batch_size=7), whole, rtol=1e-5)
    there = ~np.isnan(array)
    np.testing.assert_array_equal(whole[there], array[there])
    assert np.isfinite(whole).all() and model.training


def test_imputing_sees_no_missing_cell_and_every_observed_one():
    array = table(3, gaps=0)[0]
    model, _ = model_of(np.concatenate([array, table()[0]]))
    gap = array.copy()
    gap[:, 1] = np.nan
    first = impute(model, open_source(gap))
    gap[:, 3] += 1
    assert (np.abs(impute(model, open_source(gap)) - first)[:, 1] > 1e-9).all()


def test_columns_are_matched_by_name_and_lone_rows_work():
    frame = pandas.DataFrame(table()[0], columns=list("abcde"))
    model, source = model_of(frame)
    whole = impute(model, source)
    np.testing.assert_allclose(impute(model, frame[list("edcba")])[:, ::-1], whole, rtol=1e-6)
    np.testing.assert_allclose(impute(model, frame.iloc[[4]])[0], whole[4], rtol=1e-6)
    with pytest.raises(SchemaError, match="lacks 1 of the 5 columns"):
        impute(model, frame[list("abcd")])
    with pytest.raises(EvaluateError, match="predicts the cells of a table"):
        impute(find("mae").build(picture_schema(), SMALL), frame)


def test_a_column_that_was_empty_in_training_stays_missing():
    array = table()[0]
    array[:, 2] = np.nan
    model, source = model_of(array)
    assert "nothing is learnt" in infer_schema(source).fields["table"].notes[0]
    filled = impute(model, source)
    assert np.isnan(filled[:, 2]).all() and np.isfinite(np.delete(filled, 2, 1)).all()


def test_training_imputes_better_than_the_mean(tmp_path):
    array, truth = table(200, 5)
    size = Size(16, 1, 2, 16, 1, 2)
    how = dict(size=size, batch_size=50, steps=60, changes={"optimiser.lr": 5e-3}, progress=False)
    run = pretrain(array, out=tmp_path / "r", **how)
    assert run.recipe.slug == "remasker"
    gone = np.isnan(array)
    error = lambda filled: np.sqrt(np.mean((filled - truth)[gone] ** 2))
    assert error(impute(run, array)) < 0.7 * error(np.broadcast_to(np.nanmean(array, 0), array.shape))
    assert not (run.folder / "pictures").exists()
    with pytest.raises(TrainError, match="impute gives the numbers"):
        reconstruct(run, array, tmp_path / "p.png")
    assert Run.open(run.folder).schema == run.schema


def test_a_file_is_imputed_as_it_was_opened_for_training(tmp_path):
    frame = pandas.DataFrame(table(60, 4, gaps=0.0)[0], columns=list("abcd")).astype(object)
    frame.iloc[::3, 1] = "unknown"
    frame.to_csv(tmp_path / "t.csv", index=False)
    opening = {"na_values": ("unknown",)}
    run = pretrain(tmp_path / "t.csv", out=tmp_path / "r", size=SIZE, steps=2, progress=False, **opening)
    filled = impute(run, tmp_path / "t.csv")
    assert np.isfinite(filled).all() and filled.dtype == np.float64
    np.testing.assert_allclose(filled[1], frame.iloc[1].astype(float))


def test_default_recipe_and_size_follow_the_kind(tmp_path):
    made = plan(table()[0], out=tmp_path / "r")
    assert (made.recipe.slug, made.size_name, made.epochs) == ("remasker", "micro", 600)
    assert plan(np.zeros((50, 8, 8), np.uint8), out=tmp_path / "r").recipe.slug == "mae"
    with pytest.raises(RecipeError, match=r"'mae' takes data of kind 'image', and array has table.*remasker"):
        plan(table()[0], recipe="mae")
    other = plan(table(f=12)[0], recipe="mae", changes={"tokenizer": "Cells"}, out=tmp_path / "r")
    assert "a table is used as it is: not augmented" in other.notes


def test_raw_input_of_probes_is_standardised_with_indicators():
    array = table()[0]
    source = open_source(array)
    raw = raw_input(source, infer_schema(source))
    gone = np.isnan(array)
    expected = np.nan_to_num((array - np.nanmean(array, 0)) / np.nanstd(array, 0))
    np.testing.assert_allclose(raw, np.concatenate([expected, gone], 1), atol=1e-5)


def test_made_up_tables_have_gaps_and_serve_other_recipes():
    schema = example_schema("table")
    batch = batch_of(schema)
    assert any(schema.fields["table"].gaps) and batch["table"].isnan().any() and not batch["table"].isnan().all(1).any()
    recipe = find("mae").but({"tokenizer": "Cells", "mask.fewest": 1, "augment": None})
    for line in check_recipe(recipe, schema=schema, items=("no leak", "reach", "padding", "gradients", "repeats")):
        assert "passed" in line


def test_command_line(tmp_path):
    pandas.DataFrame(table()[0], columns=list("abcde")).assign(kind="x", note=7).to_csv(tmp_path / "t.csv", index=False)
    words = ["pretrain", str(tmp_path / "t.csv"), "--epochs", "1", "--ignore", "note", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    run = Run.open(tmp_path / "run")
    assert run.recipe.slug == "remasker" and run.schema.fields["table"].columns == (*"abcde", "kind")
    assert run.settings["opening"]["ignore"] == ["note"]
