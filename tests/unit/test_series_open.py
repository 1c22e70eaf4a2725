"""Time series: dated tables as records, .ts files, arrays; windows, parts, gaps; and what is refused."""

import os
from pathlib import Path

import numpy as np
import pandas
import pytest

from anymask.data import DataError, Schema, SchemaError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.kind import kind_of

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def dated(folder, values, interval="1h", name="r.csv", drop=(), **more):
    index = pandas.date_range("2020-01-01", periods=len(values), freq=interval, name="date")
    names = more.get("columns") or [f"v{n}" for n in range(values.shape[1])]
    frame = pandas.DataFrame(values, index=index, columns=names)
    frame = frame.drop(index=frame.index[list(drop)])
    frame.to_csv(folder / name)
    return folder / name


def ramp(n=200, c=2):
    return np.arange(n * c, dtype=float).reshape(n, c)


def array(source):
    return np.stack([sample["series"] for sample in source.fetch(range(len(source)))])


def test_a_record_is_cut_into_windows_within_parts_by_time(tmp_path):
    path = dated(tmp_path, ramp(), columns=["load (kW)", "oil [K]"])
    source = open_source(path, window=10, stride=3)
    assert source.kinds["series"].name == "series" and source.current_split == "train"
    assert set(source.splits) == {"validation", "test"}
    windows = array(source)
    assert windows.shape == (37, 2, 10) and windows.dtype == np.float32  # 120 moments, every third start up to 110
    np.testing.assert_array_equal(windows[1, 0], np.arange(6, 26, 2))
    np.testing.assert_array_equal(source.batch(np.array([1]))["series"][0], windows[1])
    assert source.id_of(1) == "2020-01-01T03:00:00"
    test = array(source.split("test"))
    assert test[0, 0, 0] == 2 * 160 and test[-1, 0, -1] <= 2 * 199
    field = infer_schema(source).fields["series"]
    assert field.columns == ("load (kW)", "oil [K]") and field.units == ("kW", "K") and field.interval == 3600.0
    train = ramp()[:120]  # of the training part, each moment once
    np.testing.assert_allclose(field.mean, train.mean(0))
    np.testing.assert_allclose(field.std, train.std(0), rtol=1e-6)
    assert Schema.from_json(infer_schema(source).to_json()).fields["series"] == field
    rows = dict(infer_schema(source).describe())
    assert rows["series length"] == "10 moments, 1 h apart; trained at 10"
    assert open_source(path, window=10).fingerprint() != open_source(path, window=11).fingerprint()


def test_parts_may_be_months_of_30_days(tmp_path):
    path = dated(tmp_path, ramp(100), interval="1D")
    source = open_source(path, parts="1,1,1", window=8)
    assert len(source) == 23 and source.split("test")[0]["series"][0, 0] == 2 * 60
    with pytest.raises(DataError, match="fewer than the 120 of parts=2,1,1"):
        open_source(path, parts=(2, 1, 1))
    with pytest.raises(DataError, match="three shares"):
        open_source(path, parts="0.5,0.5")


def test_rows_that_lack_are_gaps(tmp_path):
    source = open_source(dated(tmp_path, ramp(50), drop=(4, 5)), window=10)
    assert np.isnan(source[0]["series"][:, 4:6]).all() and "2 of 50 moments have no row" in source.notes[0]
    assert infer_schema(source).fields["series"].gaps == pytest.approx((2 / 30, 2 / 30))
    months = dated(tmp_path, ramp(60), interval="MS", name="m.csv")
    assert open_source(months, window=6)[0]["series"].shape == (2, 6)  # of unequal length, and yet regular


