"""Satellite scenes from GeoTIFF, .npy and arrays: bands, dates, resolution, windows, and what is wrong with them."""

import json

import numpy as np
import pytest
import tifffile
import torch

from anymask.data import DataError, SchemaError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.kinds._scene_columns import grouped
from anymask.data.kinds._scenes import canonical
from anymask.data.kinds.satellite import scenes
from anymask.recipe import find
from anymask.sizes import Size

S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def scene(bands=6, side=24, seed=0, dates=None):
    """(H, W, C) or (T, H, W, C) uint16."""
    shape = (bands, side, side) if dates is None else (bands, dates, side, side)
    x = np.nan_to_num(scenes(1, shape, seed)[0], nan=50.0)
    return (10 * np.moveaxis(x, 0, -1)).astype(np.uint16)


def save(path, values, *, geo=True, names=None, nodata=None, metres=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = []
    if geo:
        tags += [(33550, "d", 3, (metres, metres, 0.0)), (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1))]
    if names is not None:
        items = "".join(f'<Item name="DESCRIPTION" sample="{n}" role="description">{name}</Item>'
                        for n, name in enumerate(names))  # fmt: skip
        tags.append((42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>"))
    if nodata is not None:
        tags.append((42113, "s", 0, str(nodata)))
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", extratags=[
        (code, kind, count, value, True) for code, kind, count, value in tags], metadata=None)  # fmt: skip
    return path


def folder(root, classes=2, each=3, **how):
    for c in range(classes):
        for n in range(each):
            save(root / f"class{c}" / f"{n}.tif", scene(how.get("bands", 6), seed=10 * c + n),
                 **{k: v for k, v in how.items() if k != "bands"})  # fmt: skip
    return root


def test_a_folder_of_geotiffs_is_satellite_imagery(tmp_path):
    source = open_source(folder(tmp_path, names=("B2", "B3", "B4", "B8", "b8a", "B12")))
    assert list(source.kinds) == ["satellite"] and source.label_names == ["class0", "class1"] and len(source) == 6
    field = infer_schema(source).fields["satellite"]
    assert field.columns == ("B02", "B03", "B04", "B08", "B8A", "B12")
    assert field.shape == (6, 24, 24) and field.more["resolution"] == 10
    assert field.more["groups"] == [[0, 1, 2, 3], [4], [5]]
    np.testing.assert_array_equal(source[0]["satellite"], np.moveaxis(scene(seed=0), -1, 0))
    plain = source[0]["satellite"]
    assert plain.dtype == np.float32 and plain.shape == (6, 24, 24)


def test_pictures_stay_pictures(tmp_path):
    folder(tmp_path / "stains", geo=False)
    assert list(open_source(tmp_path / "stains").kinds) == ["image"]
    folder(tmp_path / "rgb", bands=3)
    assert list(open_source(tmp_path / "rgb").kinds) == ["image"]
    assert list(open_source(tmp_path / "stains", kind="satellite").kinds) == ["satellite"]
    folder(tmp_path / "land")
    assert list(open_source(tmp_path / "land", kind="image").kinds) == ["image"]


def test_values_without_data_are_nan(tmp_path):
    values = scene()
    values[:8, :8, 2] = 0
    save(tmp_path / "a.tif", values, nodata=0)
    save(tmp_path / "b.tif", scene(seed=1), nodata=0)
    source = open_source(tmp_path)
    assert np.isnan(source[0]["satellite"][2, :8, :8]).all() and not np.isnan(source[0]["satellite"][1]).any()


