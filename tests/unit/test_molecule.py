"""Molecules: which files hold them, SMILES tokens and what is wrong with a SMILES, labels, scaffolds."""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas
import pytest

from anymask.data import DataError, infer_schema, open_source
from anymask.data.kind import kind_of
from anymask.data.kinds import _smiles, _vocabulary
from anymask.data.kinds.text import as_text

pytest.importorskip("tokenizers")
DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
MOLECULE = kind_of("molecule")
MADE = MOLECULE.made_up(60, 5)


def smiles(source):
    return [as_text(sample["molecule"]) for sample in source.fetch(range(len(source)))]


# Tokens.


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("CC(=O)Oc1ccccc1", "C C ( = O ) O c 1 c c c c c 1"),
        ("BrCCCl", "Br C C Cl"),
        ("[C@@H](N)C[nH]", "[C@@H] ( N ) C [nH]"),
        ("C%12CC%12", "C %12 C C %12"),
        (r"F/C=C\F.[Na+]", r"F / C = C \ F . [Na+]"),
        ("[13CH4]", "[13CH4]"),
        ("CBC#N", "C B C # N"),
    ],
)
def test_tokens(text, tokens):
    assert _smiles.tokens(text) == tokens.split()
    assert "".join(_smiles.tokens(text)) == text


def test_the_vocabulary_cuts_as_the_expression_does():
    schema = infer_schema(open_source([*MADE, "C[13CH3]", "[Na+].[Cl-]"], kind="molecule"))
    made = _vocabulary.loaded(schema.fields["molecule"].more["tokenizer"])
    for text in (*MADE, "C[13CH3]", "[Na+].[Cl-]", "Brc1ccccc1Cl"):
        cut = _vocabulary.encode(made, [text])[0].tolist()
        assert [made.id_to_token(n) for n in cut] == _smiles.tokens(text)
    assert made.id_to_token(int(_vocabulary.encode(made, ["[U]"])[0][0])) == "[UNK]"
    assert schema.fields["molecule"].more["mask"] == 4


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("", "is empty"), ("CCQ", r"character 3 \('Q'\)"), ("CC(C", "does not close a branch"),
     ("CC)C", "closes a branch that it did not open"), ("C1CC", "does not close ring 1"),
     ("C[Na", r"character 2 \('\['\)"), ("hello world", r"character 1 \('h'\)"), ("C%12C", "does not close ring 12")],
)  # fmt: skip
def test_what_is_wrong(text, wrong):
    with pytest.raises(ValueError, match=wrong):
        _smiles.checked(text)


# What holds molecules.


def test_tables(tmp_path):
    frame = pandas.DataFrame({"name": [f"m{n}" for n in range(60)], "SMILES": MADE, "logP": np.arange(60) / 7})
    frame.to_csv(tmp_path / "a.csv", index=False)
    source = open_source(tmp_path / "a.csv")
    assert smiles(source) == MADE and source.labels is None
    np.testing.assert_allclose(source.targets, np.arange(60) / 7)
    assert any("labels are column 'logP', the only one of numbers" in note for note in source.notes)
    frame["active"] = [None if n % 3 == 0 else n % 2 for n in range(60)]
    source = open_source(frame)
    assert source.targets is None and any("may name: 'logP', 'active'" in note for note in source.notes)
    task = open_source(frame, label="active")
    assert Counter(task.labels.tolist()) == {-1: 20, 0: 20, 1: 20}
    other = frame.rename(columns={"SMILES": "drug"})
    assert smiles(open_source(other, kind="molecule", text="drug")) == MADE
    assert list(open_source(other).kinds) != ["molecule"]


def test_long_names_of_columns_are_a_header(tmp_path):
    lines = ["an id,the measured logarithm of the solubility in mol per litre,smiles", "a,-0.5,CCO", "b,1.5,CCN "]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    source = open_source(tmp_path / "a.csv")
    assert smiles(source) == ["CCO", "CCN"] and source.targets.tolist() == [-0.5, 1.5]