def test_a_table_without_dates_stays_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    assert set(open_source(tmp_path / "t.csv").columns) == {"table"}
    with pytest.raises(DataError, match="no column of dates"):
        open_source(tmp_path / "t.csv", kind="series")
    path = dated(tmp_path, ramp())
    assert set(open_source(path, kind="table").columns) == {"table"}
    frame = pandas.read_csv(path, parse_dates=["date"])
    for given in (frame, frame.set_index("date")):
        np.testing.assert_array_equal(array(open_source(given, window=8)), array(open_source(path, window=8)))
    assert set(open_source(frame.drop(columns="date")).columns) == {"table"}
    noted = frame.assign(wind=["N", "NE"] * 100, v2=frame["v0"])  # text beside the dates
    noted.to_csv(tmp_path / "n.csv", index=False)
    for given in (noted, tmp_path / "n.csv"):
        assert "series" not in open_source(given, kind="table").columns
        assert set(open_source(given, ignore="wind").columns) == {"series"}
        source = open_source(given, kind="series")
        assert source[0]["series"].shape[0] == 3 and "'wind' holds text" in source.notes[0]
    assert "series" not in open_source(tmp_path / "n.csv").columns


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("2020-01-01,1\n2020-01-03,2\n2020-01-02,3\n2020-01-04,4\n", "do not rise: 2020-01-02"),
        ("2020-01-01,1\n2020-01-01,2\n2020-01-02,3\n", "do not rise"),
        ("2020-01-01 00:00,1\n2020-01-01 01:00,2\n2020-01-01 02:00,2\n2020-01-01 02:37,3\n", "not regular: .* 2220 s"),
        ("2020-01-01,1\n,2\n2020-01-03,3\n", "not in 1 of 3 rows .first: row 2, None"),
        ("2020-01-01,1\n2020-13-01,2\n2020-01-03,3\n", "a date that is none"),
        ("2020-01-01,1\n2020-01-02,2\n", "2 moments, too few"),
        ("2020-01-01,1\n2020-01-02,n.a.\n2020-01-03,3\n", "holds text in 1 of 3 rows"),
        ("2020-01-01,1\n2020-01-02,inf\n2020-01-03,3\n", "infinite numbers"),
    ],
)
def test_records_that_are_refused(tmp_path, rows, message):
    (tmp_path / "r.csv").write_text("date,v\n" + rows)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "r.csv")


