"""Skeleton sequences from files and objects, and what is wrong with them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from anymask.data import DataError, SchemaError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.kinds import _skeletons
from anymask.data.kinds.skeleton import KIND
from anymask.evaluation.inputs import raw_input

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def sequence(frames=20, joints=5, channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(frames, joints, channels)).astype("f4")


def folder(root, count=6, **options):
    """A folder of sequences of several lengths with a metadata.csv."""
    lines = ["file_name,label,subject,split"]
    for n in range(count):
        np.save(root / f"s{n}.npy", sequence(16 + n, seed=n, **options))
        lines.append(f"s{n}.npy,{'wave' if n % 2 else 'kick'},{n // 2},{'train' if n < count - 2 else 'test'}")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def written(path, rows, head="frame,joint,x,y,z"):
    path.write_text(head + "\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


def test_a_folder_of_npy_files_with_metadata_is_known_by_itself(tmp_path):
    source = open_source(folder(tmp_path), group="subject")
    assert list(source.kinds) == ["skeleton"] and len(source) == 4 and source.label_names == ["kick", "wave"]
    assert source.groups.tolist() == ["0", "0", "1", "1"] and len(source.split("test")) == 2
    np.testing.assert_array_equal(source[1]["skeleton"], sequence(17, seed=1).transpose(2, 1, 0))
    field = infer_schema(source).fields["skeleton"]
    assert field.shape == (3, 5, 20) and field.sizes == ((16,), (18,), (19,))
    assert field.columns == tuple(f"joint {n}" for n in range(5)) and field.more["gaps"] == 0
    batch = next(iter(training_loader(source, infer_schema(source), batch_size=4, steps=1, seed=0, workers=0)))
    assert batch["skeleton"].shape == (4, 3, 5, 20)
    ends = [int((~torch.isnan(one).all(0).all(0)).sum()) for one in batch["skeleton"]]
    assert sorted(ends) == [16, 17, 18, 19]


def test_pictures_in_npy_files_stay_pictures(tmp_path):
    for n in range(4):
        np.save(tmp_path / f"{n}.npy", np.abs(sequence(16 + n, joints=16, seed=n)))
    assert list(open_source(tmp_path).kinds) == ["image"]
    assert list(open_source(tmp_path, kind="skeleton").kinds) == ["skeleton"]


def test_csv_files_with_names_gaps_and_confidence(tmp_path):
    x = sequence(12, 3, 4)
    x[..., 3] = np.abs(x[..., 3])
    names = ["hip", "knee", "foot"]
    for n in range(2):
        order = np.random.default_rng(n).permutation(12 * 3)
        rows = [(5 + t, names[j], *(f"{v:.6f}" for v in x[t, j])) for t, j in (divmod(i, 3) for i in range(36))]
        rows = [rows[i] for i in order if n == 0 or i != 7]
        written(tmp_path / f"{n}.csv", rows, "Frame,Joint,X,Y,Z,confidence")
    source = open_source(tmp_path)
    field = infer_schema(source).fields["skeleton"]
    assert set(field.columns) == set(names) and field.shape == (4, 3, 12) and field.more["channels"][-1] == "confidence"
    place = [names.index(name) for name in field.columns]
    for n in range(2):
        true = x[:, place].transpose(2, 1, 0).copy()
        if n:
            true[:, place.index(7 % 3), 7 // 3] = np.nan
        np.testing.assert_allclose(source[n]["skeleton"], true, atol=1e-5)


def test_arrays_lists_and_files_with_all_sequences(tmp_path):
    x = np.stack([sequence(seed=n) for n in range(4)])
    whole = open_source((x, [0, 1, 0, 1]), kind="skeleton")
    several = open_source(([*x[:3], torch.from_numpy(sequence(30, seed=3))], [0, 1, 0, 1]), kind="skeleton")
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", skeletons=x, label=[0, 1, 0, 1])
    for source in (whole, several, open_source(tmp_path / "x.npy", kind="skeleton"), open_source(tmp_path / "x.npz")):
        assert list(source.kinds) == ["skeleton"] and len(source) == 4
        np.testing.assert_array_equal(source[2]["skeleton"], x[2].transpose(2, 1, 0))
    assert several[3]["skeleton"].shape == (3, 5, 30)
    assert list(open_source(x).kinds) == ["image"]  # nothing says that these are bodies


def test_frames_that_show_nobody_are_missing():
    x = sequence(20)
    x[4:9] = 0
    x[12, 2, 1] = np.nan
    value = open_source([x, x], kind="skeleton")[0]["skeleton"]
    gone = np.isnan(value)
    assert gone[:, :, 4:9].all() and gone[:, 2, 12].all() and gone.sum() == 3 * (5 * 5 + 1)
    still = sequence(20)
    still[:, 0] = 0  # a root that was taken away already
    assert not np.isnan(open_source([still, still], kind="skeleton")[0]["skeleton"]).any()


def test_longer_sequences_are_resampled_and_shorter_ones_padded():
    frames = np.linspace(1, 2, 33)
    line = np.stack([frames * j for j in (1, 2, 3)], 1)[..., None].repeat(3, 2).astype("f4")
    source = open_source([line, line[:16]], kind="skeleton")
    schema = infer_schema(source, size=16)
    long, short = next(iter(ordered_loader(source, schema, batch_size=2, fixed=True)))["skeleton"].numpy()
    np.testing.assert_allclose(long[0, 2], 3 * np.linspace(1, 2, 16), atol=1e-6)
    np.testing.assert_allclose(short[0, 2], 3 * frames[:16], atol=1e-6)
    gap = line.copy()
    gap[8] = np.nan
    out = _skeletons.resampled(gap.transpose(2, 1, 0), 17)  # every other frame
    assert np.isnan(out[:, :, 4]).all() and np.isfinite(np.delete(out, 4, 2)).all()
    assert _skeletons.resampled(gap.transpose(2, 1, 0), 33) is not gap


def test_centred_and_scaled_as_by_hand():
    x = torch.from_numpy(np.stack([sequence(9, seed=n).transpose(2, 1, 0) for n in range(2)]))
    x[0, :, 1, 0] = torch.nan  # the root is seen from the second frame on
    root = _skeletons.centred(x, 1)
    torch.testing.assert_close(root[0], x[0] - x[0, :, 1, 1][:, None, None], equal_nan=True)
    torch.testing.assert_close(root[1], x[1] - x[1, :, 1, 0][:, None, None])
    size = _skeletons.sizes(root)
    middle = x[1].mean(1, keepdim=True)
    assert float(size[1]) == pytest.approx(float((x[1] - middle).square().sum(0).mean().sqrt()), rel=1e-5)
    moved = _skeletons.centred(3 * x + 5, 1)
    torch.testing.assert_close(moved / _skeletons.sizes(moved), root / size, equal_nan=True, atol=1e-5, rtol=1e-4)


def test_the_root_and_bones_of_a_moving_chain():
    """Joints on a chain of rigid bones, the middle one nearest to the middle of the body."""
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(6):
        turn = np.cumsum(rng.normal(0, 0.3, (30, 6)), 0)
        step = np.stack([np.cos(turn), np.sin(turn), 0 * turn], -1)
        sequences.append(np.concatenate([np.zeros((30, 1, 3)), np.cumsum(step, 1)], 1))
    field = infer_schema(open_source(sequences, kind="skeleton")).fields["skeleton"]
    assert field.more["edges"] == [[n, n + 1] for n in range(6)] and not field.more["given"]
    assert field.more["root"] == 3


def test_bones_and_names_from_a_file(tmp_path):
    told = {"joints": list("abcde"), "edges": [[0, 1], [0, 2], [0, 3], [0, 4]]}
    folder(tmp_path)
    (tmp_path / "skeleton.json").write_text(json.dumps(told))
    field = infer_schema(open_source(tmp_path)).fields["skeleton"]
    assert field.columns == tuple("abcde") and field.more["edges"] == told["edges"] and field.more["given"]
    assert "as given" in dict(KIND.describe(field))["skeleton bones"]
    (tmp_path / "skeleton.json").write_text(json.dumps({"edges": [[0, 5]]}))
    with pytest.raises(DataError, match="joints are numbered 0 to 4"):
        open_source(tmp_path)


def test_raw_input_is_the_same_however_fast_and_where_the_body_is():
    x = sequence(32)
    for t in range(1, 32):
        x[t] = x[t - 1] + 0.1 * x[t]
    slow = _skeletons.resampled(x.transpose(2, 1, 0), 63).transpose(2, 1, 0)
    source = open_source([x, 2 * slow + 7, sequence(20, seed=3)], kind="skeleton")
    raw = raw_input(source, infer_schema(source))
    assert raw.shape == (3, 3 * 5 * 16) and np.abs(raw[0] - raw[1]).max() < 0.05 < np.abs(raw[0] - raw[2]).max()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x[:1], "1 frame"),
        (lambda x: x * np.where(np.arange(20)[:, None, None] == 3, np.inf, 1), "infinite"),
        (lambda x: x * np.nan, "no joint in any frame"),
        (lambda x: x[:, :2], "2 joints"),
        (lambda x: x[:, :, 0], "frames, joints, 2 to 4"),
        (lambda x: x.astype(str), "of numbers"),
    ],
)
def test_sequences_that_cannot_be_used_say_why(spoil, words):
    with pytest.raises(DataError, match=words):
        open_source([sequence(), spoil(sequence())], kind="skeleton")


def test_broken_files_are_left_out_and_named(tmp_path):
    folder(tmp_path, 8)
    (tmp_path / "s1.npy").write_bytes((tmp_path / "s1.npy").read_bytes()[:150])
    np.save(tmp_path / "s2.npy", sequence(joints=7))
    np.save(tmp_path / "s3.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "s4.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        source = open_source(tmp_path, kind="skeleton")
        infer_schema(source)
    assert {name for name, _ in source.skipped} == {"s1.npy", "s2.npy", "s3.npy", "s4.npy"}
    assert "7 joints" in dict(source.skipped)["s2.npy"]
    with pytest.raises(DataError, match=r"s[1234]\.npy"):
        infer_schema(open_source(tmp_path, kind="skeleton", strict=True))


@pytest.mark.parametrize(
    ("rows", "head", "words"),
    [
        ([(0, 0, 1, 2)], "frame,joint,x,w", "no column 'y'"),
        ([(0, 0, 1, "far", 2)], "frame,joint,x,y,z", "no number"),
        ([(0, 0, 1)], "frame,joint,x,y,z", "cut off"),
        ([(0, 0, 1, 2, 3)] * 2, "frame,joint,x,y,z", "two rows in one frame"),
        ([(0, j, 1, 2, 3) for j in range(3)] + [(10**9, 0, 1, 2, 3)], "frame,joint,x,y,z", "one by one"),
        ([], "frame,joint,x,y,z", "no rows"),
    ],
)
def test_bad_csv_files_say_why(tmp_path, rows, head, words):
    written(tmp_path / "a.csv", rows, head)
    with pytest.raises(DataError, match=words):
        open_source(tmp_path, kind="skeleton")


def test_other_bodies_do_not_fit_a_model():
    one, other = (infer_schema(open_source([sequence(joints=j)] * 2, kind="skeleton")) for j in (5, 7))
    with pytest.raises(SchemaError, match="7 joints"):
        one.check(other)
    with pytest.raises(DataError, match="at least 8"):
        infer_schema(open_source([sequence(6)] * 2, kind="skeleton"))
    with pytest.raises(DataError, match="frames of a training sequence"):
        infer_schema(open_source([sequence()] * 2, kind="skeleton"), size=3)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
def test_msr_action3d_is_cross_subject():
    source = open_source(DATA / "msr_action3d", group="subject")
    test = source.split("test")
    assert (len(source), len(test)) == (291, 275) and len(set(source.labels.tolist())) == 20
    assert set(source.groups) == {"1", "3", "5", "7", "9"} and not set(source.groups) & set(test.groups)
    field = infer_schema(source).fields["skeleton"]
    assert field.shape == (4, 20, 56) and field.more["root"] == 6  # the middle of the hips
    # The bones of the Kinect's 20 joints: 17 of the 19 are found (joints numbered from 0).
    kinect = {(2, 19), (0, 2), (1, 2), (0, 7), (7, 9), (9, 11), (1, 8), (8, 10), (10, 12), (2, 3), (3, 6), (4, 6),
              (5, 6), (4, 13), (5, 14), (13, 15), (14, 16), (15, 17), (16, 18)}  # fmt: skip
    assert len(kinect & {tuple(edge) for edge in field.more["edges"]}) >= 16
