"""Proteins: which files and objects hold them, FASTA, FLIP's folders, labels of residues, plain input of baselines."""

import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from task_tools import SMALL, made

from anymask.data import DataError, Schema, infer_schema, open_source
from anymask.data.kind import kind_of
from anymask.data.kinds import _vocabulary
from anymask.data.kinds.protein import RESIDUES
from anymask.data.kinds.text import as_text
from anymask.evaluation import embed
from anymask.evaluation.inputs import raw_input
from anymask.evaluation.probe import linear_probe
from anymask.evaluation.token_classes import divide, token_features, token_table
from anymask.recipe import find
from anymask.run import Run

pytest.importorskip("tokenizers")
DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
PROTEIN = kind_of("protein")
CHAINS = PROTEIN.made_up(60, 5)


def chains(source):
    return [as_text(sample["protein"]) for sample in source.fetch(range(len(source)))]


def fasta(path, rows):
    path.write_text("".join(f">{head}\n{text[:10]}\n{text[10:]}\n" for head, text in rows))
    return path


def helix(chain):
    """Labels that a residue's neighbour decides."""
    return "".join("H" if chain[max(0, n - 1)] in "ACKLTV" else "C" for n in range(len(chain)))


@pytest.fixture
def flip(tmp_path):
    """A folder as FLIP's secondary_structure has it, its labels in another order than the sequences."""
    rows = [(f"p{n}", chain) for n, chain in enumerate(CHAINS)]
    fasta(tmp_path / "sequences.fasta", rows)
    says = [f"p{n} SET={'test' if n % 5 == 0 else 'train'} VALIDATION={n % 5 == 1}" for n in range(60)]
    fasta(tmp_path / "sampled.fasta", [(says[n], helix(CHAINS[n])) for n in reversed(range(60))])
    fasta(tmp_path / "mask.fasta", [(f"p{n}", "0" + "1" * (len(chain) - 1)) for n, chain in enumerate(CHAINS)])
    return tmp_path


# What holds proteins.


def test_fasta(tmp_path):
    file = fasta(tmp_path / "a.fasta", [("sp|P1|A_HUMAN Some protein OS=Homo sapiens", "acdef ghik"), ("b", "MKV*"),
                                        ("c", ""), ("d", "M1K")])
    source = open_source(file)
    assert chains(source) == ["ACDEFGHIK", "MKV"] and source.ids == ["sp|P1|A_HUMAN", "b"]
    assert any("2 of 4 rows (first: row 3, is empty) are left out" in note for note in source.notes)
    with pytest.raises(DataError, match=r"holds no proteins in 2 of 4 rows"):
        open_source(file, strict=True)
    heads = [f"s{n} TARGET={n}.5 SET={'test' if n > 3 else 'train'}" for n in range(6)]
    said = fasta(tmp_path / "b.fa", [(head, "MKVL") for head in heads])
    source = open_source(said)
    assert source.targets.tolist() == [0.5, 1.5, 2.5, 3.5] and source.split("test").ids == ["s4", "s5"]


def test_tables_and_objects(tmp_path):
    frame = pandas.DataFrame({"sequence": CHAINS, "target": np.arange(60) / 7, "set": ["train"] * 40 + ["test"] * 20,
                              "validation": [None] * 30 + [True] * 10 + [None] * 20})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "b.parquet")
    for spec in (tmp_path / "a.csv", tmp_path / "b.parquet", frame):
        source = open_source(spec)
        assert chains(source) == CHAINS[:30] and set(source.splits) == {"validation", "test"}
        assert chains(source.split("validation")) == CHAINS[30:40]
        np.testing.assert_allclose(source.targets, np.arange(30) / 7)
    listed = open_source((CHAINS, list(range(60))), kind="protein")
    assert chains(listed) == CHAINS and listed.targets[-1] == 59
    assert chains(open_source(np.array(CHAINS), kind="protein")) == CHAINS
    by_letter = open_source((CHAINS, [helix(chain) for chain in CHAINS]), kind="protein")
    assert [len(one) for one in by_letter.token_labels.labels] == [len(chain) for chain in CHAINS]
    other = frame.rename(columns={"sequence": "chain A"})
    assert list(open_source(other).kinds) != ["protein"]
    assert chains(open_source(other, kind="protein", text="chain A")) == CHAINS[:30]
    assert chains(open_source(other, kind="protein")) == CHAINS[:30]  # the only column that looks like it


