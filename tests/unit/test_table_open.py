"""Tables: what is read as a number, as missing, as neither; names, labels, splits; and what is refused."""

import os
from pathlib import Path

import numpy as np
import pandas
import pytest

from anymask.data import (
    DataError,
    Schema,
    SchemaError,
    infer_schema,
    open_source,
    ordered_loader,
    split_source,
    training_loader,
)

TABLES = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data")) / "uci_tables"


def write(folder, text, name="t.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def array(source):
    return np.stack([sample["table"] for sample in source.fetch(range(len(source)))])


def equal(a, b):
    np.testing.assert_array_equal(np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32))


CSV = "a,b,c\n1,2.5,true\n,NA,false\n3, n/a ,True\n4,?,FALSE\n"
VALUES = [[1, 2.5, 1], [np.nan, np.nan, 0], [3, np.nan, 1], [4, np.nan, 0]]


def test_csv_cells_and_schema(tmp_path):
    source = open_source(write(tmp_path, CSV))
    equal(array(source), VALUES)
    assert source[0]["table"].dtype == np.float32 and source.labels is None and source.in_memory
    schema = infer_schema(source)
    field = schema.fields["table"]
    assert (field.columns, field.shape, field.gaps) == (("a", "b", "c"), (3,), (0.25, 0.75, 0.0))
    assert field.lows == (1.0, 2.5, 0.0) and field.highs == (4.0, 2.5, 1.0)
    np.testing.assert_allclose(field.mean, [*np.nanmean(VALUES, 0)[:2], 0.0])
    np.testing.assert_allclose(field.std, [np.nanstd([1, 3, 4]), 1.0, 1.0])
    assert "'b'" in field.notes[0] and "constant" in field.notes[0]
    assert Schema.from_json(schema.to_json()) == schema
    rows = dict(schema.describe())
    assert rows["table"] == "2 columns of numbers, 1 of categories; missing: 33.3% of the cells, in 2 columns"
    assert rows["  c"] == "2 categories: false 50%, true 50%"
    assert rows["  a"] == "1 to 4, mean 2.667, std 1.247, 25.0% missing"


def test_all_containers_give_the_same(tmp_path):
    frame = pandas.read_csv(write(tmp_path, CSV), na_values=["?"], skipinitialspace=True)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "semi.csv", sep=";", decimal=",", index=False)
    frame.to_csv(tmp_path / "tab.tsv", sep="\t", index=False)
    np.save(tmp_path / "t.npy", np.array(VALUES))
    for given in (
        frame, frame.convert_dtypes(), tmp_path / "t.parquet", tmp_path / "semi.csv", tmp_path / "tab.tsv",
        np.array(VALUES), tmp_path / "t.npy",
    ):  # fmt: skip
        equal(array(open_source(given)), VALUES)


def test_unnamed_row_numbers_are_left_out_with_a_note(tmp_path):
    for header, first in ((",a,b", 0), ("Unnamed: 0,a,b", 1)):
        source = open_source(write(tmp_path, f"{header}\n{first},5,6\n{first + 1},7,9\n"))
        equal(array(source), [[5, 6], [7, 9]])
        assert source.notes == ["the first column, which has no name and counts the rows, is left out"]
    equal(array(open_source(write(tmp_path, "id,a\n0,5\n1,7\n"))), [[0, 5], [1, 7]])  # it has a name


def test_a_first_line_of_numbers_is_a_row(tmp_path):
    source = open_source(write(tmp_path, "1.5,2\n3,4\n"))
    equal(array(source), [[1.5, 2], [3, 4]])
    assert infer_schema(source).fields["table"].columns == ("column 0", "column 1")
    equal(array(open_source(write(tmp_path, "0,1\n3,4\n5,6\n"))), [[3, 4], [5, 6]])  # numbered columns


def test_labels_classes_and_targets(tmp_path):
    path = write(tmp_path, "a,b,y,z,g\n1,2,x,0.5,p\n3,4,w,1.5,q\n5,6,x,,q\n7,9,,2,q\n")
    text = open_source(path, label="y", group="g", ignore="z")
    assert text.labels.tolist() == [1, 0, 1, -1] and text.label_names == ["w", "x"] and text.targets is None
    assert text.groups.tolist() == ["p", "q", "q", "q"]
    assert infer_schema(text).fields["table"].columns == ("a", "b")
    numbers = open_source(path, label="z", ignore=["y", "g"])
    assert numbers.labels is None
    equal(numbers.targets, [0.5, 1.5, np.nan, 2])
    equal(numbers.subset([1, 3]).targets, [1.5, 2])
    assert infer_schema(numbers).targets == (0.5, 2.0)
    whole = open_source((np.eye(4), np.array([0, 1, 1, 0])))
    assert whole.labels.tolist() == [0, 1, 1, 0] and whole.targets.tolist() == [0, 1, 1, 0]
    many = open_source((np.eye(30), np.arange(30) * 7))
    assert many.labels is None and many.targets[2] == 14
    assert len(split_source(many)[1].targets) == 6


