"""Schemas, loaders, augmentation, splits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anymask import keyed
from anymask.data import (
    DataError,
    Schema,
    SchemaError,
    duplicates_across,
    few_label_draws,
    infer_schema,
    open_source,
    ordered_loader,
    split_source,
    training_loader,
)
from anymask.data.augment import Compose, Cover, FitSize, Flip, RandomCrop, RandomResizedCrop, resize
from anymask.data.training import StreamSteps

RNG = np.random.default_rng(1)
REAL = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def small(n: int = 20, shape: tuple[int, ...] = (3, 16, 16)):
    x = RNG.integers(0, 256, (n, *shape), dtype=np.uint8)
    return open_source((x, np.arange(n) % 4), layout="NCHW")


def folder(path: Path, sizes: list[tuple[int, int]]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for n, (h, w) in enumerate(sizes):
        Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(path / f"{n:03}.png")
    return path


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- schema

def test_schema_figures_and_json():
    x = RNG.integers(0, 200, (30, 2, 6, 8)).astype(np.float32)
    x[:, 1] = 7
    schema = infer_schema(open_source((x, np.arange(30) % 3), layout="NCHW"))
    field = schema.fields["image"]
    assert field.shape == (2, 6, 8) and field.dtype == "float32" and schema.count == 30
    assert np.allclose(field.mean, x.mean((0, 2, 3)), rtol=1e-5) and field.std[1] == 1.0
    assert field.std[0] == pytest.approx(x[:, 0].std(), rel=1e-5) and (field.low, field.high) == (x.min(), x.max())
    assert "channel(s) 1 of 'image' are constant" in field.notes[0]
    assert schema.labels == {"names": ["0", "1", "2"], "counts": [10, 10, 10]}
    assert Schema.from_json(schema.to_json()) == schema
    rows = dict(schema.describe())
    assert rows["samples"] == "30" and rows["image"] == "2 channels, float32, 0 to 199"


def test_training_sizes(tmp_path):
    mixed = open_source(folder(tmp_path, [(100, 140), (90, 70), (120, 75), (99, 99)]))
    field = infer_schema(mixed).fields["image"]
    assert field.shape == (3, 80, 80) and field.sizes == ((90, 70), (99, 87), (100, 140))
    assert infer_schema(mixed, size=32).fields["image"].shape == (3, 32, 32)
    assert infer_schema(mixed, size=(32, 48)).fields["image"].shape == (3, 32, 48)
    with pytest.raises(DataError, match="size=0 must be at least 1"):
        infer_schema(mixed, size=0)
    large = open_source(np.zeros((2, 300, 400, 3), np.uint8))
    assert infer_schema(large).fields["image"].shape == (3, 224, 224)
    assert infer_schema(open_source(np.zeros((2, 20, 33), np.uint8))).fields["image"].shape == (1, 20, 33)


def test_values_that_are_not_finite(tmp_path):
    x = np.ones((4, 8, 8), np.float32)
    x[2, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"sample 2 of array holds NaN or infinite values .*\(0, 3, 4\).*nan_to_num"):
        infer_schema(open_source(x))
    for n in range(4):
        np.save(tmp_path / f"{n}.npy", x[n])
    with pytest.raises(DataError, match=r"2.npy holds NaN"):
        infer_schema(open_source(tmp_path))


def test_check_names_the_difference():
    bytes_, floats = RNG.integers(0, 256, (9, 3, 8, 8), dtype=np.uint8), RNG.random((9, 3, 8, 8), dtype=np.float32)
    schema = infer_schema(open_source(bytes_))
    assert schema.check(infer_schema(open_source(bytes_[:5]))) == []
    with pytest.raises(SchemaError, match=r"float32 0.* in array; the model was trained on uint8 0..255.*x \* 255"):
        schema.check(infer_schema(open_source(floats)))
    with pytest.raises(SchemaError, match=r"divide by 255"):
        infer_schema(open_source(floats)).check(schema)
    with pytest.raises(SchemaError, match=r"convert the data to float32"):
        infer_schema(open_source(floats)).check(infer_schema(open_source(floats * 255)))
    with pytest.raises(SchemaError, match=r"has 1 channels .* trained on 3 .*channels=3"):
        schema.check(infer_schema(open_source(bytes_[:, 0])))
    other = infer_schema(open_source((np.zeros((9, 10, 8, 3), np.uint8), np.arange(9))))
    labelled = infer_schema(open_source((bytes_, np.arange(9) % 2)))
    notes = labelled.check(other)
    assert "10 x 8" in notes[0] and notes[1].startswith("labels differ: 9 classes")


# ---- training

def test_batches():
    source = small()
    schema = infer_schema(source)
    loader = training_loader(source, schema, batch_size=8, steps=5, seed=3)
    batches = list(loader)
    assert len(loader) == len(batches) == 5 and loader.workers == 0
    first = batches[0]
    assert {k: (tuple(v.shape), v.dtype) for k, v in first.items()} == {
        "image": ((8, 3, 16, 16), torch.uint8), "index": ((8,), torch.int64), "key": ((8,), torch.int64),
        "label": ((8,), torch.int64)}
    assert torch.equal(batches[2]["key"], keyed.keys(3, 2, batches[2]["index"]))
    seen = torch.cat([b["index"] for b in batches])
    assert sorted(seen[:20].tolist()) == sorted(seen[20:].tolist()) == list(range(20))  # epochs join without a gap
    assert not torch.equal(seen[:20], seen[20:])
    for batch in batches:
        assert torch.equal(batch["label"], batch["index"] % 4)
        assert np.array_equal(batch["image"][3].numpy(), source[int(batch["index"][3])]["image"])
    assert not torch.equal(seen, torch.cat([b["index"] for b in training_loader(source, schema, batch_size=8, steps=5,
                                                                                   seed=4)]))


@pytest.mark.parametrize("augment", [None, RandomResizedCrop(), Compose(RandomCrop(), Flip())])
def test_a_batch_depends_on_seed_and_step_only(augment):
    source = small()
    schema = infer_schema(source)
    how = dict(batch_size=6, steps=7, seed=5, augment=augment)
    whole = list(training_loader(source, schema, **how))
    late = list(training_loader(source, schema, start=4, **how))
    assert len(late) == 3 and all(equal(a, b) for a, b in zip(whole[4:], late))
    if augment is not None:
        state = torch.get_rng_state()
        parallel = training_loader(source, schema, workers=2, **how)
        assert all(equal(a, b) for a, b in zip(whole, parallel))
        assert torch.equal(state, torch.get_rng_state())


def test_ranks_share_a_batch():
    source = small(24)
    schema = infer_schema(source)
    one = list(training_loader(source, schema, batch_size=8, steps=6, seed=0))
    parts = [list(training_loader(source, schema, batch_size=4, steps=6, seed=0, rank=r, world=2)) for r in (0, 1)]
    for whole, a, b in zip(one, *parts):
        assert torch.equal(whole["index"], torch.cat([a["index"], b["index"]]))
        assert torch.equal(whole["image"], torch.cat([a["image"], b["image"]]))


def test_impossible_loaders():
    source = small(20)
    schema = infer_schema(source)
    with pytest.raises(DataError, match="batch of 21 is larger than array with 20 samples; lower --batch-size to 20"):
        training_loader(source, schema, batch_size=21, steps=1, seed=0)
    with pytest.raises(DataError, match=r"batch of 11 on 2 devices .* lower --batch-size to 10"):
        training_loader(source, schema, batch_size=11, steps=1, seed=0, world=2)
    with pytest.raises(DataError, match="0 <= rank < world"):
        training_loader(source, schema, batch_size=2, steps=1, seed=0, rank=2, world=2)
    with pytest.raises(DataError, match="unknown part 'sound'"):
        training_loader(source, schema, batch_size=2, steps=1, seed=0, augment={"sound": Flip()})


def test_mixed_sizes_are_brought_to_one(tmp_path):
    source = open_source(folder(tmp_path, [(40, 60), (50, 33), (64, 64), (36, 36)]))
    schema = infer_schema(source, size=32)
    for augment in (None, RandomResizedCrop(), Flip()):
        batch = next(iter(training_loader(source, schema, batch_size=4, steps=1, seed=0, augment=augment, workers=0)))
        assert batch["image"].shape == (4, 3, 32, 32) and batch["image"].dtype == torch.uint8


def test_sixteen_bit_becomes_int32():
    source = open_source(RNG.integers(0, 65536, (4, 1, 8, 8), dtype=np.uint16), layout="NCHW")
    schema = infer_schema(source)
    assert schema.fields["image"].dtype == "uint16"
    batch = next(iter(training_loader(source, schema, batch_size=4, steps=1, seed=0)))
    assert batch["image"].dtype == torch.int32 and batch["image"].max() > 32767


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_is_replaced_and_named(tmp_path, workers):
    source = open_source(folder(tmp_path, [(16, 16)] * 5 + [(16, 18)]))
    schema = infer_schema(source, size=16)
    (tmp_path / "002.png").write_bytes((tmp_path / "002.png").read_bytes()[:50])
    source = open_source(folder(tmp_path / "new", [(16, 16)] * 5 + [(16, 18)]))
    (tmp_path / "new/002.png").write_bytes((tmp_path / "002.png").read_bytes())
    with pytest.warns(UserWarning, match=r"left out 002.png"):
        batches = list(training_loader(source, schema, batch_size=6, steps=2, seed=0, workers=workers))
    assert source.skipped[0][0] == "002.png"
    assert all(sorted(b["index"].tolist()) == [0, 1, 3, 3, 4, 5] for b in batches)
    source.strict = True
    with pytest.raises(DataError, match=r"^002.png in new cannot be read"):
        list(training_loader(source, schema, batch_size=6, steps=2, seed=0, workers=workers))


def test_broken_file_in_a_cached_set(tmp_path):
    source = open_source(folder(tmp_path, [(16, 16)] * 5))
    schema = infer_schema(source)
    (tmp_path / "004.png").write_bytes((tmp_path / "004.png").read_bytes()[:50])
    with pytest.warns(UserWarning, match=r"left out 004.png"):
        batch = next(iter(training_loader(source, schema, batch_size=5, steps=1, seed=0)))
    assert sorted(batch["index"].tolist()) == [0, 0, 1, 2, 3] and source.skipped[0][0] == "004.png"
    assert [b["index"].tolist() for b in ordered_loader(source, schema, batch_size=3)] == [[0, 1, 2], [3]]


def test_cache_equals_source(tmp_path):
    source = open_source(folder(tmp_path, [(16, 16)] * 4))
    cached = source.cached()
    assert cached.in_memory and source.cached() is cached and not source.in_memory
    assert all(np.array_equal(source[i]["image"], cached[i]["image"]) for i in range(4))
    assert source.content_hash(1) == cached.content_hash(1) and cached.ids == source.ids
    mixed = open_source(folder(tmp_path / "mixed", [(16, 16), (16, 18)]))
    assert mixed.cached() is mixed


# ---- streams

class Stream(torch.utils.data.IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_resumes_exactly(monkeypatch, workers):
    monkeypatch.setattr("anymask.data.training.BUFFER", 16)
    items = [(torch.full((1, 4, 4), float(n)), n) for n in range(50)]
    source = open_source(Stream(items))
    schema = infer_schema(source)
    assert schema.count is None and dict(schema.describe())["samples"] == "unknown (stream)"
    how = dict(batch_size=7, steps=20, seed=1, augment=Flip(), workers=workers)
    whole = list(training_loader(source, schema, **how))
    for start in (1, 9, 17):
        fresh = open_source(Stream(items))
        assert all(equal(a, b) for a, b in zip(whole[start:], training_loader(fresh, schema, start=start, **how)))
    seen = torch.cat([b["index"] for b in whole])
    assert set(seen[:64].tolist()) == set(range(50)) and torch.equal(seen, torch.cat([b["label"] for b in whole]))
    assert seen[:50].tolist() != list(range(50))
    with pytest.raises(DataError, match="is a stream"):
        ordered_loader(source, schema, batch_size=2)


def test_stream_ranks(monkeypatch):
    source = open_source(small(30).columns["image"].array, layout="NCHW", streaming=True)
    schema = infer_schema(source)
    steps = [StreamSteps(source, schema=schema, batch_size=b, steps=3, start=0, seed=0, augment={"image": None}, rank=r,
                         world=w) for b, r, w in ((4, 0, 1), (2, 0, 2), (2, 1, 2))]
    for (one, _), (a, _), (b, _) in zip(*steps):
        assert torch.equal(one[0]["index"], torch.cat([a[0]["index"], b[0]["index"]]))


# ---- in order

def test_ordered_pads_to_a_multiple(tmp_path):
    source = open_source(folder(tmp_path, [(16, 24), (10, 30), (16, 16), (16, 16), (40, 8)]))
    schema = infer_schema(source, size=16)
    batches = list(ordered_loader(source, schema, batch_size=2, multiple=8))
    assert [tuple(b["image"].shape) for b in batches] == [(2, 3, 16, 32), (2, 3, 16, 16), (1, 3, 40, 8)]
    assert batches[0]["extent"].tolist() == [[16, 24], [10, 30]] and "extent" not in batches[1]
    assert torch.cat([b["index"] for b in batches]).tolist() == [0, 1, 2, 3, 4]
    assert not batches[0]["image"][1, :, 10:].any() and not batches[0]["image"][1, :, :, 30:].any()
    assert np.array_equal(batches[0]["image"][1, :, :10, :30].numpy(), source[1]["image"])
    assert torch.equal(batches[1]["key"], keyed.keys(0, 0, batches[1]["index"]))
    one = list(ordered_loader(source, schema, batch_size=5, size=12))
    assert one[0]["image"].shape == (5, 3, 12, 12) and "extent" not in one[0]
    parallel = ordered_loader(source, schema, batch_size=2, multiple=8, workers=2)
    assert all(equal(a, b) for a, b in zip(batches, parallel))


def test_ordered_bounds_memory(tmp_path, monkeypatch):
    source = open_source(folder(tmp_path, [(16, 16)] * 3 + [(64, 200)]))
    schema = infer_schema(source, size=16)
    (batch,) = ordered_loader(source, schema, batch_size=4, max_side=50)
    assert batch["image"].shape == (4, 3, 16, 50)
    monkeypatch.setattr("anymask.data.ordered.BATCH_PIXELS", 16 * 16 * 2)
    batches = list(ordered_loader(source, schema, batch_size=4))
    assert [b["index"].tolist() for b in batches] == [[0, 1], [2], [3]]
    with pytest.raises(DataError, match="positive numbers"):
        ordered_loader(source, schema, batch_size=0)


# ---- augmentation

@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_augmentations_keep_type_and_range(dtype, channels):
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    image = (RNG.random((channels, 20, 30)) * top).astype(dtype)
    image[:, :10] = top
    for augment in (RandomResizedCrop(), RandomCrop(), FitSize(), Compose(Cover(), RandomCrop(pad=0), Flip())):
        for n in range(5):
            out = augment(image, keyed.generator(0, 0, n), (16, 16))
            assert out.shape == (channels, 16, 16) and out.dtype == image.dtype
            assert out.min() >= (image.min() if dtype == "float32" else 0) and out.max() <= top
    a, b = (RandomResizedCrop()(image, keyed.generator(0, 0, 7), (16, 16)) for _ in range(2))
    assert np.array_equal(a, b)


def test_resizing_agrees_over_types():
    rng = np.random.default_rng(1)  # its own, so that the picture does not depend on which tests ran before
    image = rng.integers(60, 190, (3, 24, 31), dtype=np.uint8)  # no overshoot, which 8 bits clip between the passes
    for box in (None, (3.0, 2.0, 20.0, 22.0)):
        packed, planes = resize(image, (13, 40), box), resize(image.astype(np.float32), (13, 40), box)
        assert np.abs(packed - planes).max() <= 1.01  # rounding between the two passes
    torch_way = torch.nn.functional.interpolate(torch.from_numpy(image)[None].float(), (13, 13), mode="bicubic",
                                                antialias=True, align_corners=False)[0].clamp(0, 255)
    assert np.abs(torch_way.numpy() - resize(image.astype(np.float32), (13, 13))).max() < 0.1


def test_random_resized_crop_as_published():
    augment, boxes = RandomResizedCrop(scale=(0.2, 1.0)), []
    for n in range(2000):
        left, top, right, bottom = augment.box(np.random.default_rng(n), 100, 100)
        assert 0 <= left < right <= 100 and 0 <= top < bottom <= 100
        boxes.append((right - left, bottom - top))
    w, h = np.array(boxes).T
    assert 0.19 < (w * h / 1e4).min() < 0.25 and (w * h / 1e4).max() > 0.9
    assert (w / h).min() > 0.72 and (w / h).max() < 1.39
    assert RandomResizedCrop(ratio=(1, 1)).box(np.random.default_rng(0), 10, 1000)[3] == 10  # no try fits: centred
    flips = [Flip()(np.arange(2)[None, None], np.random.default_rng(n), (1, 2))[0, 0, 0] for n in range(200)]
    assert 70 < sum(flips) < 130


def test_random_crop_reflects():
    image = np.arange(5, dtype=np.uint8)[None, None].repeat(5, 1)
    rows = {tuple(RandomCrop(pad=2)(image, np.random.default_rng(n), (5, 5))[0, 0]) for n in range(50)}
    assert rows == {(2, 1, 0, 1, 2), (1, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 3), (2, 3, 4, 3, 2)}
    assert RandomCrop()(image[:, :1, :2], np.random.default_rng(0), (9, 9)).shape == (1, 9, 9)


# ---- splits

def test_split_by_label_and_group():
    source = small(40)  # ten a class
    train, test = split_source(source, fraction=0.25, seed=1)
    assert len(train) + len(test) == 40 and np.bincount(test.labels).tolist() == [2, 2, 2, 2]
    assert set(train.ids) | set(test.ids) == set(source.ids) and not set(train.ids) & set(test.ids)
    assert split_source(source, fraction=0.25, seed=1)[1].ids == test.ids
    grouped = open_source(np.zeros((40, 4, 4), np.uint8), group=np.arange(40) // 7)
    train, test = split_source(grouped, fraction=0.3)
    assert not set(train.groups) & set(test.groups) and 7 <= len(test) <= 19
    alone = open_source(np.zeros((4, 4, 4), np.uint8), group=np.zeros(4))
    with pytest.raises(DataError, match=r"all samples of array are of one group \(0.0\)"):
        split_source(alone)
    assert len(split_source(alone, groups=False)[1]) == 1
    with pytest.raises(DataError, match="fraction=2 must lie between 0 and 1"):
        split_source(source, fraction=2)
    with pytest.raises(DataError, match=r"subset of array: numbers must be 0..39"):
        source.subset([40])


def test_few_labels():
    labels = np.array([0] * 10 + [1] * 6 + [2] * 3 + [-1] * 5)
    draws = few_label_draws(labels, 3, 4, seed=0)
    assert len(draws) == 4 and all(np.bincount(labels[d]).tolist() == [3, 3, 3] for d in draws)
    assert not np.array_equal(draws[0], draws[1])
    assert all(np.array_equal(a, b) for a, b in zip(draws, few_label_draws(labels, 3, 4, seed=0)))
    assert few_label_draws(labels, "all", 2, 0)[1].tolist() == list(range(19))
    with pytest.raises(DataError, match=r"class 2 has 3 labelled sample\(s\), fewer than 5 a class; ask for 3"):
        few_label_draws(labels, 5, 1, 0)


def test_duplicates_across(tmp_path):
    x = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    Image.fromarray(x[4]).save(tmp_path / "a.png")
    Image.fromarray(x[1]).save(tmp_path / "b.bmp")
    assert duplicates_across(open_source(x), open_source(tmp_path)) == [(1, 1), (4, 0)]


# ---- real data

def real_source(name: str, **how):
    return open_source(REAL / name, **how)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real data here")
def test_cifar10():
    source = real_source("cifar10")
    assert len(source) == 50_000 and len(source.split("test")) == 10_000 and len(source.label_names) == 10
    part = source.split("test").subset(np.arange(0, 10_000, 20))
    schema = infer_schema(part)
    assert schema.fields["image"].shape == (3, 32, 32)
    batch = next(iter(training_loader(part, schema, batch_size=64, steps=1, seed=0, augment=RandomResizedCrop())))
    assert batch["image"].float().std() > 30 and part.cached().in_memory


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real data here")
def test_other_real_images():
    emoji = real_source("openmoji", split="test")
    assert len(emoji) == 357 and emoji.splits == ("train",) and len(emoji.labels) == 357
    satellite = real_source("eurosat_ms", kind="image")
    field = infer_schema(satellite).fields["image"]
    assert field.shape == (13, 64, 64) and field.dtype == "uint16" and satellite.splits == ("test", "validation")
    scenes = real_source("eolearn_patch/reference_scenes_s2_13band.npy")
    assert infer_schema(scenes).fields["image"].shape == (13, 101, 100)
    depth = infer_schema(real_source("redwood_livingroom/depth")).fields["image"]
    assert depth.dtype == "uint16" and depth.sizes[0] == (480, 640)


def test_values_that_a_schema_did_not_see_are_refused():
    x = np.ones((8, 4, 4), np.float32)
    schema = infer_schema(open_source(x))
    x[5, 0, 0] = np.inf
    source = open_source(x)
    for loader in (training_loader(source, schema, batch_size=8, steps=1, seed=0),
                   training_loader(source, schema, batch_size=8, steps=1, seed=0, augment=Flip()),
                   ordered_loader(source, schema, batch_size=8)):
        with pytest.raises(DataError, match=r"^sample 5 of array holds NaN or infinite"):
            list(loader)


def test_colour_never_becomes_grey_unasked():
    items = [Image.fromarray(np.zeros((8, 8), np.uint8)), Image.fromarray(np.zeros((8, 8, 3), np.uint8))]
    source = open_source(torch.utils.data.Subset(items, [0, 1]))
    with pytest.warns(UserWarning, match=r"left out 1 .* 3 channels, the set has 1; open with channels=3"):
        assert source.read(1)[1] == 0
    assert open_source(torch.utils.data.Subset(items, [0, 1]), channels=3)[0]["image"].shape == (3, 8, 8)


def test_scaling_down_is_noted(tmp_path):
    source = open_source(folder(tmp_path, [(16, 16), (16, 90)]))
    schema = infer_schema(source)
    assert "above max_side=64" in ordered_loader(source, schema, batch_size=2, max_side=64).notes[0]
    assert ordered_loader(source, schema, batch_size=2).notes == []


def test_broken_samples_of_a_stream(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    good = (folder(tmp_path, [(8, 8)]) / "000.png").read_bytes()
    cells = [{"bytes": good[:60] if n == 70 else good, "path": f"{n}.png"} for n in range(80)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    dataset = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    stream = dataset.cast_column("image", datasets.Image()).to_iterable_dataset()
    with pytest.warns(UserWarning, match=r"left out row 70 \(70.png\)"):
        source = open_source(stream)
        schema = infer_schema(source)
    assert source.skipped[0][0] == "row 70 (70.png)" and schema.fields["image"].shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"row 70 .*cannot be read"):
        infer_schema(open_source(stream, strict=True))
