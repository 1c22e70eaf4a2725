"""Health records: how long tables are read, thinned and scaled, what is hidden of pairs, outcomes, and drawings."""

import os
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from click.testing import CliRunner

from anymask.cli import main
from anymask.contract import ContractError, check_recipe
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.data import DataError, Schema, SchemaError, infer_schema, open_source, ordered_loader
from anymask.data.kinds.ehr import KNOTS, made_up, thinned
from anymask.engine import take
from anymask.evaluation import evaluate
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.inputs import raw_input
from anymask.parts.ehr import HidePairs
from anymask.recipe import P, RecipeError, find
from anymask.reports import Panel, renderer_of
from anymask.run import Run

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data")) / "physionet2012"
LONG = pandas.DataFrame({
    "RecordID": [7, 7, 3, 3, 3, 7, 5],
    "minutes": [30, 0, 60, 0, 60, 90, 15],
    "Parameter": ["HR", "Age", "HR", "Age", "Temp", "HR", "Age"],
    "Value": [80.0, 61, 95, -1, np.nan, 70, 44],
})  # fmt: skip
OUTCOMES = pandas.DataFrame({"RecordID": [3, 5, 7, 9], "SOFA": [1, 2, 3, 4], "In-hospital_death": [1, 0, 0, 1]})


def folder_of(path, long=LONG, outcomes=OUTCOMES, name="a.csv"):
    path.mkdir(exist_ok=True)
    long.to_csv(path / name, index=False)
    if outcomes is not None:
        outcomes.to_csv(path / "Outcomes.csv", index=False)
    return path


def stays(source):
    return [sample["ehr"] for sample in source.fetch(range(len(source)))]


# Reading.


def test_a_long_table_is_read_by_stay_in_the_order_of_time(tmp_path):
    source = open_source(folder_of(tmp_path / "f"))
    assert source.ids == ["3", "5", "7"] and source.columns["ehr"].names == ("Age", "HR", "Temp")
    nan = np.nan
    expected = [[[0, nan, 0], [1, 95, 1], [2, nan, 1]], [[0, 44, 0.25]], [[0, 61, 0], [1, 80, 0.5], [1, 70, 1.5]]]
    for found, wanted in zip(stays(source), expected):
        np.testing.assert_array_equal(found, np.array(wanted, dtype=np.float32))
    assert source.labels.tolist() == [1, 0, 0]
    assert source.notes == ["-1, the only value below 0 of 'Age', counts as missing there (1 values)"]
    assert open_source(tmp_path / "f", label="SOFA").targets.tolist() == [1, 2, 3]
    schema = infer_schema(source)
    assert Schema.from_json(schema.to_json()) == schema
    rows = dict(schema.describe())
    assert rows["ehr"] == "1 to 3 measurements a stay, median 3, of 3 codes; 128 at most are looked at together"
    assert rows["  Temp"].endswith("100.0% missing")


def test_all_containers_give_the_same(tmp_path):
    expected = stays(open_source(folder_of(tmp_path / "f")))
    LONG.to_parquet(tmp_path / "t.parquet")
    LONG.assign(Parameter=LONG.Parameter.astype("category")).to_parquet(tmp_path / "c.parquet")
    LONG.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    start = pandas.Timestamp("2020-02-28 23:00")
    dated = LONG.assign(charttime=start + pandas.to_timedelta(LONG.minutes, unit="min")).drop(columns="minutes")
    dated.rename(columns={"RecordID": "stay_id", "Parameter": "itemid", "Value": "valuenum"}).to_csv(
        tmp_path / "mimic.csv", index=False
    )
    other = LONG.rename(columns=dict(zip(LONG.columns, "wxyz"))).assign(x=LONG.minutes / 60)
    other.to_csv(tmp_path / "o.csv", index=False)
    for given in ("t.parquet", "c.parquet", "t.tsv", "mimic.csv"):
        for one, two in zip(stays(open_source(tmp_path / given)), expected):
            hours = [0, 0.25, 0] if given == "mimic.csv" else None  # dates are counted from the first of a stay
            np.testing.assert_array_equal(one[:, :2], two[:, :2], err_msg=given)
            np.testing.assert_allclose(one[:, 2], two[:, 2] - two[0, 2] if hours else two[:, 2], atol=1e-6)
    for one, two in zip(stays(open_source(LONG)), expected):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(stays(open_source(tmp_path / "o.csv", events="w,x,y,z")), expected):
        np.testing.assert_allclose(one, two)
    bag = open_source(LONG.drop(columns="minutes"), kind="ehr")
    assert all((stay[:, 2] == 0).all() for stay in stays(bag))
    assert set(open_source(LONG.drop(columns="minutes")).columns) == {"table"}  # nothing says that it is one of events


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(Value=np.inf), "holds infinite numbers.*7 rows"),
        (dict(Value="low"), r"column 'Value' of .* holds no number \(first: 'low'\).*--events"),
        (dict(Value=np.nan), "all 7 values of 'ehr' are missing"),
        (dict(minutes=[0, 1, 2, None, 4, 5, 6]), r"has no time in 1 of 7 rows \(first: row 4\)"),
        (dict(minutes="soon"), "neither numbers nor dates in 7 rows"),
        (dict(Parameter=["a", None, "a", "a", "a", "a", "a"]), r"'Parameter' of f/a\.csv is empty in 1 rows .*row 2"),
    ],
)
def test_bad_tables_are_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        infer_schema(open_source(folder_of(tmp_path / "f", LONG.assign(**change))))


