"""Texts: which files and objects hold them, what is a document, a label, a header; vocabularies; what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pandas
import pytest
from text_data import SENTENCES, collection, jsonl

from anymask.data import DataError, Schema, infer_schema, open_source
from anymask.data.kinds import _texts, _vocabulary
from anymask.data.kinds.text import as_text

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def texts(source):
    return [as_text(sample["text"]) for sample in source.fetch(range(len(source)))]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# Files.


def test_plain_text(tmp_path):
    source = open_source(write(tmp_path / "a.txt", "One  two.\nThree.\n \n\nFour five\r\n\n" + "word " * 200))
    assert texts(source)[:2] == ["One two. Three.", "Four five"]
    assert [len(text.split()) for text in texts(source)[2:]] == [80, 80, 40]
    assert any("1 of 3 paragraphs are cut" in note for note in source.notes)
    lines = open_source(write(tmp_path / "b.txt", "one line\nanother line\n"))
    assert texts(lines) == ["one line", "another line"] and "texts are the lines" in lines.notes


def test_windows_hold_every_word():
    text = " ".join(SENTENCES)
    assert " ".join(_texts.windows(text)) == text
    chinese = "字" * 2000
    assert "".join(_texts.windows(chinese)) == chinese and max(map(len, _texts.windows(chinese))) <= 640


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables_with_and_without_header(tmp_path, ending):
    mark = "," if ending == "csv" else "\t"
    rows = [f"{text}{mark}{n % 2}" for n, text in enumerate(SENTENCES)]
    bare = open_source(write(tmp_path / f"bare.{ending}", "\n".join(rows)))
    head = open_source(write(tmp_path / f"head.{ending}", "\n".join([f"sentence{mark}label", *rows])))
    for source in (bare, head):
        assert texts(source) == SENTENCES
        assert source.labels.tolist() == [n % 2 for n in range(80)]
    assert "texts are column 'sentence'" in head.notes


def test_tabs_know_no_quotes_unless_rows_need_them(tmp_path):
    plain = open_source(write(tmp_path / "a.tsv", 'text\tlabel\n" an open quote here\t0\n"all of ""it"" quoted"\t1\n'))
    assert texts(plain) == ['" an open quote here', 'all of "it" quoted']
    broken = open_source(write(tmp_path / "b.tsv", 'text\tlabel\n"two\nlines of text"\t0\nand one more line\t1\n'))
    assert texts(broken) == ["two\nlines of text", "and one more line"]
    commas = open_source(write(tmp_path / "c.csv", 'text,label\n"one, two\nthree words",a\nfour five six,b\n'))
    assert texts(commas) == ["one, two\nthree words", "four five six"] and commas.label_names == ["a", "b"]


def test_numbers_or_texts(tmp_path):
    """Two columns of numbers make a table; `text` decides otherwise."""
    rows = [f"{text},{n},{n % 7}" for n, text in enumerate(SENTENCES)]
    file = write(tmp_path / "a.csv", "\n".join(["remark,a,b", *rows]))
    table = open_source(file)
    assert list(table.kinds) == ["table"] and any("text='remark' (--text)" in note for note in table.notes)
    asked = open_source(file, text="remark")
    assert list(asked.kinds) == ["text"] and any("other columns are not used: a, b" in note for note in asked.notes)
    one = write(tmp_path / "b.csv", "\n".join(["remark,a", *(row.rpartition(",")[0] for row in rows)]))
    assert list(open_source(one).kinds) == ["text"]
    frame = pandas.DataFrame({"review": SENTENCES, "label": ["x", "y"] * 40, "stars": range(80)})
    source = open_source(frame)
    assert list(source.kinds) == ["text"] and source.label_names == ["x", "y"]
    with pytest.raises(DataError, match=r"no column 'nothing' for text="):
        open_source(file, text="nothing")


def test_jsonl_parquet_and_splits(tmp_path):
    rows = [{"id": n, "body": text, "label": "ab"[n % 2], "more": [1]} for n, text in enumerate(SENTENCES)]
    jsonl(tmp_path / "train.jsonl", rows[:60])
    pandas.DataFrame(rows[60:])[["body", "label"]].to_parquet(tmp_path / "test.parquet")
    source = open_source(tmp_path)
    assert texts(source) == SENTENCES[:60] and source.splits == ("test",)
    test = source.split("test")
    assert texts(test) == SENTENCES[60:] and test.labels.tolist() == [0, 1] * 10
    with pytest.raises(DataError, match="no split 'validation'; there are: train, test"):
        open_source(tmp_path, split="validation")


def test_folder_of_text_files(tmp_path):
    for n, text in enumerate(SENTENCES[:6]):
        folder = tmp_path / ("good" if n % 2 else "bad")
        folder.mkdir(exist_ok=True)
        write(folder / f"{n}.txt", text)
    source = open_source(tmp_path)
    assert source.label_names == ["bad", "good"] and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert texts(source)[0] == SENTENCES[0]


def test_notes_beside_pictures_are_no_texts(tmp_path):
    from PIL import Image

    for n in range(3):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"{n}.png")
    write(tmp_path / "readme.txt", "what these are")
    source = open_source(tmp_path)
    assert list(source.kinds) == ["image"] and len(source) == 3


def test_collection(tmp_path):
    root = collection(tmp_path, [*SENTENCES[:5], " "], SENTENCES[5:7], [(0, 1, 2), (1, 3, 1)])
    source = open_source(root)
    assert texts(source) == SENTENCES[:5] and source.ids[0] == "d0" and "1 texts are empty" in source.notes[0]
    queries = source.split("queries")
    assert texts(queries) == SENTENCES[5:7] and queries.judged == root / "qrels" / "test.tsv"
    assert queries.subset([1]).judged == queries.judged


# Objects.


def test_lists_and_hugging_face():
    datasets = pytest.importorskip("datasets")
    labels = [n % 3 for n in range(80)]
    assert texts(open_source(SENTENCES)) == SENTENCES
    assert open_source((SENTENCES, labels)).labels.tolist() == labels
    assert texts(open_source(np.array(SENTENCES))) == SENTENCES
    names = datasets.ClassLabel(names=list("abc"))
    features = datasets.Features({"sentence": datasets.Value("string"), "label": names})
    data = datasets.Dataset.from_dict({"sentence": SENTENCES, "label": labels}, features=features)
    source = open_source(datasets.DatasetDict(train=data, test=data.select(range(5))))
    assert texts(source) == SENTENCES and source.label_names == ["a", "b", "c"] and len(source.split("test")) == 5
    stream = open_source(data.to_iterable_dataset())
    schema = infer_schema(stream)
    assert schema.fields["text"].more["counts"] == infer_schema(source).fields["text"].more["counts"]


# Vocabularies.


def test_vocabularies_are_the_same_for_the_same_texts():
    """The library numbers letters in the order of a hash table; ours are sorted."""
    for kind in (_vocabulary.WordPieces, _vocabulary.BytePairs):
        made = {kind().trained(SENTENCES * 3, 600) for _ in range(4)}
        assert len(made) == 1
        tokenizer = _vocabulary.loaded(made.pop())
        assert _vocabulary.mask_of(tokenizer) == 4
        cut = tokenizer.encode(SENTENCES[0].upper(), add_special_tokens=False)
        assert tokenizer.decode(cut.ids).strip() == SENTENCES[0]


def test_size_of_a_vocabulary():
    assert _vocabulary.default_size(["a b c"]) == 512
    assert _vocabulary.default_size(["w " * 1_000_000]) == 8192 - 8192 % 256
    assert _vocabulary.default_size(["w " * 20_000_000]) == 30_000


def test_schema_holds_the_vocabulary():
    schema = infer_schema(open_source(SENTENCES))
    field = schema.fields["text"]
    assert Schema.from_json(schema.to_json()) == schema
    cut = _vocabulary.encode(_vocabulary.loaded(field.more["tokenizer"]), SENTENCES)
    assert field.more["counts"] == np.bincount(np.concatenate(cut), minlength=len(field.more["counts"])).tolist()
    assert field.sizes[-1] == (max(map(len, cut)),) and field.shape[0] % 8 == 0


def test_given_vocabularies(tmp_path):
    made = _vocabulary.WordPieces().trained(SENTENCES, 300)
    file = write(tmp_path / "tokenizer.json", made)
    for given in (file, str(tmp_path), _vocabulary.loaded(made)):
        assert json.loads(infer_schema(open_source(SENTENCES, tokenizer=given)).fields["text"].more["tokenizer"]) == \
            json.loads(made)
    bare = json.loads(made)
    bare["added_tokens"] = [token for token in bare["added_tokens"] if token["content"] != "[MASK]"]
    del bare["model"]["vocab"]["[MASK]"]
    file_ = write(tmp_path / "bare.json", json.dumps(bare))
    field = infer_schema(open_source(SENTENCES, tokenizer=file_)).fields["text"]
    assert field.more["mask"] == max(_vocabulary.loaded(field.more["tokenizer"]).get_vocab().values())
    cased = infer_schema(open_source(["Red apple Red", "red pear red"] * 9, cased=True)).fields["text"]
    assert "Red" in _vocabulary.loaded(cased.more["tokenizer"]).get_vocab()
    with pytest.raises(DataError, match="has its own: leave them out"):
        open_source(SENTENCES, tokenizer=file, vocabulary=300)
    with pytest.raises(DataError, match="neither wordpiece or bytepair or characters nor a file"):
        open_source(SENTENCES, tokenizer="wordpeace")
    with pytest.raises(DataError, match="holds no tokenizer"):
        open_source(SENTENCES, tokenizer=write(tmp_path / "no.json", "{}"))
    with pytest.raises(DataError, match="number of pieces"):
        open_source(SENTENCES, vocabulary=-1)


# What is refused.


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"caf\xe9 au lait", "save it as UTF-8"),
        ("a.txt", b"\x80\x04\x95 pickle \x00", "as in a binary file|save it as UTF-8"),
        ("a.jsonl", b'{"text": "one two three"}\n{"text": "cut o', "line 2 of .* is no JSON"),
        ("a.jsonl", b"[1, 2]\n", "every line needs an object"),
        ("a.jsonl", b'{"code": 1}\n{"code": 2}\n', "no column of sentences"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"text,label\none two three,0\nfour, five and six,1\n", "2 cells in its first row and 3 in row 3"),
    ],
)
def test_bad_files(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        open_source(tmp_path / name, **({"text": "text"} if name == "a.csv" else {}))


def test_bad_values(tmp_path):
    with pytest.raises(DataError, match="item 1 of the list is float"):
        open_source(["a b", float("nan")])
    with pytest.raises(DataError, match="no text in any of its 2 rows"):
        open_source([" ", ""])
    gaps = write(tmp_path / "gaps.csv", "text,label\none two three,0\n,1\nfour five six,1\n")
    source = open_source(gaps)
    assert len(source) == 2 and source.labels.tolist() == [0, 1] and "1 rows without text are left out" in source.notes
    with pytest.raises(DataError, match=r"empty in 1 of 3 rows \(first: row 2\)"):
        open_source(gaps, strict=True)
    with pytest.raises(DataError, match="pre-training needs at least 2"):
        infer_schema(open_source(["only one"]))
    with pytest.raises(DataError, match="longest training sample in tokens"):
        infer_schema(open_source(SENTENCES), size=(3, 4))
    with pytest.raises(DataError, match="has no split 'test'"):
        open_source(SENTENCES, split="test")


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="no data")
@pytest.mark.parametrize(
    ("name", "count", "classes", "splits"),
    [
        ("sst2", 6920, 2, ("validation", "test")),
        ("ag_news", 6000, 4, ("test",)),
        ("cranfield", 1398, 0, ("queries",)),
        ("wikitext-2/valid.txt", None, 0, ()),
        ("python_docstring", 1200, 0, ("test",)),
    ],
)
def test_real_data(name, count, classes, splits):
    source = open_source(DATA / name)
    assert list(source.kinds) == ["text"] and source.splits == splits
    assert count is None or len(source) == count
    assert (0 if source.labels is None else len(np.unique(source.labels))) == classes
    assert infer_schema(source).fields["text"].shape[0] <= 128
