"""open_source: every format, every error text."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from PIL import Image

from anymask.data import DataError, duplicates_across, infer_schema, open_source

RNG = np.random.default_rng(0)


def picture(h: int = 12, w: int = 16, channels: int = 3) -> np.ndarray:
    shape = (h, w, channels) if channels > 1 else (h, w)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray | None = None, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if array is None else array).save(path, **how)
    return path


def test_folder_without_labels(tmp_path):
    for n, ending in enumerate(("jpg", "png", "jpeg", "webp", "bmp", "tif", "ppm", "PNG")):
        save(tmp_path / f"{n}.{ending}")
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(tmp_path)
    assert len(source) == 8 and source.labels is None and source.groups is None and source.splits == ()
    assert source.ids == ["0.jpg", "1.png", "2.jpeg", "3.webp", "4.bmp", "5.tif", "6.ppm", "7.PNG"]
    assert source[1]["image"].shape == (3, 12, 16) and source[1]["image"].dtype == np.uint8
    assert [s["image"].shape for s in source.fetch([0, 7])] == [(3, 12, 16)] * 2


def test_class_folders(tmp_path):
    for name in ("cat/a.png", "cat/deep/b.png", "dog/c.png"):
        save(tmp_path / name)
    source = open_source(str(tmp_path))
    assert source.label_names == ["cat", "dog"] and source.labels.tolist() == [0, 0, 1]
    assert source.labels.dtype == np.int64
    with pytest.raises(DataError, match=r"no metadata\.csv, so label="):
        open_source(tmp_path, label="kind")


def test_split_folders_share_class_numbers(tmp_path):
    for name in ("train/b/1.png", "train/c/2.png", "test/a/3.png", "test/c/4.png", "val/b/5.png"):
        save(tmp_path / name)
    source = open_source(tmp_path)
    assert source.splits == ("test", "validation") and source.label_names == ["a", "b", "c"]
    assert source.labels.tolist() == [1, 2] and source.split("test").labels.tolist() == [0, 2]
    assert len(source.split("val")) == 1 and source.split("test").split("train").ids == source.ids
    with pytest.raises(DataError, match=r"no split 'dev2'.*splits: train, test, validation"):
        source.split("dev2")
    with pytest.raises(DataError, match="no split 'other'; there are: "):
        open_source(tmp_path, split="other")


def test_metadata_table(tmp_path):
    for n in range(4):
        save(tmp_path / f"images/{n}.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name,label,patient,split,score\nimages/0.png,b,p,train,0.5\nimages/1.png,a,p,train,1\n"
        "images/2.png,,q,train,2\nimages/3.png,c,r,test,3\n")
    source = open_source(tmp_path, group="patient")
    assert source.label_names == ["a", "b", "c"] and source.labels.tolist() == [1, 0, -1]
    assert source.groups.tolist() == ["p", "p", "q"] and source.split("test").labels.tolist() == [2]
    assert open_source(tmp_path, label="patient").label_names == ["p", "q", "r"]
    with pytest.raises(DataError, match="no column 'kind' for label=; columns: file_name, label"):
        open_source(tmp_path, label="kind")
    with pytest.raises(DataError, match=r"column 'score'.*fractional numbers \(as 0.5\)"):
        open_source(tmp_path, label="score")


def test_metadata_jsonl_and_missing_file(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    lines = [{"file_name": n, "label": i} for i, n in enumerate(("a.png", "b.png", "gone.png"))]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.warns(UserWarning, match=r"left out gone.png"):
        source = open_source(tmp_path)
    assert len(source) == 2 and source.skipped[0][0] == "gone.png"
    with pytest.raises(DataError, match=r"gone.png in .* cannot be read"):
        open_source(tmp_path, strict=True)
    (tmp_path / "metadata.csv").write_text("name,label\na.png,1\n")
    with pytest.raises(DataError, match=r"needs a column file_name"):
        open_source(tmp_path)


def test_broken_files_are_named(tmp_path):
    for n in range(4):
        save(tmp_path / f"{n}.jpg", picture(64, 64))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:900])
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "whole.png", picture(64, 64)).read_bytes()[:-500])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is no image")
    with pytest.warns(UserWarning, match="left out"):
        source = open_source(tmp_path)
    assert len(source) == 5 and {n for n, _ in source.skipped} == {"cut.jpg", "cut.png", "empty.png", "text.jpg"}
    assert dict(source.skipped)["empty.png"] == "the file is empty (0 bytes)"
    assert "not a picture in any known format" in dict(source.skipped)["text.jpg"]
    with pytest.raises(DataError, match=r"empty.png in .* cannot be read .*strict=False"):
        open_source(tmp_path, strict=True)


def test_file_that_breaks_later_is_replaced(tmp_path):
    for n in range(3):
        save(tmp_path / f"{n}.png")
    source = open_source(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    with pytest.warns(UserWarning, match=r"left out 1.png"):
        sample, actual = source.read(1)
    assert actual == 2 and np.array_equal(sample["image"], source[2]["image"])
    assert source.skipped[0][0] == "1.png"
    strict = open_source(save(tmp_path / "new/0.png").parent, strict=True)
    (tmp_path / "new/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"0.png"):
        strict[0]


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match=r"found 0 files that anything here reads in .*: the folder is empty"):
        open_source(tmp_path)
    (tmp_path / "a.doc").write_text("x")
    (tmp_path / "b.doc").write_text("x")
    with pytest.raises(DataError, match=r"found 0 files that anything here reads in .*: 2 files with endings .doc"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"ending '.doc', which nothing here reads"):
        open_source(tmp_path / "a.doc")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 image files can be read; first: a.png"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="cannot make a source of int"):
        open_source(3)


def test_missing_path_suggests_names(tmp_path, monkeypatch):
    save(tmp_path / "pictures/a.png")
    with pytest.raises(DataError, match=r"picturse does not exist; did you mean .*pictures\?"):
        open_source(tmp_path / "picturse")
    with pytest.raises(DataError, match=r"picture/train does not exist; did you mean .*pictures\?"):
        open_source(tmp_path / "picture" / "train")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("~/pictures")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    save(tmp_path / "locked/a.png")
    (tmp_path / "locked").chmod(0)
    with pytest.raises(DataError, match="no permission"):
        open_source(tmp_path / "locked")
    (tmp_path / "locked").chmod(0o700)


def test_no_permission_message(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match=r"no permission to read the folder .*chmod"):
        open_source(tmp_path)


def test_one_image(tmp_path):
    source = open_source(save(tmp_path / "a.png"))
    assert len(source) == 1
    with pytest.raises(DataError, match="holds 1 sample; pre-training needs at least 2"):
        infer_schema(source)


def test_modes(tmp_path):
    rgba = np.dstack([picture(), np.zeros((12, 16), np.uint8)])
    save(tmp_path / "a.png", rgba)
    Image.fromarray(picture()).convert("P").save(tmp_path / "b.png")
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "c.jpg")
    source = open_source(tmp_path)
    assert [s["image"].shape[0] for s in source.fetch(range(3))] == [3, 3, 3]
    assert (source[0]["image"] == 255).all()  # transparent: white
    assert np.array_equal(open_source(tmp_path, channels=4)[0]["image"], rgba.transpose(2, 0, 1))
    assert open_source(tmp_path, channels=1)[1]["image"].shape == (1, 12, 16)
    two = tmp_path / "grey"
    save(two / "a.png", np.dstack([picture(channels=1), np.full((12, 16), 255, np.uint8)]))
    save(two / "b.gif", picture(channels=1))
    Image.fromarray(picture(channels=1) > 99).save(two / "c.png")
    grey = open_source(two, channels=1)
    assert set(np.unique(grey[2]["image"])) <= {0, 255} and len(grey) == 3


def test_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    array = picture(8, 16)
    save(tmp_path / "a.png", array, exif=exif)
    save(tmp_path / "b.png", np.rot90(array, -1))
    source = open_source(tmp_path)
    assert source.columns["image"].shape == (3, 16, 8)
    assert np.array_equal(source[0]["image"], source[1]["image"])
    assert duplicates_across(source.subset([0]), source.subset([1])) == [(0, 0)]


def test_grey_among_colour(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", picture(channels=1))
    source = open_source(tmp_path)
    assert source.notes == ["1 of 2 images are grey (first: b.png); they are repeated to RGB"]
    assert np.array_equal(source[1]["image"][0], source[1]["image"][2])
    Image.fromarray(picture(channels=1).astype(np.uint16) * 255).save(tmp_path / "c.png")
    with pytest.raises(DataError, match=r"differ in the type of their values: a.png is uint8, c.png is uint16"):
        open_source(tmp_path)


def test_sixteen_bit_and_many_channels(tmp_path):
    deep = RNG.integers(0, 65536, (12, 16), dtype=np.uint16)
    Image.fromarray(deep).save(save(tmp_path / "grey/a.png"))
    Image.fromarray(deep).save(tmp_path / "grey/b.tif")
    source = open_source(tmp_path / "grey")
    assert [s["image"].dtype for s in source.fetch([0, 1])] == [np.uint16, np.uint16]
    assert all(np.array_equal(s["image"][0], deep) for s in source.fetch([0, 1]))
    many = RNG.random((5, 12, 16), dtype=np.float32)
    (tmp_path / "many").mkdir()
    tifffile.imwrite(tmp_path / "many/a.tif", many)
    tifffile.imwrite(tmp_path / "many/b.tif", many.transpose(1, 2, 0), planarconfig="contig", photometric="minisblack")
    source = open_source(tmp_path / "many")
    assert np.array_equal(source[0]["image"], many) and np.array_equal(source[1]["image"], many)
    tifffile.imwrite(tmp_path / "many/c.tif", many[:2])
    with pytest.raises(DataError, match=r"differ in their number of channels: c.tif has 2, a.tif has 5"):
        open_source(tmp_path / "many")


def test_tiff_without_tifffile(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", RNG.random((5, 12, 16), dtype=np.float32))
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(DataError, match=r"pip install anymask\[images\]"):
        open_source(tmp_path)


def test_npy_files(tmp_path):
    for n in range(3):
        np.save(tmp_path / f"{n}.npy", RNG.random((5, 12, 16)))
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    with pytest.warns(UserWarning, match=r"object.npy"):
        source = open_source(tmp_path)
    assert len(source) == 3 and source[0]["image"].shape == (5, 12, 16) and source[0]["image"].dtype == np.float32


def test_arrays_and_layouts(tmp_path):
    nchw, nhwc = RNG.random((6, 5, 12, 16)), RNG.integers(0, 255, (6, 12, 16, 3), dtype=np.uint8)
    assert open_source(nchw)[0]["image"].shape == (5, 12, 16) and open_source(nchw)[0]["image"].dtype == np.float32
    assert open_source(nhwc)[0]["image"].shape == (3, 12, 16)
    assert open_source(torch.from_numpy(nchw))[0]["image"].shape == (5, 12, 16)
    assert open_source(nhwc[..., 0])[0]["image"].shape == (1, 12, 16)
    assert open_source(nhwc[..., 0] > 9)[0]["image"].max() == 255
    with pytest.raises(DataError, match=r'which axis holds the channels; give layout="NCHW" or layout="NHWC"'):
        open_source(np.zeros((4, 3, 5, 3)))
    assert open_source(np.zeros((4, 3, 5, 3)), layout="NHWC")[0]["image"].shape == (3, 3, 5)
    with pytest.raises(DataError, match="which axis holds the channels"):
        open_source(np.zeros((4, 32, 32, 32)))
    with pytest.raises(DataError, match="layout='CWH' is not known"):
        open_source(nchw, layout="CWH")
    with pytest.raises(DataError, match=r"has shape \(4,\)"):
        open_source(np.zeros(4))
    with pytest.raises(DataError, match="is empty"):
        open_source(np.zeros((0, 3, 4)))
    np.save(tmp_path / "all.npy", nhwc)
    source = open_source(tmp_path / "all.npy")
    assert not source.in_memory and np.array_equal(source[2]["image"], nhwc[2].transpose(2, 0, 1))


def test_labelled_arrays(tmp_path):
    x = RNG.integers(0, 255, (6, 12, 16), dtype=np.uint8)
    source = open_source((x, ["b", "a", "b", "a", None, "a"]), group=np.arange(6) // 2)
    assert source.labels.tolist() == [1, 0, 1, 0, -1, 0] and source.label_names == ["a", "b"]
    assert source.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert open_source((x, torch.arange(6)[:, None])).labels.tolist() == list(range(6))
    assert open_source((x, [10, 10, 30, 30, 30, -1])).labels.tolist() == [0, 0, 1, 1, 1, -1]
    with pytest.raises(DataError, match=r"labels of array have shape \(5,\), but there are 6 samples"):
        open_source((x, np.arange(5)))
    with pytest.raises(DataError, match="has no split 'test'"):
        open_source(x, split="test")
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(6), names=np.array(["x"]))
    assert open_source(tmp_path / "a.npz").labels.tolist() == list(range(6))
    np.savez(tmp_path / "b.npz", p=x, q=x)
    with pytest.raises(DataError, match=r"2 arrays that may be the samples \(it holds: p .*name one of them 'x'"):
        open_source(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", anything=x)
    assert len(open_source(tmp_path / "c.npz")) == 6
    (tmp_path / "d.npz").write_bytes(b"PK broken")
    with pytest.raises(DataError, match=r"cannot be read as .npz"):
        open_source(tmp_path / "d.npz")


def test_digits():
    source = open_source()
    assert len(source) == 1297 and source.splits == ("test",) and len(source.split("test")) == 500
    assert source[0]["image"].shape == (1, 8, 8) and source.label_names == [str(i) for i in range(10)]
    assert not set(source.ids) & set(source.split("test").ids)
    assert open_source("digits", split="test").fingerprint() == source.split("test").fingerprint()


def write_parquet(path: Path, n: int, names: bool = True, **more) -> None:
    import io

    cells = []
    for i in range(n):
        file = io.BytesIO()
        Image.fromarray(picture()).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": f"{i}.png"})
    table = pa.table({"image": cells, "label": [i % 2 for i in range(n)], **more})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["x", "y"]}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)


def test_parquet(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", 5)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", 4)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", 3)
    source = open_source(tmp_path)
    assert len(source) == 9 and source.label_names == ["x", "y"] and source.splits == ("test",)
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1] and len(source.split("test")) == 3
    assert source[8]["image"].shape == (3, 12, 16)
    single = open_source(tmp_path / "test-00000-of-00001.parquet")
    assert len(single) == 3 and single.splits == ()
    with pytest.raises(DataError, match="no column 'kind' for label="):
        open_source(tmp_path, label="kind")
    write_parquet(tmp_path / "bytes.parquet", 3, names=False, other=[b"", b"", b""])
    with pytest.raises(DataError, match="has 2 columns with encoded samples"):
        open_source(tmp_path / "bytes.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_source(tmp_path / "bad.parquet")


def test_parquet_of_plain_bytes_with_a_broken_cell(tmp_path):
    good = save(tmp_path / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [good, good[:40], good]}), tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="left out 1 of"):
        source = open_source(tmp_path / "a.parquet")
    assert len(source) == 2 and source.ids == ["0", "2"] and source.labels is None


def test_large_parquet_reads_row_groups(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", 20)
    whole = open_source(tmp_path / "a.parquet").fetch(range(20))
    monkeypatch.setattr("anymask.data.parquet.IN_MEMORY", 10)
    source = open_source(tmp_path / "a.parquet")
    assert "larger than 2 GiB" in source.notes[0]
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(whole, source.fetch(range(20))))
    assert source.fingerprint() == open_source(tmp_path / "a.parquet").fingerprint()


class Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, n):
        return self.items[n]


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_torch_datasets():
    images = [torch.rand(3, 12, 16) for _ in range(4)]
    assert open_source(Items(images))[0]["image"].shape == (3, 12, 16)
    pairs = open_source(Items([(Image.fromarray(picture()), n % 2) for n in range(4)]))
    assert pairs.labels.tolist() == [0, 1, 0, 1] and pairs[1]["image"].dtype == np.uint8
    named = open_source(Items([{"image": i.numpy(), "label": 3} for i in images]))
    assert named.labels.tolist() == [3] * 4 and np.array_equal(named[2]["image"], images[2].numpy())
    stream = open_source(Stream([(i, 1) for i in images]))
    assert stream.count is None and len(list(stream.iterate(1))) == 3
    with pytest.raises(TypeError, match="length of the stream"):
        len(stream)
    with pytest.raises(DataError, match="is empty"):
        open_source(Items([]))
    with pytest.raises(DataError, match="items of Items are complex, of no known kind"):
        open_source(Items([1j, 2j]))


def test_hugging_face():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"]),
                                  "who": datasets.Value("string")})
    rows = {"image": [Image.fromarray(picture()) for _ in range(6)], "label": [0, 1, 0, 1, 0, 1], "who": list("aabbcc")}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    source = open_source(dataset, group="who")
    assert len(source) == 6 and source.label_names == ["x", "y"] and source.labels.tolist() == rows["label"]
    assert source.groups.tolist() == rows["who"] and source[0]["image"].shape == (3, 12, 16)
    with pytest.raises(DataError, match="no column 'kind'; columns: image, label, who"):
        open_source(dataset, label="kind")
    both = open_source(datasets.DatasetDict({"test": dataset.select([0]), "train": dataset}))
    assert len(both) == 6 and both.splits == ("test",) and len(both.split("test")) == 1
    stream = open_source(dataset.to_iterable_dataset())
    assert stream.count is None and infer_schema(stream).fields["image"].shape == (3, 12, 16)
    direct = [s["image"] for s in stream.iterate(0)]
    assert np.array_equal(next(stream.iterate(4))["image"], direct[4]) and np.array_equal(direct[0], source[0]["image"])
    arrays = datasets.Dataset.from_dict({"image": [picture().tolist() for _ in range(3)]})
    assert open_source(arrays)[0]["image"].shape == (3, 12, 16)
    with pytest.raises(DataError, match="no column of a known kind"):
        open_source(datasets.Dataset.from_dict({"other": [[1, 2]]}))


def test_streaming_of_a_map_source(tmp_path):
    for n in range(4):
        save(tmp_path / f"{n}.png")
    stream, source = open_source(tmp_path, streaming=True), open_source(tmp_path)
    assert stream.count is None
    assert np.array_equal(next(stream.iterate(2))["image"], source[2]["image"])


def test_import_is_light():
    import subprocess
    import sys

    code = ("import sys, anymask.data; heavy = {'tifffile', 'datasets', 'pandas', 'matplotlib', 'transformers', "
            "'sklearn', 'pyarrow'} & set(sys.modules); sys.exit(', '.join(heavy) or None)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fingerprints(tmp_path):
    for n in range(3):
        save(tmp_path / f"a/{n}.png", np.full((8, 8, 3), n, np.uint8))
    first = open_source(tmp_path / "a").fingerprint()
    os.utime(tmp_path / "a/0.png", (1, 1))
    assert open_source(tmp_path / "a").fingerprint() == first == open_source(tmp_path / "a").cached().fingerprint()
    save(tmp_path / "a/0.png", np.full((8, 8, 3), 99, np.uint8))
    assert open_source(tmp_path / "a").fingerprint() != first
    x = np.zeros((4, 8, 8), np.uint8)
    assert open_source((x, [0, 1, 0, 1])).fingerprint() != open_source((x, [0, 1, 1, 1])).fingerprint()


def test_quiet_on_good_data(tmp_path):
    save(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", picture())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_source(tmp_path).cached().fetch([0, 1])) == 2