def test_hugging_face():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"seq": CHAINS, "label": [n % 2 for n in range(60)]})
    source = open_source(datasets.DatasetDict(train=data, test=data.select(range(5))))
    assert list(source.kinds) == ["protein"] and len(source.split("test")) == 5 and source.labels[1] == 1
    stream = infer_schema(open_source(data.to_iterable_dataset()))
    assert stream.fields["protein"].more["counts"] == infer_schema(source).fields["protein"].more["counts"]


def test_texts_and_nucleotides_are_no_proteins(tmp_path):
    frame = pandas.DataFrame({"sequence": ["ACGTACGTAGC", "GGCATTACG"] * 10, "label": [0, 1] * 10})
    frame.to_csv(tmp_path / "dna.csv", index=False)
    with pytest.raises(DataError):
        open_source(tmp_path / "dna.csv")
    assert list(open_source(["one two three", "four five six"]).kinds) == ["text"]


def test_folders(tmp_path, flip):
    for name in ("train", "test"):
        pandas.DataFrame({"sequence": CHAINS[:20], "target": np.arange(20) / 3}).to_csv(tmp_path / f"{name}.csv")
    (tmp_path / "sequences.fasta").unlink()
    for name in ("sampled", "mask"):
        (tmp_path / f"{name}.fasta").unlink()
    assert open_source(tmp_path).splits == ("test",)
    ways = tmp_path / "ways"
    ways.mkdir()
    for name in ("easy", "hard"):
        sets = ["train"] * 10 + ["test"] * 10
        pandas.DataFrame({"sequence": CHAINS[:20], "set": sets, "target": np.arange(20) / 3}).to_csv(
            ways / f"{name}.csv", index=False)
    source = open_source(ways)
    assert len(source) == 10 and any("2 ways (easy, hard): this is 'easy'" in note for note in source.notes)
    assert len(source.split("test")) == 10
    pandas.DataFrame({"sequence": CHAINS[:20]}).to_csv(ways / "other.csv", index=False)
    with pytest.raises(DataError, match=r"holds 3 files of proteins \(easy\.csv, hard\.csv, other\.csv\); give one"):
        open_source(ways)


# Labels of residues.


def test_flip_folder(flip):
    source = open_source(flip)
    assert len(source) == 36 and len(source.split("validation")) == 12 and len(source.split("test")) == 12
    for number, (chain, labels) in enumerate(zip(chains(source), source.token_labels.labels)):
        assert chain == CHAINS[int(source.ids[number][1:])]
        names = [source.token_labels.names[label] if label >= 0 else "?" for label in labels]
        assert "".join(names) == "?" + helix(chain)[1:]  # the mask hides the first


@pytest.mark.parametrize(
    ("name", "rows", "match"),
    [("sampled.fasta", [("p0 SET=train", "HH")], "residues in sequences.fasta and 2 labels in sampled.fasta"),
     ("sampled.fasta", [("q SET=train", "HH")], "has labels for q, which sequences.fasta does not hold"),
     ("mask.fasta", [("p2", "1")], "1 marks in its mask; give one")],
)  # fmt: skip
def test_labels_that_do_not_fit(flip, name, rows, match):
    fasta(flip / name, rows)
    with pytest.raises(DataError, match=match):
        open_source(flip)


def test_labels_of_residues_are_probed(flip, tmp_path_factory):
    source = open_source(flip)
    run = made(source, tmp_path_factory.mktemp("run"), recipe="bert")
    x = token_features(run, source, trained=None)
    chain, size = chains(source)[0], len(RESIDUES) + 7
    first = x[: len(chain)].reshape(len(chain), size, 15)
    letters = _vocabulary.encode(_vocabulary.loaded(run.schema.fields["protein"].more["tokenizer"]), [chain])[0] - 5
    for n in range(len(chain)):
        for step in range(-7, 8):
            wanted = np.zeros(size) if not 0 <= n + step < len(chain) else np.eye(size)[letters[n + step]]
            np.testing.assert_array_equal(first[n, :, step + 7], wanted)
    table = token_table(run, source, labels=("all",), lenient=True, draws=1, test=None,
                        probes={"linear": ("linear probe", linear_probe)}, seed=0, batch_size=8)  # fmt: skip
    figure = table.rows[0][2].mean
    assert table.rows[0][0] == "raw input" and figure > 99  # a window holds the neighbour that decides
    assert any("one-hot residues in windows of 15" in note for note in table.notes)
    division = divide(run, source, None, 0)
    assert division.validation is not None and len(division.validation) > 0


