"""Point clouds from files and objects, and what is wrong with them."""

import struct

import numpy as np
import pytest
import torch

from anymask.data import DataError, SchemaError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.augment import ScaleShift
from anymask.data.kinds import _clouds
from anymask.data.kinds.points import FEWEST, resampled, unit
from anymask.evaluation.inputs import raw_input


def cloud(n=50, seed=0, channels=3):
    return (5 + np.random.default_rng(seed).normal(size=(n, channels))).astype(np.float32)


def ply(points, names=("x", "y", "z"), form="ascii"):
    """A .ply file by hand; colours are bytes."""
    kinds = ["uchar" if name in ("red", "green", "blue") else "float" for name in names]
    head = f"ply\nformat {form} 1.0\ncomment by hand\nelement vertex {len(points)}\n"
    head += "".join(f"property {k} {n}\n" for k, n in zip(kinds, names)) + "end_header\n"
    if form == "ascii":
        cell = lambda v, k: f"{v:.6f}" if k == "float" else f"{int(v)}"
        rows = "\n".join(" ".join(map(cell, p, kinds)) for p in points)
        return (head + rows + "\n").encode()
    order = "<" if "little" in form else ">"
    code = order + "".join("B" if k == "uchar" else "f" for k in kinds)
    cell = lambda v, k: int(v) if k == "uchar" else float(v)
    body = b"".join(struct.pack(code, *map(cell, p, kinds)) for p in points)
    return head.encode() + body


def off(side=1.0):
    """A cube of 8 corners and 12 triangles."""
    corners = [(x, y, z) for x in (0, side) for y in (0, side) for z in (0, side)]
    faces = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6),
             (0, 6, 4), (1, 5, 7), (1, 7, 3)]  # fmt: skip
    rows = [f"{x} {y} {z}" for x, y, z in corners] + [f"3 {a} {b} {c}" for a, b, c in faces]
    return ("OFF\n8 12 0\n" + "\n".join(rows) + "\n").encode()


def written(folder, **files):
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_is_read_in_all_its_forms(tmp_path, form):
    points = [cloud(50), cloud(70, 1)]
    for n, each in enumerate(points):
        (tmp_path / f"{n}.ply").write_bytes(ply(each, form=form))
    source = open_source(tmp_path)
    assert len(source) == 2
    for n, each in enumerate(points):
        np.testing.assert_allclose(source[n]["points"], unit(each), atol=1e-5)
    field = infer_schema(source).fields["points"]
    assert field.shape == (70, 3) and field.sizes == ((50,), (60,), (70,)) and field.columns == ("x", "y", "z")


def test_normals_and_colours_of_a_ply_are_further_channels(tmp_path):
    names = ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "quality")
    points = np.concatenate([cloud(40, channels=6), np.random.default_rng(1).integers(0, 256, (40, 4))], 1)
    written(tmp_path, a_dot_ply=ply(points, names), b_dot_ply=ply(points, names, "binary_little_endian"))
    source = open_source(tmp_path)
    field = infer_schema(source).fields["points"]
    assert field.columns == names[:9]
    for n in (0, 1):
        np.testing.assert_allclose(source[n]["points"][:, 3:], points[:, 3:9], atol=1e-5)
    assert field.mean[6] == pytest.approx(points[:, 6].mean(), rel=1e-4)


def test_clouds_with_different_channels_share_the_first(tmp_path):
    written(tmp_path, a_dot_ply=ply(cloud(40)), b_dot_ply=ply(cloud(40, channels=6), ("x", "y", "z", "nx", "ny", "nz")))
    source = open_source(tmp_path)
    assert source[1]["points"].shape == (40, 3) and any("x, y, z are used" in note for note in source.notes)


def test_the_surface_of_a_mesh_is_sampled_the_same_each_time(tmp_path):
    written(tmp_path, train__cube__a_dot_off=off(), train__large__b_dot_off=off(90), test__cube__c_dot_off=off(),
            test__large__d_dot_off=off(7))  # fmt: skip
    source = open_source(tmp_path)
    assert source.labels.tolist() == [0, 1] and source.label_names == ["cube", "large"] and "test" in source.splits
    points = source[0]["points"]
    assert points.shape == (_clouds.SAMPLED, 3) and np.array_equal(points, open_source(tmp_path)[0]["points"])
    raw = _clouds.read(source.columns["points"].blobs[0]).points
    on = np.isclose(raw, 0, atol=1e-6) | np.isclose(raw, 1, atol=1e-6)
    assert on.any(1).all()  # every point is on a side
    sides = [(np.isclose(raw[:, axis], at, atol=1e-6)).mean() for axis in range(3) for at in (0, 1)]
    assert max(abs(share - 1 / 6) for share in sides) < 0.03  # by area, not by corner
    assert source.cached().in_memory  # parsed once, not in every epoch