def test_other_refusals(tmp_path):
    text = LONG.assign(Value=["80", "<5", "95", "61", "", "70", "44"])
    source = open_source(folder_of(tmp_path / "text", text))
    assert "holds text in 1 rows (first: '<5')" in source.notes[0] and np.isnan(stays(source)[2][0, 1])
    with pytest.raises(DataError, match="several rows for the stay '3'"):
        open_source(folder_of(tmp_path / "twice", outcomes=pandas.concat([OUTCOMES, OUTCOMES])))
    with pytest.raises(DataError, match="no stay of the events is in Outcomes"):
        open_source(folder_of(tmp_path / "apart", outcomes=OUTCOMES.assign(RecordID=[101, 102, 103, 104])))
    with pytest.raises(DataError, match="no column 'nix' for label="):
        open_source(folder_of(tmp_path / "nix"), label="nix")
    with pytest.raises(DataError, match=r"events='a,b,c' \(--events\)"):
        open_source(LONG, events="a,b,c")
    with pytest.raises(DataError, match="no table of outcomes"):
        open_source(LONG, label="x", kind="ehr")
    LONG.to_csv(folder_of(tmp_path / "two") / "b.csv", index=False)
    with pytest.raises(DataError, match=r"holds 2 tables of events \(a\.csv, b\.csv\)"):
        open_source(tmp_path / "two")
    with pytest.raises(DataError, match="size=4"):
        infer_schema(source, size=4)


def test_files_of_splits(tmp_path):
    folder_of(tmp_path / "f", name="train.csv")
    LONG[LONG.RecordID == 5].to_csv(tmp_path / "f" / "test.csv", index=False)
    source = open_source(tmp_path / "f")
    assert len(source) == 3 and source.split("test").ids == ["5"] and source.split("test").labels.tolist() == [0]


def test_codes_are_matched_by_name():
    schema = infer_schema(open_source(LONG))
    other = LONG.assign(Parameter=LONG.Parameter.replace({"Age": "Albumin"}))
    given = open_source(other)
    (note,) = schema.check(infer_schema(given))
    assert note == "codes of table that were not met in training are left out: 'Albumin'"
    batch = next(iter(ordered_loader(given, schema, batch_size=3)))["ehr"]
    assert batch[..., 0].max() == 2 and (batch[1, :, 0] == -1).all()  # the stay that had nothing else is empty
    with pytest.raises(SchemaError, match="no code of table"):
        schema.check(infer_schema(open_source(LONG.assign(Parameter="x"))))


# Thinning and scaling.


@pytest.mark.parametrize("seed", [None, 0])
def test_rare_codes_keep_all_their_measurements(seed):
    rng = None if seed is None else np.random.default_rng(seed)
    codes = np.repeat([0, 1, 2, 3], [100, 40, 3, 1])
    stay = np.stack([np.random.default_rng(1).permutation(codes), np.arange(144), np.arange(144)], 1).astype(np.float32)
    for most in (144, 60, 24, 9):
        found = thinned(stay, most, rng)
        counts = np.bincount(found[:, 0].astype(int), minlength=4)
        cap = counts.max()
        assert len(found) <= most and (np.diff(found[:, 2]) > 0).all()
        assert counts.tolist() == np.minimum([100, 40, 3, 1], cap).tolist()
        assert most == 144 or np.minimum([100, 40, 3, 1], cap + 1).sum() > most
    first = thinned(stay, 9, rng)
    assert (seed is None) == np.array_equal(first, thinned(stay, 9, rng))
    assert len(thinned(stay, 2, rng)) == 2


def test_even_thinning_spans_the_stay():
    stay = np.stack([np.zeros(100), np.arange(100), np.arange(100)], 1).astype(np.float32)
    found = thinned(stay, 10, None)[:, 2]
    assert np.diff(found).min() == np.diff(found).max() == 10 and found[-1] == 99


def model_of(frame=None, seed=0, **changes):
    schema = example_schema("ehr") if frame is None else infer_schema(open_source(frame))
    torch.manual_seed(seed)
    return find("labrador").but(changes).build(schema, SMALL), schema


