"""Webdataset shards: what is read of them, labels, splits, damage, and that a resumed run sees the same samples."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from train_tools import QUIET, At, run

import anymask
from anymask.data import DataError, StreamSource, infer_schema, open_source, training_loader
from anymask.train import Interrupted


def picture(number, side=16):
    image = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return image.transpose(2, 0, 1), out.getvalue()


def write(path, numbers, **more):
    """A shard of pictures 0007.png with 0007.cls; `more` is ending -> (number -> bytes)."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            files = {"png": picture(number)[1], "cls": str(number % 3).encode()}
            files |= {ending: make(number) for ending, make in more.items()}
            for ending, content in files.items():
                info = tarfile.TarInfo(f"part/{number:04}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        write(tmp_path / f"set-{shard:03}.tar", range(10 * shard, 10 * shard + 10))
    return tmp_path


def test_pictures_and_classes(folder):
    source = open_source(folder)
    assert isinstance(source, StreamSource) and source.count is None
    found = list(source.iterate())
    assert len(found) == 30
    for number in (0, 9, 10, 29):
        np.testing.assert_array_equal(found[number]["image"], picture(number)[0])
    records = list(source.records.open(0))
    assert [source.label_of(record) for record in records] == [number % 3 for number in range(30)]


@pytest.mark.parametrize("start", [1, 9, 10, 25, 30])
def test_reading_from_a_number_on(folder, start):
    whole, rest = (list(open_source(folder).iterate(at)) for at in (0, start))
    assert len(rest) == 30 - start
    for a, b in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_a_loader_that_starts_later_gives_the_same_batches(folder):
    source = open_source(folder)
    schema = infer_schema(source)
    load = lambda start: list(training_loader(source, schema, batch_size=8, steps=9, start=start, seed=3, workers=0))
    for a, b in zip(load(0)[5:], load(5), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])
    assert len({tuple(batch["label"].tolist()) for batch in load(0)}) > 3  # shuffled


def test_splits_by_name(tmp_path):
    write(tmp_path / "train-000.tar", range(6))
    write(tmp_path / "val_000.tar", range(20, 24))
    count = lambda **options: len(list(open_source(tmp_path, **options).iterate()))
    assert (count(), count(split="train"), count(split="validation")) == (6, 6, 4)
    with pytest.raises(DataError, match=r"split 'test' \(test-000.tar\); splits there: train, validation"):
        open_source(tmp_path, split="test")


def test_a_label_from_json(tmp_path):
    path = write(tmp_path / "a.tar", range(4), json=lambda n: json.dumps({"kind": 10 + n, "word": "x"}).encode())
    source = open_source(path, label="kind")
    assert [source.label_of(record) for record in source.records.open(0)] == [10, 11, 12, 13]
    with pytest.raises(DataError, match=r"has the key 'kinds' \(label=\); there: kind, word"):
        open_source(path, label="kinds")
    with pytest.raises(DataError, match=r"'word' .* is 'x'; labels of a stream are class numbers"):
        open_source(path, label="word")


def test_several_kinds(tmp_path):
    numbers = lambda n: npy(np.full((4, 3), float(n), dtype=np.float32))
    path = write(tmp_path / "a.tar", range(4), ply=lambda n: b"ply")
    with pytest.raises(DataError, match=r"several kinds \(image, points\); name the kind that is meant \(--kind\)"):
        open_source(path)
    assert set(open_source(path, kind="image").kinds) == {"image"}
    path = write(tmp_path / "b.tar", range(4), txt=lambda n: b"a word", npy=numbers)
    assert set(open_source(path).kinds) == {"image"}  # a caption or an array beside a picture is no kind of its own


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_a_broken_picture_is_left_out_and_named(tmp_path):
    bad = lambda number: b"no picture" if number == 2 else picture(number)[1]
    path = write(tmp_path / "a.tar", range(4), png=bad)
    source = open_source(path)
    with pytest.warns(UserWarning, match="left out"):
        assert len(list(source.iterate())) == 3
    assert source.skipped[0][0] == "a.tar/part/0002.png"
    with pytest.raises(DataError, match=r"0002.png in a.tar cannot be read"):
        list(open_source(path, strict=True).iterate())


def test_a_truncated_shard_is_named_and_the_others_are_read(folder):
    path = folder / "set-001.tar"
    path.write_bytes(path.read_bytes()[:9000])
    source = open_source(folder)
    with pytest.warns(UserWarning, match="left out set-001.tar"):
        count = len(list(source.iterate()))
    assert 20 < count < 30
    assert "it ends or breaks after" in source.skipped[0][1]
    whole, rest = list(open_source(folder).records.open(0)), list(open_source(folder).records.open(15))
    assert [record.name for record in rest] == [record.name for record in whole[15:]]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"no sample can be read from .*a.tar: it ends or breaks after 0 samples.*give .tar files of samples"),
        (b"x" * 5000, r"no sample can be read from .*a.tar: it ends or breaks after 0 samples"),
    ],
)
def test_what_is_no_shard(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_an_ending_that_nothing_reads(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("0.pyd")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(DataError, match=r"hold files ending in pyd, none of which is read here"):
        open_source(tmp_path)


def test_a_run_on_shards_is_resumed_exactly(folder, tmp_path):
    options = dict(data=folder, steps=7, precision="fp32")
    whole = run(tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", **options, loggers=(At(5),))  # within the second pass over the shards
    cut = anymask.pretrain(folder, out=tmp_path / "cut", resume=True, **QUIET)
    for a, b in zip(whole.model().parameters(), cut.model().parameters(), strict=True):
        assert a.equal(b)