def test_options_that_do_not_fit_a_record(tmp_path):
    path = dated(tmp_path, ramp())
    for options, message in (
        (dict(window=300), "windows of 300"), (dict(stride=0), "from 1"), (dict(label="v0"), "no labels or groups"),
        (dict(split="dev2"), "no split 'dev2'"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            open_source(path, **options)
    with pytest.raises(DataError, match="--window"):
        infer_schema(open_source(path), size=32)


# .ts files.

HEAD = "# words\n@problemName Toy\n@timeStamps false\n@univariate false\n@classLabel true a b\n@data\n"


def ts(folder, body, name="Toy_TRAIN.ts", head=HEAD):
    (folder / name).write_text(head + body)
    return folder / name


def test_ts_files_of_several_lengths(tmp_path):
    ts(tmp_path, "1,2,3,4,5:6,?,8,9,10:b\n1,2,3,4:5,6,7,8:a\n")
    ts(tmp_path, "0,1,2,3:4,5,6,7:?\n", "Toy_TEST.ts")
    source = open_source(tmp_path)
    assert source.labels.tolist() == [1, 0] and source.label_names == ["a", "b"] and source.splits == ("test",)
    np.testing.assert_array_equal(source[0]["series"], [[1, 2, 3, 4, 5], [6, np.nan, 8, 9, 10]])
    assert source.split("test").labels.tolist() == [-1]
    schema = infer_schema(source)
    assert schema.fields["series"].shape == (2, 5) and schema.fields["series"].sizes == ((4,), (5,), (5,))
    (batch,) = training_loader(source, schema, batch_size=2, steps=1, seed=0)
    short = batch["series"][batch["index"] == 1][0]
    assert short[:, 4].isnan().all() and short[0, :4].tolist() == [1, 2, 3, 4]
    (batch,) = ordered_loader(source, schema, batch_size=2, multiple=3)
    assert batch["series"].shape == (2, 2, 6) and "extent" not in batch and batch["series"][0, 0, 5].isnan()


@pytest.mark.parametrize(
    ("head", "body", "message"),
    [
        (HEAD, "1,2,3:4,5,6:c\n", "labels that @classLabel does not name: c"),
        (HEAD, "1,2,3:4,5,6:a\n1,2,3:a\n", "series 2 of .* has 1 dimensions, not 2"),
        (HEAD, "1,2,x:4,5,6:a\n", "line 7 of .* no number"),
        (HEAD, "1,2,inf:4,5,6:a\n", "infinite"),
        (HEAD, "", "no series after @data"),
        (HEAD, "a\n", "label and no values"),
        (HEAD.replace("@data\n", ""), "1,2:3,4:a\n", "no line @data"),
        (HEAD.replace("timeStamps false", "timeStamps true"), "(0,1):(0,2):a\n", "time stamp"),
    ],
)
def test_ts_files_that_are_refused(tmp_path, head, body, message):
    with pytest.raises(DataError, match=message):
        open_source(ts(tmp_path, body, head=head))


def test_folders_of_ts_files_that_are_refused(tmp_path):
    (tmp_path / "A").mkdir()
    ts(tmp_path / "A", "1,2:3,4:a\n", "A_TRAIN.ts")
    with pytest.raises(DataError, match=r"holds data sets of time series \(A\); name one"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no split 'test'"):
        open_source(tmp_path / "A", split="test")
    (tmp_path / "A" / "other.ts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="name one of the files"):
        open_source(tmp_path / "A")
    with pytest.raises(DataError, match="no UTF-8"):
        open_source(tmp_path / "A" / "other.ts")


# Arrays.


def test_arrays_are_series_where_that_is_said():
    x = np.random.default_rng(0).normal(size=(6, 3, 20))
    assert set(open_source(x).columns) == {"image"}
    source = open_source((x, [0, 1] * 3), kind="series")
    assert source.labels.tolist() == [0, 1] * 3 and source[2]["series"].shape == (3, 20)
    assert open_source(x[:, 0], kind="series")[0]["series"].shape == (1, 20)
    lists = open_source(([one[:, : 10 + n] for n, one in enumerate(x)], list("aabbab")), kind="series")
    assert lists[5]["series"].shape == (3, 15) and lists.label_names == ["a", "b"]
    record = open_source(np.arange(100.0), kind="series", window=12)
    assert record[1]["series"].tolist() == [list(range(1, 13))]
    x[1, 2, 3] = np.inf
    with pytest.raises(DataError, match="infinite"):
        open_source(x, kind="series")
    with pytest.raises(DataError, match="2, 3 variables"):
        open_source([x[0], x[0, :2]], kind="series")


def test_other_variables_are_told():
    x = np.random.default_rng(0).normal(size=(6, 3, 20))
    trained = infer_schema(open_source(x, kind="series"))
    with pytest.raises(SchemaError, match="has 2 variables"):
        trained.check(infer_schema(open_source(x[:, :2], kind="series")))


def test_variables_are_matched_by_name(tmp_path):
    values = np.random.default_rng(0).normal(size=(90, 2))
    schema = infer_schema(open_source(dated(tmp_path, values, columns=["a", "b"]), window=8))
    other = open_source(dated(tmp_path, values[:, ::-1], columns=["b", "a"], name="s.csv"), window=8)
    assert "another order" in schema.check(infer_schema(other))[0]
    batch = next(iter(ordered_loader(other, schema, batch_size=4)))
    np.testing.assert_allclose(batch["series"][0].T, values[:8], rtol=1e-6)


def test_constant_and_empty_variables_are_noted():
    x = np.ones((4, 3, 10))
    x[:, 1], x[:, 2] = np.nan, np.arange(10)
    field = infer_schema(open_source(x, kind="series")).fields["series"]
    assert field.std[:2] == (1.0, 1.0) and len(field.notes) == 2
    with pytest.raises(DataError, match="all values"):
        infer_schema(open_source(np.full((3, 2, 8), np.nan), kind="series"))


@pytest.mark.parametrize(("length", "side"), [(24, 2), (100, 10), (150, 10), (512, 12), (97, 8)])
def test_default_patches(length, side):
    x = np.random.default_rng(0).normal(size=(2, length))
    field = infer_schema(open_source(x, kind="series")).fields["series"]
    assert kind_of("series").patch(field) == (side,)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="no data")
def test_real_files():
    source = open_source(DATA / "ett" / "ETTh1.csv", parts="12,4,4")
    assert len(source) == 8640 - 512 + 1 and source[0]["series"].shape == (7, 512)
    field = infer_schema(source).fields["series"]
    assert field.columns[-1] == "OT" and field.interval == 3600.0
    np.testing.assert_allclose(field.mean[-1], 17.1282, atol=1e-3)  # of the first 12 months
    for name, counts, shape in (("GunPoint", (50, 150), (1, 150)), ("BasicMotions", (40, 40), (6, 100))):
        source = open_source(DATA / "ucr_uea" / name)
        assert (len(source), len(source.split("test"))) == counts and source[0]["series"].shape == shape
        assert np.unique(source.labels).tolist() == list(range(len(source.label_names)))
