"""Volumes from NIfTI files and arrays: where their voxels are read, and what is wrong with them."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from anymask.data import DataError, SchemaError, infer_schema, open_source, ordered_loader, split_source
from anymask.data import training_loader as loader
from anymask.data.kinds import _volumes
from anymask.data.kinds._volume_sources import cases
from anymask.parts.tokenizers import Patches

AXES = np.diag([1.0, 1.0, 1.0, 1.0])


def head(shape=(40, 44, 36), seed=0):
    """Bright tissue in dark air."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    inside = (grid**2).sum(0) < 0.9
    return np.where(inside, 100 + 50 * grid[0] + rng.normal(size=shape), 0).astype(np.float32)


def save(path, values, affine=AXES, unit="mm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def affine_of(spacing, turn=(0, 1, 2), flip=(1, 1, 1), angle=0.0, origin=(5.0, -7.0, 3.0)):
    """Voxel axes in another order and direction, turned about the last world axis."""
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    matrix = np.zeros((3, 3))
    for axis, world in enumerate(turn):
        matrix[world, axis] = spacing[axis] * flip[axis]
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation @ matrix, origin
    return out


def ramp(shape, affine):
    """A linear function of world coordinates, which trilinear interpolation gives back exactly."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return (world @ [1.0, 2.0, 4.0]).astype(np.float32)


@pytest.mark.parametrize("affine", [
    affine_of((1, 1, 1)), affine_of((0.8, 1.1, 2.0)), affine_of((1, 1.2, 0.9), (2, 0, 1), (-1, 1, -1)),
    affine_of((1, 1, 1.5), angle=0.3), affine_of((0.4, 1, 1)),
])  # fmt: skip
def test_a_crop_has_the_values_at_its_world_coordinates(tmp_path, affine):
    save(tmp_path / "a.nii.gz", ramp((50, 46, 42), affine), affine)
    source = open_source(tmp_path / "a.nii.gz", window=16)
    column = source.columns["volume"]
    scan = column.cases[0].scans[0]
    assert len(source) > 8
    for row in (0, len(source) // 2, len(source) - 1):
        crop = source[row]["volume"]
        place = column.frames[0].affine
        index = np.stack(np.meshgrid(*[np.arange(16) + s for s in crop.start], indexing="ij"), -1)
        wanted = (index @ place[:3, :3].T + place[:3, 3]) @ [1.0, 2.0, 4.0]
        got = crop.read()[0]
        assert got.shape == (16, 16, 16) and not np.isnan(got).all()
        wanted = np.clip((wanted - scan.low) / (scan.high - scan.low), 0, 1)
        there = ~np.isnan(got)
        np.testing.assert_allclose(got[there], wanted[there], atol=2e-4)
    # The frame's axes point right, anterior and superior, at the common spacing.
    assert np.diag(place[:3, :3]).min() > 0
    np.testing.assert_allclose(np.linalg.norm(place[:3, :3], axis=0), column.spacing, rtol=1e-6)


def test_scans_of_a_case_show_the_same_tissue_whatever_their_grids(tmp_path):
    one, two = affine_of((1, 1, 1)), affine_of((0.9, 1.3, 2.2), (1, 0, 2), (1, -1, 1), angle=0.15, origin=(42, -5, 1))
    for case in ("p1", "p2"):
        save(tmp_path / case / "t1.nii.gz", ramp((44, 44, 40), one), one)
        save(tmp_path / case / "t2.nii.gz", ramp((44, 30, 20), two), two)
    source = open_source(tmp_path, window=16)
    column = source.columns["volume"]
    assert column.modalities == ("t1", "t2") and len(column.cases) == 2
    a, b = column.cases[0].scans
    shared = 0
    for row in range(len(source)):
        x, y = source[row]["volume"].read()
        both = (x > 0) & (x < 1) & (y > 0) & (y < 1)
        shared += both.sum()
        raw = x * (a.high - a.low) + a.low, y * (b.high - b.low) + b.low
        np.testing.assert_allclose(raw[0][both], raw[1][both], atol=0.3)
    assert shared > 10_000


def test_volumes_of_several_spacings_are_read_at_the_median_one(tmp_path):
    for n, side in enumerate((0.5, 1.0, 4.0)):
        save(tmp_path / f"{n}.nii", head((60, 60, 60) if side < 1 else (30, 30, 30)), affine_of((side,) * 3))
    source = open_source(tmp_path, window=16)
    field = infer_schema(source).fields["volume"]
    assert field.more["spacing"] == [1.0, 1.0, 1.0] and field.more["finest"] == 0.5 and field.more["coarsest"] == 4.0
    # Blocks of 2 x 2 x 2 voxels of the fine one were averaged.
    column = source.columns["volume"]
    values, affine = column.held.get(column.cases[0].scans[0], column.spacing)
    np.testing.assert_allclose(values[3, 4, 5], head((60, 60, 60))[6:8, 8:10, 10:12].mean(), rtol=1e-5)
    np.testing.assert_allclose(affine[:3, 3], affine_of((0.5,) * 3)[:3, 3] + 0.25)
    assert [at.size[0] for at in column.frames] == [30, 30, 117]


def test_intensities_are_scaled_by_percentiles_and_hounsfield_units_are_kept(tmp_path):
    save(tmp_path / "mr" / "a.nii", head())
    save(tmp_path / "mr" / "b.nii", head(seed=1) * 7)
    ct = np.where(head() > 0, head() - 60, -1000).astype(np.int16)
    ct[20, 20, 18] = 9_000  # metal
    for name in ("a", "b"):
        save(tmp_path / "ct" / f"{name}.nii", ct)
    mr, ct_field = (infer_schema(open_source(tmp_path / name)).fields["volume"] for name in ("mr", "ct"))
    assert (mr.low, mr.high, mr.more["scaling"]) == (0.0, 1.0, ["percentiles"])
    x, y = (open_source(tmp_path / "mr", window=32)[n]["volume"].read() for n in (0, 0))
    np.testing.assert_array_equal(x, y)
    values = open_source(tmp_path / "mr")
    one, two = (values[n]["volume"].read() for n in range(2))
    assert abs(np.nanmean(one) - np.nanmean(two)) < 0.01  # whatever the unit
    assert ct_field.more["scaling"] == ["hounsfield"] and ct_field.low == -1024 and ct_field.high == 3071
    assert np.nanmin(open_source(tmp_path / "ct")[0]["volume"].read()) == -1024  # beside the scan, air
    (tmp_path / "mr" / "c.nii").write_bytes((tmp_path / "ct" / "a.nii").read_bytes())
    mixed = open_source(tmp_path / "mr")
    assert "1 of 3 scans of 'volume' are in Hounsfield units" in mixed.notes[0]
    assert infer_schema(mixed).fields["volume"].more["scaling"] == ["percentiles"]


def test_crops_move_in_training_and_stay_otherwise(tmp_path):
    for n in range(2):
        save(tmp_path / f"{n}.nii.gz", head((60, 60, 60), n))
    source = open_source(tmp_path, window=32)
    schema = infer_schema(source)
    assert schema.fields["volume"].shape == (1, 32, 32, 32) and len(source) == 2 * 8
    batch = lambda seed: next(iter(loader(source, schema, batch_size=4, steps=1, seed=seed, workers=0)))
    first, again, other = batch(0), batch(0), batch(1)
    assert torch.equal(first["volume"], again["volume"])
    index = int(first["index"][0])
    fixed = {int(i): v for b in ordered_loader(source, schema, batch_size=3) for i, v in zip(b["index"], b["volume"])}
    assert len(fixed) == 16 and not torch.equal(fixed[index], first["volume"][0])
    assert not torch.equal(first["volume"], other["volume"])
    grid = source[index]["volume"].read()
    np.testing.assert_array_equal(fixed[index].numpy(), grid)
    # A moved crop is a part of the same volume.
    moved = source[index]["volume"].read(np.random.default_rng(3))
    whole = open_source(tmp_path, window=60)[index // 8]["volume"].read()
    assert any((np.abs(whole[:, a : a + 32, b : b + 32, c : c + 32] - moved) < 1e-6).all()
               for a in range(29) for b in range(29) for c in range(29))  # fmt: skip


def test_crops_without_foreground_are_left_out_and_groups_are_volumes(tmp_path):
    empty = np.zeros((96, 32, 32), dtype=np.int16)
    empty[:30, 2:30, 2:30] = 300 + np.arange(30)[:, None, None]
    save(tmp_path / "a.nii.gz", empty)
    save(tmp_path / "b.nii.gz", head((32, 32, 32)))
    source = open_source(tmp_path, window=32)
    assert source.ids == ["a.nii.gz at 0,0,0", "b.nii.gz at 0,0,0"]
    train, test = split_source(source)
    assert not set(train.groups) & set(test.groups)


def test_what_lies_beside_a_small_scan_is_not_valid(tmp_path):
    for n in range(2):
        save(tmp_path / f"{n}.nii", head((20, 44, 44), n))
    source = open_source(tmp_path, window=32)
    schema = infer_schema(source)
    batch = next(iter(ordered_loader(source, schema, batch_size=2)))
    assert batch["volume"].shape == (2, 1, 32, 32, 32)
    assert batch["volume"][:, :, 24:].isnan().all() and not batch["volume"][:, :, :24].isnan().any()
    assert (batch["volume"][:, :, 20:24] == 0).all()  # background, in patches that the scan reaches into
    from types import SimpleNamespace

    tokens = Patches(SimpleNamespace(schema=schema), patch=8)(batch)
    assert tokens.valid.unflatten(1, (4, 4, 4))[:, :3].all() and not tokens.valid.unflatten(1, (4, 4, 4))[:, 3].any()
    assert not tokens.x["volume"].isnan().any()


# Cases.


def written(root, names):
    for n, name in enumerate(names):
        save(root / name, head((20, 20, 20), n))
    return root


@pytest.mark.parametrize(("names", "modalities", "count", "missing"), [
    (["p1/t1.nii", "p1/t2.nii", "p2/t1.nii", "p2/t2.nii", "p3/t2.nii"], ("t1", "t2"), 3, [1, 0]),
    ([f"B_{n}/B_{n}_{m}.nii" for n in (1, 2) for m in ("t1", "t1ce", "seg")], ("t1", "t1ce"), 2, [0, 0]),
    ([f"sub-0{n}/anat/sub-0{n}_{m}.nii.gz" for n in (1, 2) for m in ("T1w", "T2w")], ("T1w", "T2w"), 2, [0, 0]),
    (["c1_0000.nii.gz", "c1_0001.nii.gz", "c2_0000.nii.gz"], ("0000", "0001"), 2, [0, 1]),
    (["chris/t1.nii.gz", "chris/pd.nii.gz"], ("pd", "t1"), 1, [0, 0]),
])  # fmt: skip
def test_folders_of_cases(tmp_path, names, modalities, count, missing):
    source = open_source(written(tmp_path, names), window=16)
    column = source.columns["volume"]
    assert column.modalities == modalities and len(column.cases) == count
    assert [sum(case.scans[n] is None for case in column.cases) for n in range(len(modalities))] == missing
    field = infer_schema(source).fields["volume"]
    assert field.columns == modalities and field.shape == (len(modalities), 16, 16, 16)
    np.testing.assert_allclose(field.gaps, np.array(missing) / count)


def test_a_missing_scan_is_nan_and_its_tokens_are_not_valid(tmp_path):
    source = open_source(written(tmp_path, ["p1/a.nii", "p1/b.nii", "p2/a.nii", "p2/b.nii", "p3/b.nii"]), window=16)
    row = source.groups.tolist().index("p3")
    x = source[row]["volume"].read()
    assert np.isnan(x[0]).all() and not np.isnan(x[1]).any()


def test_names_of_channels_come_from_the_dataset_json_of_nnunet(tmp_path):
    written(tmp_path / "imagesTr", ["c1_0000.nii.gz", "c1_0001.nii.gz", "c2_0000.nii.gz"])
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}}))
    assert open_source(tmp_path / "imagesTr", window=16).columns["volume"].modalities == ("FLAIR", "T1")


def test_volumes_of_their_own_names_are_no_cases(tmp_path):
    names = [f"{c}/{c}{n}.nii" for c in ("sick", "well") for n in range(2)]
    source = open_source(written(tmp_path, names), window=16)
    assert source.columns["volume"].modalities == ("volume",) and source.label_names == ["sick", "well"]
    assert dict(zip(source.groups, source.labels))["well/well1.nii"] == 1
    assert cases(tmp_path, names) is None


def test_splits_and_tables(tmp_path):
    written(tmp_path / "x", [f"{s}/{s}{n}.nii" for s in ("train", "test") for n in range(2)])
    source = open_source(tmp_path / "x", window=16)
    assert source.splits == ("test",) and set(source.split("test").groups) == {"test0.nii", "test1.nii"}
    written(tmp_path / "y", ["a.nii", "b.nii", "c.nii"])
    (tmp_path / "y" / "metadata.csv").write_text("file_name,label,site,split\na.nii,AD,1,train\nb.nii,CN,1,train\n"
                                                 "c.nii,CN,2,test\n")  # fmt: skip
    source = open_source(tmp_path / "y", window=16, group="site")
    assert source.label_names == ["AD", "CN"] and set(source.groups) == {"1"} and set(source.labels) == {0, 1}
    assert set(source.split("test").groups) == {"2"}


def test_arrays_and_images_in_python(tmp_path):
    arrays = np.stack([head((24, 24, 24), n) for n in range(3)])
    for given in (arrays, torch.from_numpy(arrays), list(arrays)):
        source = open_source(given, kind="volume", window=16)
        assert len(source.columns["volume"].cases) == 3
    images = [nib.Nifti1Image(a, affine_of((2, 2, 2))) for a in arrays]
    field = infer_schema(open_source(images, window=16)).fields["volume"]
    assert field.more["spacing"] == [2.0, 2.0, 2.0]
    np.save(tmp_path / "all.npy", arrays)
    assert len(open_source(tmp_path / "all.npy", kind="volume", window=16).columns["volume"].cases) == 3
    np.save(tmp_path / "one.npy", arrays[0])
    assert len(open_source(tmp_path / "one.npy", kind="volume", window=16).columns["volume"].cases) == 1


# A trained model's data.


def test_other_data_are_read_as_in_training(tmp_path):
    written(tmp_path / "a", ["p1/t1.nii", "p1/t2.nii", "p2/t1.nii", "p2/t2.nii"])
    for name in ("q1/t2.nii", "q1/ct.nii", "q2/t2.nii", "q2/ct.nii"):
        save(tmp_path / "b" / name, head((30, 30, 30)), affine_of((0.5, 0.5, 0.5)))
    ours, theirs = (infer_schema(open_source(tmp_path / n, window=16)) for n in ("a", "b"))
    notes = ours.check(theirs)
    assert any("ct" in note for note in notes) and any("1 x 1 x 1 mm" in note for note in notes)
    source = open_source(tmp_path / "b", window=16)
    batch = next(iter(ordered_loader(source, ours, batch_size=len(source))))
    assert batch["volume"].shape == (len(source), 2, 16, 16, 16)
    assert batch["volume"][:, 0].isnan().all() and not batch["volume"][:, 1].isnan().all()
    written(tmp_path / "c", ["a.nii", "b.nii"])
    with pytest.raises(SchemaError, match=r"CASE/t1.nii.gz"):
        ours.check(infer_schema(open_source(tmp_path / "c", window=16)))


# What is wrong with files.


def test_broken_files_are_left_out_and_named(tmp_path):
    save(tmp_path / "good.nii.gz", head())
    save(tmp_path / "other.nii.gz", head(seed=1))
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    whole = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii").write_text("not a volume")
    save(tmp_path / "flat.nii", np.full((20, 20, 20), 3, dtype=np.int16))
    save(tmp_path / "series.nii", np.random.default_rng(0).normal(size=(8, 8, 8, 5)).astype(np.float32))
    holed = head()
    holed[20, 20, 18] = np.inf
    save(tmp_path / "infinite.nii", holed)
    save(tmp_path / "slice.nii", head()[:, :, :1])
    colours = np.zeros((9, 9, 9), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(tmp_path / "colours.nii", colours)
    source = open_source(tmp_path, window=16)
    assert {c.name for c in source.columns["volume"].cases} == {"good.nii.gz", "other.nii.gz"}
    told = "\n".join(source.notes)
    assert len(source.notes) == 6 and "3 more scans are not readable" in told
    with pytest.raises(DataError, match="8 of 10 scans"):
        open_source(tmp_path, window=16, strict=True)


@pytest.mark.parametrize(("values", "reason"), [
    (np.full((20, 20, 20), 3.0), "all of its voxels have one value"),
    (np.full((20, 20, 20), np.nan), "all of its voxels have one value"),
    (np.zeros((20, 20, 20, 4)), "has the axes 20 x 20 x 20 x 4; a volume has three"),
    (np.zeros((20, 20, 1)), "at least 2 along each axis"),
    (np.zeros((20, 20, 20), dtype=complex), "not single numbers"),
])  # fmt: skip
def test_what_is_no_volume_says_why(tmp_path, values, reason):
    save(tmp_path / "a.nii", values.astype(np.complex64 if values.dtype.kind == "c" else np.float32))
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / "a.nii")


def test_nan_in_a_file_is_background(tmp_path):
    values = head()
    values[values == 0] = np.nan
    save(tmp_path / "a.nii", values)
    crop = open_source(tmp_path / "a.nii", window=32)[0]["volume"].read()
    assert not np.isnan(crop).any() and crop.min() == 0


def test_a_crop_of_an_impossible_size_and_other_options(tmp_path):
    written(tmp_path, ["a.nii", "b.nii"])
    with pytest.raises(DataError, match="window=4"):
        open_source(tmp_path, window=4)
    with pytest.raises(DataError, match="--window"):
        infer_schema(open_source(tmp_path, window=16), size=32)
    with pytest.raises(DataError, match="no split 'test'"):
        open_source(tmp_path, split="test")
    with pytest.raises(DataError, match=r"no metadata\.csv"):
        open_source(tmp_path, label="age")


def test_units_of_the_header_are_heeded(tmp_path):
    save(tmp_path / "a.nii", head(), affine_of((100, 100, 100)), unit="micron")
    assert _volumes.survey("a", tmp_path / "a.nii").spacing == pytest.approx([0.1, 0.1, 0.1])


# What is trained.


@pytest.mark.parametrize("item", ["no leak", "reach", "padding", "order", "gradients", "stored", "fits"])
def test_mae_of_volumes_passes_the_contract(item):
    from anymask.contract import ITEMS, subject_of
    from anymask.contract.data import example_schema

    subject = subject_of("mae", schema=example_schema("volume"))
    assert subject.build().tokenizer(subject.batch).valid.all(1).tolist() == [True, True, False, True]
    ITEMS[item](subject)
