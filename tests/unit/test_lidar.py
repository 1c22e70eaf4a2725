"""Lidar sweeps: files, windows, occupied voxels against a dictionary, empty voxels, masks and heads."""

import time
from collections import defaultdict

import numpy as np
import pytest
import torch

from anymask import keyed
from anymask.contract.data import batch_of, example_schema
from anymask.data import DataError, SchemaError, infer_schema, open_source, split_source
from anymask.data.augment import MirrorScale
from anymask.data.kinds.lidar import CHANNELS, SIDE, centres
from anymask.evaluation.inputs import raw_input
from anymask.parts.voxels import EMPTY, voxelise
from anymask.recipe import RecipeError, Size, find

SIZE = Size(24, 2, 2, 16, 2, 2)


def sweep(n=3000, seed=0):
    """(n, 4): ground all around, in metres."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(-40, 40, (n, 2)), -1.7 + 0.1 * rng.normal(size=n), rng.random(n)]).astype("f4")


def folder(root, count=3):
    for n in range(count):
        sweep(seed=n).tofile(root / f"{n:06d}.bin")
    return root


def model_of(**changes):
    torch.manual_seed(0)
    return find("voxel-mae-lidar").but(changes).build(example_schema("lidar"), SIZE)


def test_windows_of_files(tmp_path):
    source = open_source(folder(tmp_path))
    count = len(centres())
    assert len(source) == 3 * count and source.ids[0] == "000000.bin at -24, -24 m"
    for row in (0, 24, count + 7):
        window = source[row]["lidar"]
        whole, middle = sweep(seed=row // count), centres()[row % count]
        inside = (np.abs(whole[:, :2] - middle) <= SIDE / 2).all(1)
        assert np.array_equal(window, whole[inside])
    train, test = split_source(source, fraction=0.3)
    assert set(train.groups).isdisjoint(test.groups)  # no sweep on both sides


def test_every_place_near_the_sensor_is_in_a_window():
    low, high = centres() - SIDE / 2, centres() + SIDE / 2
    for place in np.random.default_rng(0).uniform(-31.9, 31.9, (200, 2)):
        assert ((place >= low) & (place < high)).all(1).any()


def test_arrays_are_sweeps_where_that_is_asked_for():
    padded = np.full((2, 3100, 4), np.nan, dtype="f4")
    padded[:, :3000] = [sweep(), sweep(seed=1)]
    for spec in ([sweep(), torch.from_numpy(sweep(seed=1))], padded):
        source = open_source(spec, kind="lidar")
        assert len(source) == 2 * len(centres()) and source[24]["lidar"].shape[1] == 4
    assert list(open_source(sweep()).kinds) == ["table"]


def test_split_folders_and_one_file(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        folder(tmp_path / split, 1)
    source = open_source(tmp_path)
    assert source.current_split == "train" and len(source.split("test")) == len(centres())
    assert infer_schema(open_source(tmp_path / "train" / "000000.bin")).count == len(centres())
    with pytest.raises(DataError, match="no split 'validation'"):
        open_source(tmp_path, split="validation")


def test_bad_files_are_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"")
    source = open_source(tmp_path)
    assert len(source) == 3 * len(centres()) and "a.bin (the file is empty)" in source.notes[0]
    with pytest.raises(DataError, match=r"a\.bin"):
        open_source(tmp_path, strict=True)
    (tmp_path / "a.bin").write_bytes(sweep()[:1].tobytes()[:-3])
    assert "cut short" in open_source(tmp_path).notes[0]
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="1 of 1 sweeps cannot be read"):
        open_source(only)


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("value, words", [(np.nan, "point 5 holds a number that is not finite"),
                                          (1e9, "point 5 is more than 1,000 m away")])  # fmt: skip
def test_content_that_is_no_sweep(tmp_path, value, words):
    wrong = sweep()
    wrong[5, 1] = value
    wrong.tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match=words):
        open_source(tmp_path, strict=True)[0]
    with pytest.raises(DataError, match="no window of 'lidar'"):
        infer_schema(open_source(tmp_path))


@pytest.mark.filterwarnings("ignore:left out")
def test_a_sweep_with_bad_content_among_others(tmp_path):
    wrong = sweep()
    wrong[5, 1] = np.nan
    folder(tmp_path)
    wrong.tofile(tmp_path / "000001.bin")
    source = open_source(tmp_path)
    schema = infer_schema(source)
    assert schema.count == 3 * len(centres()) and {name.split()[0] for name, _ in source.skipped} == {"000001.bin"}
    sweep(seed=9).tofile(tmp_path / "000001.bin")
    assert open_source(tmp_path).fingerprint() != schema.fingerprint


def test_files_of_another_number_of_channels(tmp_path):
    np.column_stack([sweep(), np.zeros(3000, "f4")]).tofile(tmp_path / "a.pcd.bin")
    np.column_stack([sweep(), np.zeros(3000, "f4")]).tofile(tmp_path / "b.bin")
    five = infer_schema(open_source(tmp_path / "a.pcd.bin"))
    assert five.fields["lidar"].columns == ("x", "y", "z", "reflectance", "ring")
    assert infer_schema(open_source(tmp_path / "b.bin", channels=5)).fields["lidar"].shape[1] == 5
    four = infer_schema(open_source([sweep()], kind="lidar"))
    assert four.fields["lidar"].shape[1] == CHANNELS
    with pytest.raises(SchemaError, match="give sweeps with these channels"):
        four.check(five)


def test_sweeps_out_of_reach_say_so():
    with pytest.raises(DataError, match="give coordinates in metres"):
        infer_schema(open_source([sweep() + 500], kind="lidar"))


@pytest.mark.parametrize("size", [(0.5, 0.5), (0.4, 0.3, 1.1)])
def test_voxels_are_those_of_a_dictionary(size):
    points = torch.from_numpy(np.stack([sweep(400, 1), sweep(400, 2)])[..., :4])
    points[1, 250:] = torch.nan
    points[0, ::7] = torch.nan
    found = voxelise(points, torch.tensor(size))
    expected = defaultdict(list)
    for b in range(2):
        for p in range(400):
            if not points[b, p].isnan().any():
                cell = np.floor(points[b, p, : len(size)].double().numpy() / np.float32(size).astype(float))
                expected[(b, *cell.astype(int).tolist())].append(b * 400 + p)
    seen = defaultdict(list)
    for point, voxel, place in zip(found.point.tolist(), found.voxel.tolist(), found.place.tolist()):
        key = (int(found.sample[voxel]), *found.cell[voxel].tolist())
        assert place == len(seen[key])
        seen[key].append(point)
    assert seen == expected and found.number.sum() == found.point.numel()
    assert [len(seen[(int(s), *c)]) for s, c in zip(found.sample, found.cell.tolist())] == found.number.tolist()


def test_no_points_make_no_voxels():
    found = voxelise(torch.full((2, 5, 4), torch.nan), torch.tensor([0.5, 0.5]))
    assert found.number.numel() == found.point.numel() == 0
    model = model_of()
    batch = batch_of(example_schema("lidar"))
    batch["lidar"][1] = torch.nan  # a window without points
    step = model(batch)
    assert torch.isfinite(step.loss) and not step.tokens.valid[1].any()
    step.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.embed(batch).mean()[1].abs().max() == 0


def test_content_is_the_points_of_each_voxel():
    model, batch = model_of(**{"tokenizer.points": 4}).eval(), batch_of(example_schema("lidar"))
    tokens = model.tokenizer(batch)
    x, packing = tokens.x["lidar"], model.tokenizer.packing
    raw = model.tokenizer.raw(x)  # B N K 3
    for b in range(2):
        there = batch["lidar"][b]
        there = there[~there.isnan().any(1)]
        cells = (there[:, :2].double() / 0.5).floor()
        assert int(tokens.valid[b].sum()) == len(cells.unique(dim=0))
        for n in range(0, int(tokens.valid[b].sum()), 9):
            inside = there[(cells == (tokens.pos[b, n] / 0.5).floor()).all(1)]
            points = raw[b, n][~raw[b, n].isnan().any(1)]
            assert torch.expm1(x[b, n, -1]).round() == len(inside) and len(points) == min(4, len(inside))
            gaps = torch.cdist(points, inside[:, :3])
            assert gaps.min(1).values.max() < 1e-4  # each is one of the voxel's, none twice
            assert len(gaps.argmin(1).unique()) == len(points)
    assert packing.width == x.shape[2] and (x[~tokens.valid] == 0).all()


def test_points_of_a_full_voxel_are_drawn_evenly():
    model = model_of(**{"tokenizer.points": 5}).eval()
    line = torch.zeros(1, 23, 4)
    line[0, :, 0] = torch.linspace(0.01, 0.49, 23)
    tokens = model.tokenizer({"lidar": line, "key": torch.zeros(1, dtype=torch.long)})
    x = model.tokenizer.raw(tokens.x["lidar"])[0, 0, :, 0]
    step = (0.49 - 0.01) / 22
    picked = ((x - 0.01) / step).round().long().tolist()
    assert picked == [-(-k * 23 // 5) for k in range(5)]


def test_empty_voxels_are_empty_different_and_in_training_only():
    model, batch = model_of(**{"tokenizer.empty": 0.5}), batch_of(example_schema("lidar"))
    tokens = model.tokenizer(batch)
    for b in range(4):
        kind, pos, ok = tokens.kind[b], tokens.pos[b], tokens.valid[b]
        empty, full = (pos[(kind == k) & ok] for k in (EMPTY, 0))
        assert 0 < len(empty) <= -(-len(full) // 2)
        assert len(empty.unique(dim=0)) == len(empty) and torch.cdist(empty, full).min() > 0.4
        assert (empty >= full.amin(0)).all() and (empty <= full.amax(0)).all()
    model.eval()
    assert not (model.tokenizer(batch).kind == EMPTY).any()


def test_masks_hide_a_share_of_the_occupied_and_all_empty_voxels():
    model, batch = model_of(), batch_of(example_schema("lidar"))
    step = model.hide(batch)
    full = (step.tokens.kind == 0) & step.tokens.valid
    shown = step.mask.visible
    assert not (shown & ~full).any()
    assert torch.equal(shown.sum(1), (full.sum(1) * 0.3 + 1e-4).long())
    assert torch.equal(step.mask.ask_ok.sum(1), step.tokens.valid.sum(1) - shown.sum(1))


def test_what_the_heads_are_asked():
    model, batch = model_of(), batch_of(example_schema("lidar"))
    step = model(batch)
    kind = step.tokens.kind.gather(1, step.mask.ask)
    assert torch.equal(step.goal["occupied"][..., 0], (kind == 0).float())
    own = step.tokens.x["lidar"][..., -1].gather(1, step.mask.ask)
    assert torch.equal(step.goal["number"][..., 0], own)
    real = (kind == 0) & step.mask.ask_ok
    count = torch.expm1(own[real]).round().clamp(max=16)
    assert torch.equal((~step.goal["points"][real].isnan()).sum(1), 3 * count.long())
    # The loss by hand.
    total = torch.nn.functional.smooth_l1_loss(step.pred["number"][real], step.goal["number"][real])
    ok = step.mask.ask_ok
    total = total + torch.nn.functional.binary_cross_entropy_with_logits(
        step.pred["occupied"][ok], step.goal["occupied"][ok]
    )
    total = total + model.losses["points"](step.pred["points"][real][None], step.goal["points"][real][None]).mean()
    torch.testing.assert_close(step.loss, total)
    assert list(model_of(**{"target.occupancy": False}).target.heads) == ["points", "number"]


def test_a_whole_sweep_is_tokenised_within_a_second():
    points = torch.from_numpy(sweep(120_000))[None]
    model = model_of().eval()
    batch = {"lidar": points, "key": torch.zeros(1, dtype=torch.long)}
    model.tokenizer(batch)
    begun = time.perf_counter()
    tokens = model.tokenizer(batch)
    assert time.perf_counter() - begun < 1
    assert int(tokens.valid.sum()) == len(np.unique(np.floor(points[0, :, :2].double() / 0.5).numpy(), axis=0))


def test_voxels_with_a_height():
    model = model_of(**{"tokenizer.height": 1.0, "stem.positions": True}, positions=find("point-mae").positions)
    batch = batch_of(example_schema("lidar"))
    step = model(batch)
    assert step.tokens.pos.shape[2] == 3 and torch.isfinite(step.loss)
    raw = model.tokenizer.raw(step.tokens.x["lidar"])
    gap = (raw - step.tokens.pos[:, :, None]).abs()[(step.tokens.kind == 0) & step.tokens.valid]
    assert gap[~gap.isnan()].max() <= 0.5 + 1e-4  # every point lies in its voxel
    with pytest.raises(RecipeError, match="a voxel has a side in metres"):
        model_of(**{"tokenizer.voxel": 0})


def test_augmentation_mirrors_and_scales_about_the_sensor():
    x = sweep()
    y = MirrorScale()(x, np.random.default_rng(0), x.shape)
    ratio = y[:, :3] / x[:, :3]
    assert np.allclose(np.abs(ratio), np.abs(ratio[0, 0]), rtol=1e-4) and 0.95 <= abs(ratio[0, 0]) <= 1.05
    assert ratio[0, 2] > 0 and np.array_equal(x[:, 3], y[:, 3])


def test_raw_input_of_windows():
    source = open_source([sweep(), sweep(seed=1)], kind="lidar")
    raw = raw_input(source, infer_schema(source))
    assert raw.shape == (len(source), 192) and np.isfinite(raw).all()


def test_equal_keys_give_equal_empty_voxels():
    model, batch = model_of(), batch_of(example_schema("lidar"))
    again = {**batch, "key": keyed.keys(0, 1, batch["index"])}
    assert torch.equal(model.tokenizer(batch).pos, model.tokenizer(batch).pos)
    one, two = model.tokenizer(batch), model.tokenizer(again)
    assert not torch.equal(one.pos[one.kind == EMPTY], two.pos[two.kind == EMPTY])
