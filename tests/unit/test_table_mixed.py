"""Tables with categories, dates and numbers: how they are read, numbered, learnt, imputed and drawn."""

import numpy as np
import pandas
import pyarrow
import pytest
import torch

import anymask
from anymask import keyed
from anymask.contract import SMALL, check_recipe
from anymask.contract.data import batch_of
from anymask.data import DataError, Schema, SchemaError, infer_schema, open_source, ordered_loader
from anymask.data.kinds._categories import MOST, REST, categories_of
from anymask.data.kinds.table import cells_of, table_of
from anymask.evaluation import evaluate, impute
from anymask.evaluation.inputs import raw_input
from anymask.parts.losses import choice
from anymask.recipe import Size, find
from anymask.reports import Panel, renderer_of
from anymask.sklearn import MaskedEncoder, MaskedImputer

SIZE = Size(16, 1, 2, 16, 1, 2)
COLOURS = ("blue", "green", "red")


def frame(n=60, seed=0, gaps=0.2):
    """Rows of which the colour decides the numbers and the flag; the columns are mixed in type and order."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 3, n)
    made = pandas.DataFrame({
        "colour": np.array(COLOURS, dtype=object)[place],
        "length": 10.0 * place + rng.normal(size=n),
        "big": place > 1,
        "when": pandas.Timestamp("2024-01-01") + pandas.to_timedelta(place * 40, unit="D"),
        "grade": pandas.Categorical(place + 1),
        "id": [f"row {i}" for i in range(n)],
    })  # fmt: skip
    made["big"] = made["big"].astype("boolean")
    for column in ("colour", "length", "big", "when", "grade"):
        made.loc[rng.random(n) < gaps, column] = None
    return made


@pytest.fixture(scope="module")
def source():
    return open_source(frame(), kind="table")


def model_of(source, slug="remasker", seed=0):
    torch.manual_seed(seed)
    return find(slug).build(infer_schema(source), SIZE)


def sample_of(source, count=8):
    schema = infer_schema(source)
    return next(iter(ordered_loader(source.subset(np.arange(count)), schema, batch_size=count)))


# Reading.


def test_numbers_come_first_then_categories_by_name(source):
    names = ("length", "when (days)", "when (month)", "when (weekday)", "colour", "big", "grade")
    table = table_of(source)
    assert table.names == names
    assert table.levels == {"colour": COLOURS, "big": ("false", "true"), "grade": ("1", "2", "3")}
    given, cells = frame(), cells_of(source)
    for place, name in ((4, "colour"), (5, "big"), (6, "grade")):
        for cell, value in zip(cells[:, place], given[name]):
            if value is None or value is pandas.NA or value != value:
                assert np.isnan(cell)
            else:
                assert table.levels[name][int(cell)] == str(value).lower()
    days = given["when"].map(lambda v: (v - pandas.Timestamp("1970-01-01")).days if v is not pandas.NaT else np.nan)
    np.testing.assert_array_equal(cells[:, 1], days)
    there = given["when"].notna().to_numpy()
    np.testing.assert_array_equal(cells[there, 2], given["when"][there].dt.month)
    np.testing.assert_array_equal(cells[there, 3], given["when"][there].dt.weekday)
    assert np.isnan(cells[~there, 1:4]).all()
    left, dates = sorted(source.notes, key=len, reverse=True)
    assert "left out: 'id'" in left and "'when' are read as numbers: when (days), when (month)" in dates


def test_files_hold_the_same(tmp_path, source):
    given = frame()
    given.to_parquet(tmp_path / "t.parquet")
    given.to_csv(tmp_path / "t.csv", index=False)
    given.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    for path in (tmp_path / "t.parquet", tmp_path / "t.csv", tmp_path / "t.tsv"):
        other = open_source(path, kind="table", categories="grade")
        assert set(table_of(other).levels) == {"colour", "big", "grade"}, path
        for name in table_of(source).names:
            ours, theirs = (cells_of(s)[:, table_of(s).names.index(name)] for s in (source, other))
            np.testing.assert_allclose(ours, theirs, err_msg=f"{path.name} {name}")
    plain = open_source(tmp_path / "t.csv", kind="table")  # integers are numbers, unless they are said to be categories
    assert "grade" in table_of(plain).names and "grade" not in table_of(plain).levels


def test_times_of_day_are_hours():
    moments = ["2024-02-29 12:30:00", "2024-03-01 00:00", None, "1969-12-31 18:00:00"] * 3
    cells = cells_of(open_source(pyarrow.table({"a": moments, "b": list("xyxx") * 3}), kind="table"))
    np.testing.assert_allclose(cells[:4, 0], [19782 + 12.5 / 24, 19783, np.nan, -0.25])
    np.testing.assert_array_equal(cells[:4, 1:3], [[2, 3], [3, 4], [np.nan, np.nan], [12, 2]])
    np.testing.assert_allclose(cells[:4, 3], [12.5, 0, np.nan, 18], atol=1e-9)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"a": ["x", "y"] * 3}, r"fewer than two columns of numbers or categories \(it has: 'a'\)"),
        ({"a": [f"n{i}" for i in range(6)], "b": [1.0] * 6}, "fewer than two"),
        ({"a": ["x", "y"] * 3, "b": ["1", "2", "3", "4", "?", "low"]}, r"'b' of table holds text in 1 of 6 rows"),
        ({"a": ["x", "y"] * 3, "b": ["2024-02-30"] * 6}, "holds a date that is none"),
    ],
)
def test_what_is_refused(columns, message):
    with pytest.raises(DataError, match=message):
        open_source(pyarrow.table(columns), kind="table")
    with pytest.raises(DataError, match="no column 'z' for categories="):
        open_source(pyarrow.table({"a": ["x", "y"] * 3, "c": [1, 2] * 3}), kind="table", categories="z")


def test_rare_categories_share_one():
    rng = np.random.default_rng(0)
    words = np.array([f"w{i:04d}" for i in range(300)])
    chosen = np.concatenate([np.repeat(words[:150], 4), np.repeat(words[150:], 2)])
    given = pyarrow.table({"word": rng.permutation(chosen), "x": rng.normal(size=len(chosen))})
    given = open_source(given, kind="table")
    schema = infer_schema(given)
    group = categories_of(schema.fields["table"])["word"]
    assert group.size == MOST and group.rest and group.names[-1] == REST
    assert group.names[:-1] == tuple(words[: MOST - 1]) and sum(group.counts) == len(chosen)
    assert any("300 categories: the 99 most frequent are told apart" in note for note in schema.fields["table"].notes)
    assert Schema.from_json(schema.to_json()) == schema
    batch = next(iter(ordered_loader(given, schema, batch_size=len(chosen))))["table"]
    assert batch[:, 1].max() == MOST - 1 and (batch[:, 1] == MOST - 1).sum() == group.counts[-1]


def test_a_column_of_categories_without_a_cell_is_left_alone(source):
    gone = frame().assign(colour=None, grade=pandas.Categorical([None] * 60, categories=[1, 2]))
    given = open_source(gone, kind="table")
    empty = [table_of(given).names.index(name) for name in ("colour", "grade")]
    assert set(table_of(given).levels) == {"big"} and np.isnan(cells_of(given)[:, empty]).all()
    part = source.subset(np.flatnonzero(np.isnan(cells_of(source)[:, 4]))[:2])  # here no colour is there
    model = model_of(part)
    assert categories_of(infer_schema(part).fields["table"])["colour"].size == 1
    assert model.embed(sample_of(part, 2)).mean().isfinite().all()
    empty = frame(4, seed=9).assign(colour=None)  # nothing says that it would hold categories
    assert all(value is None or value != value for value in impute(model, empty)[:, 0])
    assert set(impute(model_of(source), empty)[:, 0]) <= set(COLOURS)


def test_unseen_categories_count_as_missing_or_as_rare(source):
    schema = infer_schema(source)
    other = frame(20, seed=5)
    other["colour"] = ["violet", "red"] * 10
    given = open_source(other, kind="table")
    notes = schema.check(infer_schema(given))
    assert any("'colour' of table has categories that were not met" in n and "missing: 'violet'" in n for n in notes)
    column = next(iter(ordered_loader(given, schema, batch_size=20)))["table"][:, 4]
    np.testing.assert_array_equal(column, [np.nan, 2] * 10)
    numbers = other.assign(colour=np.arange(20.0))
    with pytest.raises(SchemaError, match=r"'colour' holds numbers in table and categories in table.*--category"):
        schema.check(infer_schema(open_source(numbers, kind="table")))
    with pytest.raises(SchemaError, match="holds numbers"):
        impute(model_of(source), numbers)


def test_schema_describe_fingerprint_and_raw_input(source):
    schema = infer_schema(source)
    rows = dict(schema.describe())
    assert rows["table"].startswith("4 columns of numbers, 3 of categories; missing:")
    assert rows["  colour"].startswith("3 categories: ") and "% missing" in rows["  colour"]
    swapped = frame().replace({"colour": {"red": "blue", "blue": "red"}})
    assert open_source(swapped, kind="table").fingerprint() != source.fingerprint()
    x = raw_input(source, schema)
    assert x.shape == (60, 2 * 4 + 4 + 3 + 4) and (x[:, 8:12].sum(1) == 1).all()
    np.testing.assert_array_equal(x[:, 11], frame()["colour"].isna())


# Learning.


@pytest.mark.parametrize("slug", ["remasker", "t-jepa"])
@pytest.mark.parametrize("only", [False, True])
def test_contract(source, slug, only):
    given = open_source(frame()[["colour", "big", "grade"]], kind="table") if only else source
    schema = infer_schema(given)
    items = ("no leak", "reach", "padding", "order", "gradients", "stored", "fits", "compiles")
    for line in check_recipe(slug, schema=schema, size=SMALL, batch=batch_of(schema), items=items):
        assert "passed" in line


def test_each_column_has_a_softmax_of_its_own(source):
    model, sample = model_of(source), sample_of(source)
    sample["key"] = keyed.keys(0, 0, sample["index"])
    step = model(sample)
    assert step.tokens.x["categories"].shape == (8, 3) and step.tokens.kind.tolist() == [0] * 4 + [1] * 3
    logits, sizes = step.pred["categories"].detach(), [3, 2, 3]
    losses = []
    for place, (first, size) in enumerate(zip((0, 3, 5), sizes)):
        truth = sample["table"][:, 4 + place]
        there = ~truth.isnan()
        own = logits[:, 4 + place, first : first + size]
        expected = torch.nn.functional.cross_entropy(own[there], truth[there].long(), reduction="none")
        torch.testing.assert_close(step.error["categories"][there, 4 + place], expected)
        losses.append(there.sum())
    numbers = ~sample["table"][:, :4].isnan()
    square = (step.pred["cells"] - step.goal["cells"]).square()[:, :4, 0][numbers]
    torch.testing.assert_close(step.error["cells"][:, :4][numbers], square)
    assert (step.pred["cells"] > 0).all() and (step.pred["cells"] < 1).all() and logits.min() < 0


def test_choice_is_zero_where_nothing_can_be_chosen():
    goal = torch.tensor([[[1.0, 0, torch.nan], [torch.nan] * 3]])
    pred = torch.tensor([[[0.0, 0, 50], [1, 2, 3]]], requires_grad=True)
    loss = choice(pred, goal)
    torch.testing.assert_close(loss, torch.tensor([[np.log(2), 0]], dtype=torch.float32))
    loss.sum().backward()
    assert pred.grad.isfinite().all() and (pred.grad[0, 1] == 0).all() and pred.grad[0, 0, 2] == 0


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    how = dict(size=SIZE, batch_size=30, steps=80, changes={"optimiser.lr": 1e-2}, progress=False, precision="fp32")
    return anymask.pretrain(source, out=tmp_path_factory.mktemp("mixed") / "run", **how)


def test_imputing_fills_categories_by_what_is_there(run, source):
    given = frame(seed=3)
    filled = impute(run, given)
    assert filled.shape == (60, 7) and filled.dtype == object
    names = list(table_of(source).names)
    for name in ("colour", "big", "grade"):
        truth = [str(v).lower() if there else None for v, there in zip(given[name], given[name].notna())]
        own = filled[:, names.index(name)]
        assert all(made == true for made, true in zip(own, truth) if true is not None)
        assert set(own) <= set(categories_of(run.schema.fields["table"])[name].names)
    lost, seen = given["colour"].isna(), given["length"].notna()
    expected = np.array(COLOURS)[np.clip(np.round(given["length"] / 10).fillna(0).astype(int), 0, 2)]
    right = (filled[:, names.index("colour")] == expected)[lost & seen]
    assert right.mean() > 0.8, right.mean()
    again = impute(run, given[["id", "big", "grade", "when", "length", "colour"]])
    assert (again[:, -1] == filled[:, names.index("colour")]).all()


def test_task_counts_categories_that_are_filled_right(run, source):
    table = evaluate(run, source, task="impute", test=open_source(frame(seed=4), kind="table"), mechanisms="mcar",
                     draws=2, baselines=["mean", "knn"])  # fmt: skip
    assert table.columns == ("mechanism", "rate", "method", "RMSE", "Wasserstein", "categories right")
    right = {row[2]: row[-1].mean for row in table.rows}
    assert right["remasker (this run)"] > right["mean"] + 10 and 0 < right["mean"] < 80


def test_rows_are_drawn_with_names(run, source):
    model = run.model()
    x = model.tokenizer.together(model.tokenizer(sample_of(source, 2)))
    made = torch.zeros(2, 7, dtype=torch.bool)
    made[:, 4] = True
    first, second = renderer_of(model).draw([Panel("original", x), Panel("made", x, predicted=made)])
    assert ">blue<" in first.svg or ">red<" in first.svg or ">green<" in first.svg
    assert "2 categories predicted, 2 of them right" in second.alt


# scikit-learn.


def test_imputer_fills_frames_and_arrays_of_objects():
    given = frame(80, seed=1)
    imputer = MaskedImputer(size=SIZE, epochs=40, changes={"optimiser.lr": 1e-2}, random_state=0)
    filled = imputer.set_output(transform="pandas").fit_transform(given)
    assert list(filled.columns) == list(given.columns) and not filled.isna().any().any()
    for name in given.columns:
        there = given[name].notna()
        assert (filled[name][there] == given[name][there]).all()
        if name in ("colour", "big", "grade"):
            assert set(filled[name]) <= set(given[name][there]), name
    assert set(filled["grade"]) == {1, 2, 3} and filled["when"].map(lambda v: v.year).between(2023, 2025).all()
    objects = given[["colour", "length"]].to_numpy(dtype=object)
    plain = MaskedImputer(size=SIZE, epochs=2, random_state=0).fit_transform(objects)
    assert plain.dtype == object and set(plain[:, 0]) == set(COLOURS)
    features = MaskedEncoder(size=SIZE, epochs=1, random_state=0).fit_transform(given)
    assert features.shape == (80, 16) and np.isfinite(features).all()
    with pytest.raises(ValueError, match="feature names should match"):
        imputer.transform(given.rename(columns={"colour": "color"}))