def test_residues_behind_the_longest_sample_are_not_scored(flip, tmp_path_factory):
    source = open_source(flip)
    run = Run(tmp_path_factory.mktemp("run"), find("bert"), SMALL, infer_schema(source, size=16), {"seed": 1})
    run.save_weights(run.build())
    x = token_features(run, source, trained=None)
    assert len(x) == sum(map(len, chains(source)))
    lost = sum(max(0, len(chain) - 16) for chain in chains(source))
    assert lost > 0 and np.isnan(x).all(1).sum() == lost
    table = token_table(run, source, labels=("all",), lenient=True, draws=1, test=None,
                        probes={"linear": ("linear probe", linear_probe)}, seed=0, batch_size=8)  # fmt: skip
    assert any("lie behind the first 16 of their sample" in note for note in table.notes)


# The vocabulary and plain input.


def test_one_residue_a_token():
    source = open_source(CHAINS, kind="protein")
    schema = infer_schema(source)
    field = schema.fields["protein"]
    assert Schema.from_json(schema.to_json()) == schema
    made_ = _vocabulary.loaded(field.more["tokenizer"])
    assert [made_.id_to_token(n) for n in _vocabulary.encode(made_, ["MKXU-"])[0]] == list("MKXU-")
    assert made_.decode(_vocabulary.encode(made_, ["MKV"])[0].tolist()) == "MKV"
    assert field.more["mask"] == 4 and len(field.more["counts"]) == 5 + 20 + 7
    assert sum(field.more["counts"]) == sum(map(len, CHAINS))
    with pytest.raises(DataError, match="an alphabet of their own"):
        open_source(CHAINS, kind="protein", vocabulary=40)


def test_composition_by_hand():
    source = open_source(CHAINS, kind="protein")
    x = raw_input(source, infer_schema(source))
    assert x.shape == (60, 420)
    for row, chain in zip(x, CHAINS):
        singles = [chain.count(letter) / len(chain) for letter in RESIDUES]
        pairs = [sum(chain[i : i + 2] == a + b for i in range(len(chain))) / (len(chain) - 1)
                 for a in RESIDUES for b in RESIDUES]  # fmt: skip
        np.testing.assert_allclose(row, singles + pairs, atol=1e-6)


def test_variants_are_compared_place_by_place():
    rng = np.random.default_rng(0)
    variants = ["MKV" + RESIDUES[rng.integers(20)] + "LAGE" + RESIDUES[rng.integers(20)] + "T" for _ in range(50)]
    source = open_source(variants, kind="protein")
    schema = infer_schema(source)
    assert schema.fields["protein"].more["aligned"] == [3, 8]
    x = raw_input(source, schema)
    assert x.shape == (50, 40)
    for row, chain in zip(x, variants):
        np.testing.assert_array_equal(row, np.concatenate([np.eye(20)[RESIDUES.index(chain[n])] for n in (3, 8)]))
    flat = PROTEIN.flat(torch.full((1, 4), 9, dtype=torch.int32), schema.fields["protein"], 4096)
    assert flat.shape == (1, 40) and flat[0, 20:].sum() == 0  # a shorter chain has nothing there


def test_features_do_not_depend_on_what_is_beside(tmp_path):
    run = made(open_source(CHAINS, kind="protein"), tmp_path, recipe="bert")
    together = embed(run, open_source(CHAINS, kind="protein"))
    alone = embed(run, open_source(CHAINS[:2], kind="protein"), batch_size=1)
    np.testing.assert_allclose(together[:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "counts"),
    [("flip_gb1/sampled.csv", (6289, 699, 1745)), ("flip_gb1/two_vs_rest.csv", (381, 43, 8309)),
     ("flip_secondary_structure", (2500, 1080, 364))],
)  # fmt: skip
def test_real_sets(name, counts):
    if not (DATA / name).exists():
        pytest.skip("no data")
    source = open_source(DATA / name)
    parts = [source, source.split("validation"), source.split("test")]
    assert tuple(map(len, parts)) == counts
    field = infer_schema(source).fields["protein"]
    assert (field.more["aligned"] == [38, 39, 40, 53]) == name.startswith("flip_gb1")