def test_values_are_places_in_the_distribution_of_their_code():
    rng = np.random.default_rng(0)
    value = np.concatenate([rng.gamma(2.0, size=2000), np.repeat([3.0, 4, 15], [300, 300, 400]), np.ones(50)])
    code = np.repeat(["a", "b", "c"], [2000, 1000, 50])
    frame = pandas.DataFrame({"stay": np.arange(3050) % 61, "time": 0, "code": code, "value": value})
    model, schema = model_of(frame)
    batch = next(iter(ordered_loader(open_source(frame), schema, batch_size=61)))
    x = model.tokenizer(batch).x["ehr"]
    number, raw, share = x[..., 0], batch["ehr"][..., 1], x[..., 1]
    ranks = np.searchsorted(np.sort(value[:2000]), raw[number == 0].numpy()) / 2000
    np.testing.assert_allclose(share[number == 0], ranks, atol=1.5 / (KNOTS - 1))
    for level, middle in ((3, 0.15), (4, 0.45), (15, 0.8)):  # the middle of the mass that a value has
        np.testing.assert_allclose(share[(number == 1) & (raw == level)], middle, atol=1 / (KNOTS - 1))
    assert (share[(number == 2) & (raw == 1)] == 0.5).all()
    there = batch["ehr"][..., 0] >= 0
    back = model.tokenizer.raw(x)[..., 1]
    np.testing.assert_allclose(back[there & (number == 0)], raw[there & (number == 0)], atol=0.05, rtol=0.02)
    outside = torch.tensor([[[0, -9.0, 0], [0, 99, 0], [0, np.nan, 0], [-1, 0, 0]]])
    tokens = model.tokenizer({"ehr": outside})
    assert tokens.x["ehr"][0, :3, 1].tolist() == [0, 1, -1] and tokens.valid.tolist() == [[True, True, True, False]]


# Hiding pairs.


def test_null_values_stay_visible_and_a_share_of_the_codes_does():
    model, _ = model_of(**{"corruption.value_only": 0.5})
    batch = batch_of(example_schema("ehr"), 200)
    step = model.predict(model.hide(batch))
    null = step.tokens.x["ehr"][..., 1] < -0.5
    hidden = step.tokens.valid & ~step.mask.visible
    assert not (hidden & null).any()
    count = step.tokens.valid.sum(1)
    assert torch.equal(hidden.sum(1), (0.15 * count).round().long().clamp(min=1))
    content = step.seen.content["ehr"]
    assert (content[..., 1][hidden] == -2).all()
    assert torch.equal(content[step.mask.visible], step.tokens.x["ehr"][step.mask.visible])
    lost = content[..., 0] == 6
    assert not (lost & step.tokens.valid & ~hidden).any() and 0.35 < lost[hidden].float().mean() < 0.65
    step = step._replace(goal=model.target(step, model))
    known = ~step.goal["code"].isnan().any(-1)
    assert torch.equal(known & step.mask.ask_ok, take(lost & hidden, step.mask.ask) & step.mask.ask_ok)
    assert step.pred["value"].min() > 0 and step.pred["value"].max() < 1


@pytest.mark.parametrize("changes", [{"corruption.value_only": 0.0}, {"corruption.value_only": 1.0}, {"stem.bins": 4}])
def test_contract_of_variants(changes):
    for line in check_recipe(find("labrador").but(changes), items=("no leak", "padding", "order", "gradients")):
        assert "passed" in line
    assert changes != {"corruption.value_only": 0.0} or model_of(**changes)[0].corruption.value_only == 0


class Careless(HidePairs):
    """Says that codes stay, and shows values as well."""

    def forward(self, step, model):
        return model.stem(step)


def test_the_contract_sees_a_value_that_leaks_where_codes_stay():
    recipe = find("labrador").but(corruption=P(Careless, value_only=1.0))
    with pytest.raises(ContractError, match="no leak"):
        check_recipe(recipe, items=("no leak",))


def test_bins_make_words_of_values():
    model, _ = model_of(**{"stem.bins": 4})
    batch = batch_of(example_schema("ehr"), 4)
    tokens = model.tokenizer(batch)
    nudged = tokens.x["ehr"].clone()
    share = nudged[..., 1]
    nudged[..., 1] = torch.where(share >= 0, (share * 4).floor().clamp(max=3) / 4 + 0.01, share)
    step = model.hide(batch)
    one, two = (model.stem(step._replace(tokens=tokens._replace(x={"ehr": x}))).x for x in (tokens.x["ehr"], nudged))
    torch.testing.assert_close(one, two)
    with pytest.raises(RecipeError, match=r"stem\.bins counts words"):
        model_of(**{"stem.bins": 1})


# Use.