def test_smi(tmp_path):
    (tmp_path / "a.smi").write_text("CCO ethanol\nc1ccccc1\tbenzene\nC(C broken\n")
    source = open_source(tmp_path / "a.smi")
    assert smiles(source) == ["CCO", "c1ccccc1"] and source.ids == ["ethanol", "benzene"]
    (tmp_path / "b.smi").write_text("smiles label\nCCO a\nCCN b\n")
    assert open_source(tmp_path / "b.smi").label_names == ["a", "b"]


def test_a_file_without_header(tmp_path):
    (tmp_path / "a.csv").write_text("CCO\nCCN\nCCC\n")
    with pytest.raises(DataError, match=r"looks like data \('CCO'\); put a line with the names"):
        open_source(tmp_path / "a.csv", kind="molecule")


def test_lists_and_vocabularies_of_other_runs(tmp_path):
    assert smiles(open_source(MADE, kind="molecule")) == MADE
    assert list(open_source(MADE).kinds) == ["text"]
    file = infer_schema(open_source(MADE, kind="molecule")).fields["molecule"].more["tokenizer"]
    (tmp_path / "tokenizer.json").write_text(file)
    given = infer_schema(open_source(["[U]"] * 3 + ["CC"], kind="molecule", tokenizer=tmp_path))
    assert given.fields["molecule"].more["tokenizer"] == file
    assert any("are unknown to the vocabulary" in note for note in given.fields["molecule"].notes)
    with pytest.raises(DataError, match="an alphabet of their own"):
        open_source(MADE, kind="molecule", tokenizer="bytepair")


# Scaffolds.


def test_the_largest_scaffolds_train():
    groups = np.array(["a"] * 5 + ["b"] * 3 + ["c", "d"])
    where = _smiles.by_size(groups, (0.8, 0.1, 0.1))
    assert where == ["train"] * 8 + ["test", "validation"]  # of equal sizes the later first, as DeepChem
    where = _smiles.by_size(groups[::-1], (0.5, 0.3, 0.2))
    assert where[5:] == ["train"] * 5 and where[2:5] == ["validation"] * 3 and where[:2] == ["test"] * 2


def test_scaffolds_need_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    for options in (dict(group="scaffold"), dict(canonical=True)):
        with pytest.raises(DataError, match=r'pip install "anymask\[molecules\]"'):
            open_source(MADE, kind="molecule", **options)
    with pytest.raises(DataError, match="divides the molecules of list of molecules by group"):
        open_source(MADE, kind="molecule", parts="0.8,0.1,0.1")


def test_with_rdkit():
    pytest.importorskip("rdkit")
    texts = ["OCC", "C(C)O", "c1ccccc1C", "c1ccccc1CC", "C1CC1N", "CC(C)(C)(C)C"]
    source = open_source(texts, kind="molecule", canonical=True)
    assert smiles(source) == ["CCO", "CCO", "Cc1ccccc1", "CCc1ccccc1", "NC1CC1"]
    assert any("row 6, is no molecule that RDKit reads" in note for note in source.notes)
    grouped = open_source(texts[:5], kind="molecule", group="scaffold")
    assert grouped.groups.tolist() == ["", "", "c1ccccc1", "c1ccccc1", "C1CC1"]
    frame = pandas.DataFrame({"smiles": texts[:5], "scaffold": list("aabbc")})
    assert open_source(frame, group="scaffold").groups.tolist() == list("aabbc")
    parts = open_source(texts[:5] * 4, kind="molecule", group="scaffold", parts=(0.5, 0.3, 0.2))
    assert {len(part) for part in (parts, parts.split("validation"), parts.split("test"))} == {8, 4}


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "count"), [("BBBP", 2050), ("Lipophilicity", 4200), ("delaney-processed", 1128), ("tox21", 7831)]
)
def test_real_sets(name, count):
    """Nothing is refused that these sets hold."""
    if not (DATA / "molecules").exists():
        pytest.skip("no data")
    source = open_source(DATA / "molecules" / f"{name}.csv")
    assert list(source.kinds) == ["molecule"] and len(source) == count