@pytest.mark.parametrize("text", ["x,y,z\n", "50\n", "# made by hand\n", ""])
def test_text_files_with_headings_and_commas(tmp_path, text):
    points = cloud(50)
    comma = "," if "," in text else " "
    rows = "\n".join(comma.join(f"{v:.6f}" for v in row) for row in points)
    written(tmp_path, a_dot_xyz=(text + rows).encode(), b_dot_xyz=(text + rows + "\n").encode())
    np.testing.assert_allclose(open_source(tmp_path)[1]["points"], unit(points), atol=1e-5)


def test_txt_and_npy_are_clouds_where_that_is_asked_for(tmp_path):
    points = cloud(50, channels=6)
    np.savetxt(tmp_path / "a.txt", points, delimiter=",")
    np.save(tmp_path / "b.npy", points)
    source = open_source(tmp_path, kind="points")
    np.testing.assert_allclose(source[0]["points"], source[1]["points"], atol=1e-5)
    assert list(open_source(tmp_path).kinds) == ["image"]  # as bare .npy files are


def test_arrays_tensors_lists_and_data_sets():
    x = np.stack([cloud(40, n) for n in range(4)])
    y = [0, 1, 0, 1]
    ragged = [cloud(40), cloud(60, 1), torch.from_numpy(cloud(50, 2)), cloud(40, 3)]
    pairs = [(each, label) for each, label in zip(ragged, y)]
    for spec in (x, torch.from_numpy(x), (x, y), ragged, (ragged, y), pairs):
        source = open_source(spec)
        assert list(source.kinds) == ["points"] and len(source) == 4
        np.testing.assert_allclose(source[0]["points"], unit(cloud(40)), atol=1e-6)
        assert isinstance(spec, (np.ndarray, torch.Tensor)) or spec is ragged or source.labels.tolist() == y
    batch = next(iter(training_loader(open_source(ragged), infer_schema(open_source(ragged)), batch_size=4, steps=1,
                                      seed=0)))  # fmt: skip
    assert batch["points"].shape == (4, 60, 3)
    assert sorted((~batch["points"].isnan().any(2)).sum(1).tolist()) == [40, 40, 50, 60]


def test_kind_says_what_an_array_is():
    x = np.random.default_rng(0).random((4, 40, 3)).astype(np.float32)
    assert list(open_source(x).kinds) == ["points"]
    assert list(open_source(x, kind="image").kinds) == ["image"]
    assert list(open_source(x[..., [0, 1, 2, 0, 1, 2]]).kinds) == ["image"]
    assert open_source(x[..., [0, 1, 2, 0, 1, 2]], kind="points")[0]["points"].shape == (40, 6)
    assert list(open_source((x * 9).astype(np.uint8)).kinds) == ["image"]  # coordinates are real numbers
    assert list(open_source(x[0], kind="points").kinds) == ["points"] and list(open_source(x[0]).kinds) == ["table"]
    with pytest.raises(DataError, match=r"kind='point'.*there is: .*points"):
        open_source(x, kind="point")
    with pytest.raises(DataError, match="cannot be of kind table"):
        open_source(x, kind="table")


def test_npz_with_splits_labels_and_names(tmp_path):
    for split, n in (("train", 6), ("test", 4)):
        np.savez(tmp_path / f"{split}.npz", points=np.stack([cloud(30, i) for i in range(n)]), label=np.arange(n) % 2,
                 class_names=np.array(["chair", "lamp"]))  # fmt: skip
    source = open_source(tmp_path)
    assert len(source) == 6 and source.label_names == ["chair", "lamp"] and len(source.split("test")) == 4
    assert infer_schema(source).labels == {"names": ["chair", "lamp"], "counts": [3, 3]}
    assert len(open_source(tmp_path, split="test")) == 4
    with pytest.raises(DataError, match="no split 'validation'; there are: test, train"):
        open_source(tmp_path, split="validation")


def test_a_cloud_is_in_the_unit_ball_wherever_and_however_large_it_was():
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.testing.assert_allclose(unit(x), unit(x * 1e4 - 7e6), atol=1e-3)
    y = unit(x.astype(np.float32))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    assert np.linalg.norm(y, axis=1).max() == pytest.approx(1)