def test_bands_dates_and_resolution_from_a_file_beside(tmp_path):
    np.save(tmp_path / "s.npy", scene(13, 40, dates=3).astype(np.float32))
    dates = ["2018-11-02", "2019-03-05", "2019-07-09"]
    (tmp_path / "s.json").write_text(json.dumps({"bands": S2, "dates": dates, "resolution": 10}))
    source = open_source(tmp_path / "s.npy", kind="satellite")
    field = infer_schema(source).fields["satellite"]
    assert field.columns == S2 and field.more["dates"] == dates and field.more["resolution"] == 10
    assert field.shape == (13, 3, 32, 32)
    assert field.more["groups"] == [[1, 2, 3, 7], [4, 5, 6, 8], [11, 12], [0, 9, 10]]
    model = find("satmae").build(infer_schema(source), Size(64, 1, 2, 64, 1, 2))
    batch = next(iter(ordered_loader(source, infer_schema(source), batch_size=2)))
    tokens = model.tokenizer(batch)
    assert tokens.shape == (2, 4 * 3 * 64) and tokens.pos.shape[2] == 4  # year, month, row, column
    assert tokens.pos[0, ::64, :2].tolist()[:3] == [[0.5, 11.5], [1.5, 3.5], [1.5, 7.5]]
    place = model.positions(64)(tokens)[0]
    assert torch.cdist(place, place).add(10 * torch.eye(len(place))).min() > 1e-3  # all differ


@pytest.mark.parametrize(("told", "reason"), [
    ('{"bands": ["B02"]}', "1 names of bands are given for 5 bands"),
    ('{"bands": ["a", "b", "c", "d", "d"]}', "named twice: d"),
    ('{"dates": ["May 2019"]}', "is no date"),
    ('{"dates": ["2019-05-01"]}', "1 dates are given, and the scenes have 2"),
    ('{"resolution": "ten"}', "does not say what a scene is"),
    ("[1]", "does not say what a scene is"),
])  # fmt: skip
def test_a_file_beside_that_makes_no_sense(tmp_path, told, reason):
    np.save(tmp_path / "s.npy", scene(5, 24, dates=2))
    (tmp_path / "s.json").write_text(told)
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / "s.npy", kind="satellite")


def test_large_scenes_are_cut_into_windows_that_move_in_training(tmp_path):
    values = scene(5, 70).astype(np.float32)
    source = open_source(values, kind="satellite", window=32)
    schema = infer_schema(source)
    assert len(source) == 16 and schema.fields["satellite"].shape == (5, 32, 32)
    fixed = next(iter(ordered_loader(source, schema, batch_size=16)))["satellite"]
    whole = torch.from_numpy(np.moveaxis(values, -1, 0))
    for row, name in enumerate(source.ids):
        y, x = map(int, name.split(" at ")[1].split(","))
        assert torch.equal(fixed[row], whole[:, y : y + 32, x : x + 32])
    batch = next(iter(training_loader(source, schema, batch_size=16, steps=1, seed=0, workers=0)))
    moved = sum(not torch.equal(b, fixed[i]) for b, i in zip(batch["satellite"], batch["index"]))
    assert moved > 8
    windows = whole.unfold(1, 32, 1).unfold(2, 32, 1)  # C y x 32 32
    for one in batch["satellite"][:4]:
        assert (windows == one[:, None, None]).all(-1).all(-1).all(0).any()


def test_several_scenes_are_groups(tmp_path):
    for n in range(2):
        save(tmp_path / f"{n}.tif", scene(5, 280, n))
    source = open_source(tmp_path, window=128, stride=128)
    assert set(source.groups) == {"0.tif", "1.tif"} and len(source) == 2 * 9


def test_bands_that_vary_together_are_a_group():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 500))
    x = np.stack([base[n % 3] * (n + 1) + 0.1 * rng.normal(size=500) for n in range(9)])
    both = np.stack([x @ x.T, (x**2).sum(1)[:, None].repeat(9, 1), (x**2).sum(1)[None].repeat(9, 0)])
    assert grouped([f"band {n}" for n in range(9)], both) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert grouped(["a", "b"], both[:, :2, :2]) == [[0, 1]]
    assert [canonical(b) for b in ("B2", "b12", "B8A", "b8a", "NIR")] == ["B02", "B12", "B8A", "B8A", "NIR"]


