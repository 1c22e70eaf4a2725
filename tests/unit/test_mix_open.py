"""Samples of several parts: how they are found, joined by id, split and collated."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from anymask.data import (
    DataError,
    Schema,
    duplicates_across,
    infer_schema,
    open_source,
    ordered_loader,
    split_source,
    training_loader,
)
from anymask.data.derive import DERIVATIONS, derived
from anymask.data.mix import mix, only, unpaired

RNG = np.random.default_rng(0)


def picture(path, size=(40, 32), channels=3, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, channels) if channels > 1 else size
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def depth(path, size=(40, 32), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(500, 5000, size, dtype=np.uint16)
    values[:3] = 0
    Image.fromarray(values).save(path)


@pytest.fixture
def rgbd(tmp_path):
    """Five pictures, four depth maps: that of 0003 is not there."""
    for n in range(5):
        picture(tmp_path / "rgb" / f"{n:04}.jpg", seed=n)
        if n != 3:
            depth(tmp_path / "depth" / f"{n:04}.png", seed=n)
    return tmp_path


def test_folders_whose_files_match_are_parts(rgbd):
    source = open_source(rgbd)
    assert {name: kind.name for name, kind in source.kinds.items()} == {"depth": "depth", "rgb": "image"}
    assert source.ids == ["0000", "0001", "0002", "0003", "0004"]
    assert source[3]["depth"] is None and source[3]["rgb"].shape == (3, 40, 32)
    with Image.open(rgbd / "depth" / "0002.png") as file:
        raw = np.asarray(file).astype(np.float32)
    np.testing.assert_array_equal(source[2]["depth"][0], np.where(raw > 0, raw, np.nan))
    schema = infer_schema(source)
    assert schema.fields["depth"].missing == pytest.approx(0.2) and schema.fields["rgb"].missing == 0
    assert schema.fields["depth"].gaps[0] == pytest.approx(3 / 40)
    known = np.nanmean([source[i]["depth"] for i in (0, 1, 2, 4)])
    assert schema.fields["depth"].mean[0] == pytest.approx(known, rel=1e-5)
    assert any("4 of 5 samples have every part; missing is 'depth' in 1" in note for note in source.notes)
    assert Schema.from_json(schema.to_json()) == schema


def test_folders_of_classes_stay_classes(tmp_path):
    for name in ("cat", "dog"):
        for n in range(3):
            picture(tmp_path / name / f"{n}.png", seed=n)
    source = open_source(tmp_path)
    assert set(source.kinds) == {"image"} and source.label_names == ["cat", "dog"]
    mixed = open_source(tmp_path, kind="mix")
    assert set(mixed.kinds) == {"cat", "dog"} and len(mixed) == 3


def test_splits_of_folders(tmp_path):
    for split, number in (("train", 3), ("val", 2)):
        for n in range(number):
            picture(tmp_path / split / "rgb" / f"{n}.jpg", seed=n)
            depth(tmp_path / split / "depth" / f"{n}.png", seed=n)
    source = open_source(tmp_path)
    assert source.ids == [f"train/{n}" for n in range(3)] and source.splits == ("validation",) and source.labels is None
    assert source.split("validation").ids == ["val/0", "val/1"]


def test_a_description(rgbd, tmp_path):
    (tmp_path / "notes.csv").write_text("frame,words,scene,part\n0000,a red chair,a,train\n0002,two lamps,a,train\n"
                                        "0004,the window,b,test\n0001,,b,train\n0003,no,b,test\n")
    (tmp_path / "numbers.csv").write_text("frame,height,weight\n0000,1,2\n0001,3,\n0003,5,6\n")
    (tmp_path / "mix.toml").write_text("""
        [fields.rgb]
        path = "rgb/{id}.jpg"
        [fields.depth]
        path = "depth"
        kind = "depth"
        [fields.words]
        path = "notes.csv"
        column = "words"
        id = "frame"
        [fields.body]
        path = "numbers.csv"
        kind = "table"
        id = "frame"
        [fields.luma]
        from = "rgb"
        derive = "luma"
        [samples]
        path = "notes.csv"
        id = "frame"
        label = "scene"
        split = "part"
    """)
    source = open_source(tmp_path / "mix.toml")
    assert {n: k.name for n, k in source.kinds.items()} == {
        "rgb": "image", "depth": "depth", "words": "text", "body": "table", "luma": "image"}
    assert source.ids == ["0000", "0002", "0001"] and source.labels.tolist() == [0, 0, 1] and source.splits == ("test",)
    held = source.split("test")
    assert held.ids == ["0004", "0003"] and held.split("train").ids == source.ids
    assert source[2]["words"] is None and held[1]["words"].tobytes() == b"no"
    assert source[1]["body"] is None and source[0]["body"].tolist() == [1, 2]
    assert np.isnan(source[2]["body"][1]) and held[1]["body"].tolist() == [5, 6]
    assert open_source(tmp_path).ids == source.ids  # found in its folder
    about = {"fields": {"rgb": {"path": "rgb"}, "depth": {"path": "depth", "required": True}}}
    (tmp_path / "mix.toml").unlink()
    (tmp_path / "other.json").write_text(json.dumps(about))
    assert open_source(tmp_path / "other.json").ids == ["0000", "0001", "0002", "0004"]


def test_a_folder_with_metadata(tmp_path):
    for n in range(4):
        picture(tmp_path / "images" / f"{n}.png", seed=n)
    (tmp_path / "metadata.csv").write_text("file_name,text,label\nimages/0.png,a cat,1\nimages/1.png,,0\n"
                                           "images/2.png,a dog on a mat,1\nimages/3.png,two cats,0\n")
    plain = open_source(tmp_path)
    assert set(plain.kinds) == {"image"} and any("--kind mix" in note for note in plain.notes)
    for source in (open_source(tmp_path, kind="mix"), open_source(tmp_path, text="text")):
        assert set(source.kinds) == {"image", "text"} and source.labels.tolist() == [1, 0, 1, 0]
        assert source.ids == [f"images/{n}.png" for n in range(4)] and source[1]["text"] is None
        np.testing.assert_array_equal(source[2]["image"], plain[2]["image"])


def test_objects_by_name():
    images = RNG.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    source = open_source({"image": (images, [0, 1, 0, 1]), "text": ["one", None, "two", "three"]})
    assert len(source) == 4 and source[1]["text"] is None and source.labels.tolist() == [0, 1, 0, 1]
    maps = [None, *images[1:, 0].astype(np.float32)]
    source = open_source({"fields": {"a": {"data": images}, "d": {"data": maps, "kind": "depth", "ids": [0, 1, 2, 9]}}})
    assert source.ids == ["0", "1", "2", "3", "9"] and source[4]["a"] is None and source[0]["d"] is None


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"fields": {}}, "no parts"),
        ({"fields": {"a": {"paht": "x"}}}, "did you mean 'path'"),
        ({"fields": {"a": {"path": "rgb", "kind": "imag"}}}, "unknown kind"),
        ({"fields": {"keys": {"path": "rgb"}}}, "cannot be called"),
        ({"fields": {"a": {"path": "nowhere"}}}, "does not exist"),
        ({"fields": {"a": {"path": "rgb/{name}.jpg"}}}, "needs {id}"),
        ({"fields": {"a": {"path": "rgb/{id}.tif"}}}, "no file below"),
        ({"fields": {"a": {"path": "rgb/000{id}.jpg"}, "d": {"path": "depth"}}}, "their ids differ"),
        ({"fields": {"a": {"path": "rgb"}, "l": {"from": "b"}}}, "is derived from 'b'"),
        ({"fields": {"a": {"path": "rgb"}, "l": {"from": "a", "derive": "lumen"}}}, "there is: luma, edges, colours"),
        ({"fields": {"a": {"path": "rgb"}}, "samples": {"path": "none.csv"}}, "is not there"),
        ({"fields": {"a": {"path": "rgb", "data": 3}}}, "one of path"),
        ({"fields": {"a": {"path": "rgb"}}, "name": "x", "file": 1}, "a mix has no 'file'"),
    ],
)
def test_mistakes_name_the_mend(rgbd, about, message):
    with pytest.raises(DataError, match=message):
        mix(about, root=rgbd)


def test_broken_files(rgbd, tmp_path):
    (tmp_path / "mix.toml").write_text("[fields.rgb\n")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path / "mix.toml")
    (tmp_path / "mix.toml").write_text("a = 1\n")
    with pytest.raises(DataError, match="describes no parts"):
        open_source(tmp_path / "mix.toml")
    (tmp_path / "mix.toml").unlink()
    (tmp_path / "depth" / "0001.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out 0001"):
        source = open_source(tmp_path)
    assert "0001" not in source.ids and len(source) == 4
    picture(tmp_path / "depth" / "0000.png", channels=3)
    with pytest.raises(DataError, match=r"0000\.png is uint8, 0002\.png is uint16"):
        open_source({"fields": {"d": {"path": str(tmp_path / "depth"), "kind": "depth"}}})


def test_batches_say_what_is_missing(rgbd):
    source = open_source(rgbd)
    schema = infer_schema(source)
    (batch,) = training_loader(source, schema, batch_size=5, steps=1, seed=0, workers=0)
    gone = batch["index"] == 3
    assert torch.equal(batch["depth.present"], ~gone) and "rgb.present" not in batch
    assert batch["depth"][gone].isnan().all() and batch["rgb"].shape == (5, 3, 40, 32)
    (batch,) = ordered_loader(source, schema, batch_size=5, multiple={"rgb": (8, 8), "depth": (16, 16)})
    assert batch["rgb"].shape[-2:] == (40, 32) and batch["depth"].shape[-2:] == (48, 32)
    assert batch["depth.extent"].tolist() == [[40, 32]] * 5 and "rgb.extent" not in batch
    assert batch["depth"][0, 0, 40:].isnan().all()
    pictures = only(source, ["rgb"])
    (batch,) = ordered_loader(pictures, schema, batch_size=5)
    assert not batch["depth.present"].any()


def test_images_alone_fit_a_schema_of_several_parts(rgbd):
    schema = infer_schema(open_source(rgbd))
    alone = open_source({"rgb": str(rgbd / "rgb")})
    notes = schema.check(infer_schema(alone))
    assert any("no part 'depth': it counts as missing" in note for note in notes)
    (batch,) = training_loader(alone, schema, batch_size=5, steps=1, seed=0, workers=0)
    assert batch["depth"].isnan().all() and not batch["depth.present"].any()


def test_parts_are_cropped_and_mirrored_together(rgbd):
    """Depth made of the picture itself: whatever happens to one happens to the other."""
    from anymask.data.augment import RandomResizedCrop

    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8) * 4, (3, 64, 64))
    images = np.stack([ramp, np.swapaxes(ramp, 1, 2)] * 2)
    about = {"image": images, "depth": {"data": images[:, 0].astype(np.float32) + 1, "kind": "depth"}}
    source = open_source({"fields": {n: v if isinstance(v, dict) else {"data": v} for n, v in about.items()}})
    schema = infer_schema(source)
    crop = RandomResizedCrop(scale=(0.2, 0.6))
    both = {"image": crop, "depth": crop}
    for batch in training_loader(source, schema, batch_size=4, steps=4, seed=1, augment=both, workers=0):
        gap = batch["depth"][:, 0] - 1 - batch["image"][:, 0]
        assert gap.abs().max() <= 6  # the nearest pixel, and bicubic values between pixels
        assert set(batch["depth"].unique().tolist()) <= set(range(1, 254, 4))  # never averaged


def test_in_memory_copies_keep_what_is_missing(rgbd):
    source = open_source(rgbd)
    kept = source.cached()
    assert kept is not source and kept.in_memory
    for a, b in zip(source.fetch(range(5)), kept.fetch(range(5))):
        for name in a:
            assert (a[name] is None) == (b[name] is None)
            if a[name] is not None:
                np.testing.assert_array_equal(a[name], b[name])
    assert kept.fingerprint() == source.fingerprint()


def test_splits_and_duplicates(rgbd):
    source = open_source(rgbd)
    train, test = split_source(source, fraction=0.4)
    assert sorted(train.ids + test.ids) == source.ids and not duplicates_across(train, test)
    pairs = duplicates_across(source, test)
    assert {(source.ids[i], test.ids[j]) for i, j in pairs} == {(name, name) for name in test.ids}


def test_unpaired(rgbd):
    images = RNG.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    source = open_source({"image": images, "text": [f"picture {n}" for n in range(40)]})
    for pairs, both in ((0.0, 0), (0.5, 20), (1.0, 40)):
        samples = unpaired(source, pairs=pairs).fetch(range(40))
        there = np.array([[value is not None for value in sample.values()] for sample in samples])
        assert there.all(1).sum() == both and there.any(1).all()
        assert there.sum(0).tolist() == [both + (40 - both) // 2] * 2


def test_derived_parts():
    image = RNG.integers(0, 256, (3, 3, 12, 10), dtype=np.uint8)
    source = derived(open_source((image, [0, 1, 0])), ["luma", "edges", "colours", "image"])
    sample = source[1]
    luma = np.rint(0.299 * image[1, 0] + 0.587 * image[1, 1] + 0.114 * image[1, 2])
    np.testing.assert_allclose(sample["luma"][0], luma, atol=1)
    from scipy.ndimage import sobel

    grey = np.tensordot(np.array([0.299, 0.587, 0.114]), image[1].astype(float), 1)
    for n, axis in enumerate((1, 0)):
        np.testing.assert_allclose(sample["edges"][n], np.abs(sobel(grey, axis, mode="nearest")) / 4, atol=0.51)
    bits = (image[1] >= 128).astype(int)
    np.testing.assert_array_equal(sample["colours"][0], 4 * bits[0] + 2 * bits[1] + bits[2])
    schema = infer_schema(source)
    assert schema.fields["colours"].more["classes"] == 8 and source.labels.tolist() == [0, 1, 0]
    assert set(DERIVATIONS) == {"luma", "edges", "colours"}
    assert set(open_source(image, derive="luma,edges").kinds) == {"luma", "edges"}
    with pytest.raises(DataError, match="there is: luma"):
        open_source(image, derive="lumma")


def test_class_maps_of_palettes(tmp_path):
    numbers = np.arange(16, dtype=np.uint8).reshape(4, 4) % 3
    numbers[0, 0] = 255
    for n in range(2):
        picture(tmp_path / "rgb" / f"{n}.png", size=(4, 4))
        file = Image.fromarray(numbers, "P")
        file.putpalette([n * 7 % 256 for n in range(768)])
        (tmp_path / "masks").mkdir(exist_ok=True)
        file.save(tmp_path / "masks" / f"{n}.png")
    source = open_source(tmp_path)
    assert source.kinds["masks"].name == "classmap"
    np.testing.assert_array_equal(source[0]["masks"][0], numbers)
    field = infer_schema(source).fields["masks"]
    assert field.more["classes"] == 3 and field.gaps[0] == pytest.approx(1 / 16)