def test_samples_are_drawn_without_repetition_and_padded():
    x = cloud(50)
    few = resampled(x, 20, None)
    assert len(np.unique(few, axis=0)) == 20 and np.array_equal(few, resampled(x, 20, None))
    one, two = (resampled(x, 20, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one, two)
    more = resampled(x, 64, None)
    assert np.array_equal(more[:50], x) and np.isnan(more[50:]).all()


def test_augmentation_moves_coordinates_only():
    x = cloud(50, channels=6)
    y = ScaleShift()(x, np.random.default_rng(0), x.shape)
    assert np.array_equal(x[:, 3:], y[:, 3:])
    slope = np.polyfit(x[:, 0], y[:, 0], 1)
    np.testing.assert_allclose(np.polyval(slope, x[:, 0]), y[:, 0], atol=1e-5)
    assert 2 / 3 <= slope[0] <= 3 / 2 and abs(slope[1]) <= 0.2 + 1e-6


def test_raw_input_is_the_share_of_points_in_each_voxel():
    x = np.stack([cloud(40, n) for n in range(3)])
    source = open_source(x)
    raw = raw_input(source, infer_schema(source))
    assert raw.shape == (3, 512)
    np.testing.assert_allclose((raw**2).sum(1), 1, rtol=1e-5)
    expected = np.histogramdd(unit(x[0]).astype(np.float64), bins=8, range=[(-1, 1)] * 3)[0].ravel() / 40
    np.testing.assert_allclose(raw[0] ** 2, expected, atol=1e-6)


def test_training_points_may_be_chosen():
    source = open_source(np.stack([cloud(90, n) for n in range(3)]))
    schema = infer_schema(source, size=32)
    assert schema.fields["points"].shape == (32, 3)
    batch = next(iter(ordered_loader(source, schema, batch_size=3)))
    assert batch["points"].shape == (3, 32, 3) and not batch["points"].isnan().any()
    with pytest.raises(DataError, match="a number from 16 on"):
        infer_schema(source, size=(32, 32))


def test_data_of_other_channels():
    rng = np.random.default_rng(0)
    six, three = (infer_schema(open_source(rng.random((3, 40, c)), kind="points")) for c in (6, 3))
    with pytest.raises(SchemaError, match="has the channels x, y, z in array; the model was trained on x, y, z, ch"):
        six.check(three)
    assert "channel 3, channel 4, channel 5" in three.check(six)[0]
    source = open_source(rng.random((3, 40, 6)), kind="points")
    assert next(iter(ordered_loader(source, three, batch_size=3)))["points"].shape == (3, 40, 3)


BAD = {
    "empty.ply": (b"", "the file is empty"),
    "cut.ply": (ply(cloud(50), form="binary_little_endian")[:-100], "cannot be read as .ply"),
    "text.ply": (b"this is no ply file", "cannot be read as .ply"),
    "nan.ply": (ply(np.where(np.arange(50)[:, None] == 7, np.nan, cloud(50))), "point 7 holds a number that is not"),
    "few.ply": (ply(cloud(5)), f"it has 5 points; a cloud needs at least {FEWEST}"),
    "same.ply": (ply(np.ones((50, 3))), "all of its points are in one place"),
    "flat.off": (off(0), "its faces have no area"),
    "cut.off": (off()[:40], "cannot be read as .off"),
    "words.xyz": (b"1 2 3\n4 five 6\n" * 30, "not rows of as many numbers"),
    "two.xyz": (b"1 2\n" * 30, "its lines have 2 numbers"),
    "ragged.xyz": (b"1 2 3\n1 2\n" * 30, "not rows of as many numbers"),
    "bytes.xyz": (bytes(range(128, 256)), "it is not text"),
}


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_left_out_and_named(tmp_path, name):
    data, reason = BAD[name]
    (tmp_path / name).write_bytes(data)
    good = ply(cloud(40)) if name.endswith("ply") else off() if name.endswith("off") else b"1 2 3\n4 5 6\n" * 20
    for n in range(3):
        (tmp_path / f"good{n}{name[name.index('.'):]}").write_bytes(good)
    source = open_source(tmp_path)
    infer_schema(source)
    assert [left for left, _ in source.skipped] == [name] and reason in source.skipped[0][1], source.skipped
    with pytest.raises(DataError, match=f"{name}.*cannot be read"):
        infer_schema(open_source(tmp_path, strict=True))


def test_a_file_of_pickled_objects_is_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([cloud(40), cloud(41)], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"cannot be read as \.npy"):
        open_source(tmp_path, kind="points")


@pytest.mark.parametrize("value, words", [(np.inf, "point 3 of sample 1 of array holds a number that is not finite"),
                                          (np.nan, "sample 1 of array has 0 points")])  # fmt: skip
def test_bad_numbers_in_an_array_name_the_sample(value, words):
    x = np.stack([cloud(40, n) for n in range(3)])
    if np.isnan(value):
        x[1] = value
    else:
        x[1, 3, 0] = value
    with pytest.raises(DataError, match=words):
        infer_schema(open_source(x))


@pytest.mark.filterwarnings("ignore:left out")
def test_a_bad_cloud_of_a_list_is_left_out():
    each = [cloud(40, n) for n in range(4)]
    each[2][3] = np.inf
    source = open_source(each)
    infer_schema(source)
    assert [reason for _, reason in source.skipped] == ["it holds a number that is not finite"]
    other = open_source([*each[:3], cloud(40, 9)])
    assert source.fingerprint() != other.fingerprint()


def test_one_cloud_cannot_be_trained_on(tmp_path):
    (tmp_path / "one.ply").write_bytes(ply(cloud(40)))
    with pytest.raises(DataError, match="at least 2"):
        infer_schema(open_source(tmp_path / "one.ply"))


def test_without_trimesh_the_mend_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
    (tmp_path / "one.ply").write_bytes(ply(cloud(40)))
    with pytest.raises(DataError, match=r"pip install 'anymask\[points\]'"):
        open_source(tmp_path)