def sick(count=160, seed=0):
    """Stays whose outcome is the mean of one code, as files have them."""
    rng = np.random.default_rng(seed)
    rows = []
    for stay, values in enumerate(made_up(count, seed)):
        rows += [(stay, hour * 60, f"code {int(code)}", value) for code, value, hour in values]
    frame = pandas.DataFrame(rows, columns=list(LONG.columns))
    level = frame[frame.Parameter == "code 2"].groupby("RecordID").Value.mean().reindex(range(count))
    died = (level.fillna(30) > 31.5).astype(int)
    return frame, pandas.DataFrame({"RecordID": range(count), "In-hospital_death": died, "x": rng.normal(size=count)})


def test_command_line_and_outcomes(tmp_path):
    folder = str(folder_of(tmp_path / "f", *sick()))
    out = str(tmp_path / "run")
    words = ["pretrain", folder, "--size", "pico", "--epochs", "2", "--batch-size", "32", "--out", out]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    run = Run.open(out)
    assert run.recipe.slug == "labrador" and run.schema.fields["ehr"].shape == (128, 3)
    source = open_source(folder)
    table = evaluate(run, source, task="auroc", folds=2)
    found = {tuple(row[:2]): row[2].mean for row in table.rows}
    assert found["raw input", "logistic regression"] > 80 and found["raw input", "gradient boosting"] > 80
    assert len(table.rows) == 6 and "without their outcomes" in " ".join(table.notes)
    assert "yes is '1'" in table.notes[0]
    for options, message in (({"positive": "7"}, "no class is called '7'"), ({"test": source}, "leave test=")):
        with pytest.raises(EvaluateError, match=message):
            evaluate(run, source, task="auroc", **options)
    with pytest.raises(DataError, match="too few for 99 folds"):
        evaluate(run, source, task="auroc", folds=99)


def test_raw_input_is_of_whole_stays():
    frame = pandas.DataFrame({"stay": 1, "time": np.arange(300.0), "code": "a", "value": np.arange(300.0)})
    frame = pandas.concat([frame, frame.iloc[:2].assign(stay=2)])
    source = open_source(frame)
    schema = infer_schema(source)
    x = raw_input(source, schema)
    assert x.shape == (2, 6)
    median, spread = schema.fields["ehr"].more["median"][0], schema.fields["ehr"].more["spread"][0]
    z = (np.arange(300) - median) / spread
    np.testing.assert_allclose(x[0], [z.mean(), z[0], z[-1], z[0], z[-1], np.log(301)], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(x[1], [z[:2].mean(), z[0], z[1], z[0], z[1], np.log(3)], rtol=1e-3)


def test_stays_are_drawn_with_what_is_hidden_and_rebuilt():
    model, _ = model_of()
    batch = batch_of(example_schema("ehr"), 2)
    tokens = model.tokenizer(batch)
    content = torch.where(tokens.valid[..., None], tokens.x["ehr"], torch.nan)
    shown, made = torch.ones_like(tokens.valid), torch.zeros_like(tokens.valid)
    place = int(torch.nonzero(content[0, :, 1] > 0)[0])
    shown[0, place] = False
    made[0, place] = True
    panels = [Panel("original", content), Panel("seen", content, shown), Panel("made", content, predicted=made)]
    first, second, third = renderer_of(model).draw(panels)
    count = int(tokens.valid.sum())
    nulls = int(((content[..., 1] < -0.5) & tokens.valid).sum())
    assert len(re.findall("<rect", first.svg)) == count and first.svg.count('stroke="var(--axis)"') == nulls
    assert second.svg.count("<rect") == count and second.svg.count('fill="var(--axis)"') == 1
    assert "1 hidden" in second.alt
    assert third.svg.count('stroke="var(--c2)"') == 1 and "1 rebuilt, off by 0.00" in third.alt
    assert "code 0" in first.svg


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="needs physionet2012")
def test_physionet_is_opened_without_options():
    source = open_source(DATA)
    assert len(source) == 4000 and len(source.columns["ehr"].table) == 1_674_892
    assert source.labels.sum() == 554 and len(source.columns["ehr"].names) == 41
    frame = pandas.read_parquet(DATA / "set-a.parquet")
    one = frame[frame.RecordID == 132540].sort_values("minutes", kind="stable")
    value = source[source.ids.index("132540")]["ehr"]
    names = [source.columns["ehr"].names[int(code)] for code in value[:, 0]]
    assert names == one.Parameter.tolist()
    np.testing.assert_allclose(value[:, 2], one.minutes / 60, rtol=1e-6)
    there = one.Value.to_numpy() != -1
    np.testing.assert_allclose(value[there, 1], one.Value[there])
    batch = next(iter(ordered_loader(source.subset(range(4)), infer_schema(source.subset(range(50))), batch_size=4)))
    assert 100 < batch["ehr"].shape[1] <= 128