def test_splits_by_column_and_by_file(tmp_path):
    path = write(tmp_path, "a,b,split\n1,2,train\n3,4,val\n5,6,train\n")
    source = open_source(path)
    equal(array(source), [[1, 2], [5, 6]])
    assert source.splits == ("validation",)
    equal(array(source.split("val")), [[3, 4]])
    folder = tmp_path / "f"
    folder.mkdir()
    write(folder, "a,b\n1,2\n3,4\n", "train.csv")
    write(folder, "a,b\n5,6\n", "test.csv")
    source = open_source(folder)
    equal(array(source.split("test")), [[5, 6]])
    assert len(source) == 2 and source.name == "f/train.csv"
    with pytest.raises(DataError, match="no split 'dev'; there are: train, test"):
        open_source(folder, split="dev")


def test_columns_that_name_their_rows_are_left_out_or_refused_when_strict(tmp_path):
    path = write(tmp_path, "a,name,b\n1,anna,2\n3,bert,4\n")
    (note,) = open_source(path).notes
    assert note.endswith("as names and numbers of rows are, are left out: 'name'")
    with pytest.raises(DataError, match=r"another in nearly every row \('name'\).*ignore=\['name'\] \(--ignore\)"):
        open_source(path, strict=True)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n3,low\n5,6\n", r"table column 'b' of t\.csv holds text in 1 of 3 rows \(first: row 2, 'low'\); "
         r"pass na_values=\['low'\] \(--na\).*ignore=\['b'\] \(--ignore\)"),
        ("a,b\n1,2\n3,inf\n", r"table column 'b' of t\.csv holds infinite numbers.*1 of 2 rows \(first: row 2\)"),
        ("a,b\n1,1e300\n3,4\n", "infinite numbers, or beyond"),
        ("a,b,a\n1,2,3\n", "t.csv has 2 columns named 'a'; give each a name"),
        ("a\n1\n2\n", r"fewer than two columns of numbers or categories \(it has: 'a'\)"),
        ("a,b\n", "has no rows"),
        ("", "is empty"),
        ("a,b\n1,2\n3\n", "every row needs 2 cells"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        open_source(write(tmp_path, text))


def test_other_refusals(tmp_path):
    path = write(tmp_path, "a,b\n1,2\n3,low\n5,6\n")
    equal(array(open_source(path, na_values="low")), [[1, 2], [3, np.nan], [5, 6]])
    good = write(tmp_path, CSV)
    with pytest.raises(DataError, match="no column 'y' for label=; columns: a, b, c"):
        open_source(good, label="y")
    with pytest.raises(DataError, match="no column 'y' for ignore="):
        open_source(good, ignore=["y"])
    with pytest.raises(DataError, match="no column split"):
        open_source(good, split="test")
    with pytest.raises(DataError, match="rows have no size; leave size="):
        infer_schema(open_source(good), size=8)
    with pytest.raises(DataError, match="has 1 column;"):
        open_source(np.ones((5, 1)))
    with pytest.raises(DataError, match="infinite numbers"):
        open_source(np.array([[1.0, np.inf], [1, 2]]))
    with pytest.raises(DataError, match="all 4 cells of 'table' are missing"):
        infer_schema(open_source(np.full((2, 2), np.nan)))


def test_other_columns_are_refused_another_order_is_matched_by_name():
    frame = pandas.DataFrame({"a": [1.0, 2, 3], "b": [4.0, 5, 7], "c": [0.0, 1, np.nan]})
    schema = infer_schema(open_source(frame))
    turned = open_source(frame[["c", "a", "b"]])
    assert "matched by name" in schema.check(infer_schema(turned))[0]
    for loader in (
        ordered_loader(turned, schema, batch_size=3),
        training_loader(turned, schema, batch_size=3, steps=1, seed=0),
    ):
        batch = next(iter(loader))
        equal(batch["table"], frame.to_numpy()[batch["index"]])
    with pytest.raises(SchemaError, match=r"lacks 1 of the 3 columns.*'b' \(columns of table: 'a', 'c'\); rename"):
        schema.check(infer_schema(open_source(frame[["a", "c"]])))
    wider = open_source(frame.assign(d=[1, 2, 3])[["d", "a", "b", "c"]])
    assert "not used: 'd'" in schema.check(infer_schema(wider))[0]
    equal(next(iter(ordered_loader(wider, schema, batch_size=3)))["table"], frame.to_numpy())
    of_array = infer_schema(open_source(np.ones((3, 2)) * [[1], [2], [3]]))
    with pytest.raises(SchemaError, match="has 3 columns in array, the model was trained with 2"):
        of_array.check(infer_schema(open_source(np.eye(3))))


@pytest.mark.realdata
@pytest.mark.skipif(not TABLES.is_dir(), reason="needs the real data sets")
def test_uci_tables_open():
    source = open_source(TABLES / "climate.csv")
    assert len(source) == 540 and infer_schema(source).fields["table"].shape == (21,)