def test_other_data_lack_bands_and_have_others(tmp_path):
    names = ("B02", "B03", "B04", "B08", "B11", "B12")
    trained = infer_schema(open_source(folder(tmp_path / "a", names=names)))
    given = open_source(folder(tmp_path / "b", names=("B12", "B03", "B04", "B08", "B02", "B05")))
    notes = trained.check(infer_schema(given))
    assert any("lacks the bands B11" in note for note in notes) and any("not used: B05" in note for note in notes)
    batch = next(iter(ordered_loader(given, trained, batch_size=6)))["satellite"]
    raw = given[0]["satellite"]
    assert batch.shape == (6, 6, 24, 24) and batch[:, 4].isnan().all()
    np.testing.assert_array_equal(batch[0, 0], raw[4])
    np.testing.assert_array_equal(batch[0, 5], raw[0])
    with pytest.raises(SchemaError, match="none of the bands"):
        trained.check(infer_schema(open_source(folder(tmp_path / "c"))))
    reflectance = scene(6, 24).astype(np.float32) / 1e5
    np.save(tmp_path / "r.npy", reflectance)
    (tmp_path / "r.json").write_text(json.dumps({"bands": names}))
    with pytest.raises(SchemaError, match="bring them to one unit"):
        trained.check(infer_schema(open_source(tmp_path / "r.npy", kind="satellite", window=16)))
    with pytest.raises(SchemaError, match="dates"):
        trained.check(infer_schema(open_source(scene(6, 40, dates=2), kind="satellite")))


def test_broken_scenes_are_left_out_and_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "class0" / "empty.tif").write_bytes(b"")
    whole = (tmp_path / "class0" / "0.tif").read_bytes()
    (tmp_path / "class0" / "text.tif").write_text("no picture")
    (tmp_path / "class1" / "cut.tif").write_bytes(whole[: len(whole) // 3])
    save(tmp_path / "class1" / "fewer.tif", scene(5))
    with pytest.warns(UserWarning, match="left out"):
        source = open_source(tmp_path)
        assert {name for name, _ in source.skipped} >= {"class0/empty.tif", "class0/text.tif", "class1/fewer.tif"}
        batch = next(iter(training_loader(source, infer_schema(source), batch_size=6, steps=1, seed=0, workers=0)))
    assert batch["satellite"].shape == (6, 6, 24, 24) and not batch["satellite"].isnan().any()


@pytest.mark.parametrize(("values", "reason"), [
    (np.zeros((24, 24), np.float32), r"\(H, W, C\)"),
    (np.zeros((24, 24, 5), complex), r"\(H, W, C\)"),
    (np.zeros((5, 3, 24), np.float32), "too few"),
    (np.full((24, 24, 5), np.nan, np.float32), "none of its pixels has data"),
    (np.full((24, 24, 5), np.inf, np.float32), "infinite"),
])  # fmt: skip
def test_what_is_no_scene_says_why(values, reason):
    with pytest.raises(DataError, match=reason):
        open_source(values, kind="satellite")


def test_a_pickle_and_wrong_options(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"p\.npy cannot be read"):
        open_source(tmp_path / "p.npy", kind="satellite")
    with pytest.raises(DataError, match="--window"):
        open_source(scene(5, 40), kind="satellite", window=4)
    with pytest.raises(DataError, match="take no labels"):
        open_source(scene(5, 40), kind="satellite", label="x")


def test_clouds_and_missing_dates_are_not_seen():
    """A date that is NaN gives tokens that are not valid; single pixels count as the mean of their band."""
    values = np.moveaxis(np.nan_to_num(scenes(1, (5, 3, 32, 32), 0)[0]), 0, -1)
    values[1] = np.nan
    values[0, 3, 3, 2] = np.nan
    source = open_source(values, kind="satellite", window=16)
    schema = infer_schema(source)
    batch = next(iter(ordered_loader(source, schema, batch_size=len(source))))
    model = find("satmae").build(schema, Size(32, 1, 2, 32, 1, 2))
    tokens = model.tokenizer(batch)
    valid = tokens.valid.unflatten(1, (model.tokenizer.kinds, 3, -1))
    assert not valid[:, :, 1].any() and valid[:, :, 0].all() and valid[:, :, 2].all()
    step = model(batch)
    assert torch.isfinite(step.loss)
