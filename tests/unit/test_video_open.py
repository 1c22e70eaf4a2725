"""Videos from files, folders of pictures and arrays, and what is wrong with them."""

import numpy as np
import pytest
import torch
from PIL import Image
from video_tools import numbers_of, shades, write

from anymask.data import DataError, SchemaError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.augment import RandomResizedCrop
from anymask.data.kinds import _video_columns, _videos
from anymask.data.kinds.video import KIND, clip_numbers
from anymask.data.loader import aligned

FORMATS = {"mp4": ("mpeg4", "yuv420p"), "avi": ("mpeg4", "yuv420p"), "webm": ("libvpx", "yuv420p"),
           "mkv": ("ffv1", "bgr0")}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of three videos each, of 20 to 25 frames."""
    root = tmp_path_factory.mktemp("videos")
    for n in range(6):
        write(root / ("walk", "run")[n % 2] / f"{n}.mp4", shades(20 + n))
    return root


def lazily(monkeypatch):
    """As if the set were too large for memory, and each video too large to be decoded whole."""
    monkeypatch.setattr(_video_columns, "CACHE_BYTES", 0)
    monkeypatch.setattr(_videos, "WHOLE_BYTES", 0)


@pytest.mark.parametrize("ending", FORMATS)
def test_formats(tmp_path, ending):
    codec, pixels = FORMATS[ending]
    for n in range(2):
        write(tmp_path / f"{n}.{ending}", shades(20), codec=codec, pixels=pixels, rate=10)
    source = open_source(tmp_path)
    video = source[0]["video"]
    assert video.shape == (3, 20, 24, 32) and video.rate == 10
    frames = video.frames(np.array([0, 1, 7, 19]))
    assert frames.shape == (4, 24, 32, 3) and numbers_of(frames) == [0, 1, 7, 19]
    if codec == "ffv1":  # without loss
        assert np.array_equal(video.frames(np.arange(20)), shades(20))


def test_pictures_of_a_phone_are_upright(tmp_path):
    """A track's matrix that turns by a quarter clockwise: what was left is up."""
    path = write(tmp_path / "a.mp4", shades(6))
    data, one = path.read_bytes(), 0x10000
    plain, turned = (b"".join(v.to_bytes(4, "big", signed=True) for v in (*m, 0x40000000))
                     for m in ((one, 0, 0, 0, one, 0, 0, 0), (0, one, 0, -one, 0, 0, 0, 0)))  # fmt: skip
    start = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:start] + turned + data[start + len(plain) :])
    frames = _videos.Decoder(channels=3)(_videos.Blob("a.mp4", path)).frames(np.array([3]))
    assert frames.shape == (1, 32, 24, 3) and frames[0, :12].mean() > frames[0, 20:].mean() + 5


def test_gif_where_it_is_asked_for(tmp_path):
    for n in range(2):
        images = [Image.fromarray(frame) for frame in shades(8)]
        images[0].save(tmp_path / f"{n}.gif", save_all=True, append_images=images[1:], duration=100)
    assert list(open_source(tmp_path).kinds) == ["image"]
    video = open_source(tmp_path, kind="video")[0]["video"]
    assert numbers_of(video.frames(np.arange(8))) == list(range(8)) and video.rate == 10


def test_a_part_is_the_whole_s(tmp_path, monkeypatch):
    """Frames found by seeking are those found by counting."""
    path = write(tmp_path / "a.mp4", shades(31))
    whole = _videos.Decoder(channels=3)(_videos.Blob("a.mp4", path))
    every = whole.frames(np.arange(31))
    monkeypatch.setattr(_videos, "WHOLE_BYTES", 0)
    part = _videos.Decoder(channels=3)(_videos.Blob("a.mp4", path))
    for numbers in ([0, 3], [13, 14, 20], [29, 30], [5]):
        assert np.array_equal(part.frames(np.array(numbers)), every[numbers]), numbers


def test_decoded_no_larger_than_needed(folder):
    source = open_source(folder)
    schema = infer_schema(source, size=14)
    video = aligned(source, schema)[0]["video"]
    assert video.size == (16, 21)  # 8/7 of 14
    assert aligned(source, schema).columns["video"] is aligned(source, schema).columns["video"]


def test_schema(folder):
    schema = infer_schema(open_source(folder))
    field = schema.fields["video"]
    assert schema.labels == {"names": ["run", "walk"], "counts": [3, 3]}
    assert field.shape == (3, 16, 24, 32) and field.sizes == ((20, 24, 32), (22, 24, 32), (25, 24, 32))
    assert field.interval == 1 / 25 and field.more == {"stride": 1, "rate": 25.0, "short": 0.0}
    long = _video_columns.VideoMeter("video", 32, None)
    for n in range(10):
        long.add(str(n), _videos.Frames(np.zeros((300, 64, 80, 3), np.uint8), str(n), 30.0 if n else 15.0))
    field = long.field()
    assert field.shape == (3, 16, 32, 32) and field.more["stride"] == 4 and field.interval == 4 / 30
    told = dict(KIND.describe(field))
    assert told["video clips"] == "16 frames of 32 x 32; every 4th frame (7.5 frames a second, 2.13 s)"
    with pytest.raises(DataError, match=r"no video .* long enough for 30 frames, one of 1 .*lower --window"):
        infer_schema(open_source(folder, window=30))
    assert infer_schema(open_source(folder, window=6, stride=3)).fields["video"].shape[1] == 6


def test_numbers_of_a_clip(folder):
    field = infer_schema(open_source(folder, window=6, stride=2)).fields["video"]
    assert clip_numbers(21, 25.0, field, None).tolist() == [5, 7, 9, 11, 13, 15]
    assert clip_numbers(21, None, field, None).tolist() == [5, 7, 9, 11, 13, 15]
    assert clip_numbers(42, 50.0, field, None).tolist() == [11, 15, 19, 23, 27, 31]  # the same time
    assert clip_numbers(8, 25.0, field, None).tolist() == [0, 2, 4, 6]
    rng = np.random.default_rng(0)
    drawn = np.array([clip_numbers(21, 25.0, field, rng) for _ in range(200)])
    assert (np.diff(drawn, axis=1) == 2).all() and set(drawn[:, 0]) == set(range(11))


def test_short_videos_are_padded(tmp_path):
    for n, count in enumerate((20, 20, 5)):
        write(tmp_path / f"{n}.mkv", shades(count), codec="ffv1", pixels="bgr0")
    source = open_source(tmp_path, window=8, stride=1)
    schema = infer_schema(source)
    assert schema.fields["video"].more["short"] == pytest.approx(1 / 3)
    (batch,) = ordered_loader(source, schema, batch_size=3)
    assert batch["video"].shape == (3, 3, 8, 24, 32) and batch["extent"].tolist() == [[8, 24, 32]] * 2 + [[5, 24, 32]]
    assert numbers_of(batch["video"][2].numpy()) == [0, 1, 2, 3, 4, 4, 4, 4]
    from anymask.recipe import SIZES, find

    model = find("videomae").build(schema, SIZES["nano"])
    tokens = model.tokenizer(batch)
    assert tokens.valid.unflatten(1, tokens.grid).any(3).any(2).tolist() == [[True] * 4] * 2 + [[True] * 3 + [False]]
    assert "extent" not in next(iter(ordered_loader(source.subset([0, 1]), schema, batch_size=2)))


def test_a_crop_is_the_same_in_all_frames(folder):
    still = np.random.default_rng(0).integers(0, 255, (1, 40, 40, 3), dtype=np.uint8).repeat(12, 0)
    source = open_source([still, still], kind="video")
    schema = infer_schema(source, size=24)
    loader = training_loader(source, schema, batch_size=2, steps=3, seed=0, augment=RandomResizedCrop(), workers=0)
    batches = [batch["video"] for batch in loader]
    for video in batches:
        assert (video == video[:, :, :1]).all()
        assert not torch.equal(video[0], video[1])
    assert not torch.equal(batches[0], batches[1])


def test_epochs_repeat_and_resume(folder, monkeypatch):
    """In memory or not, in the same epoch or later: a batch is a function of seed and step."""
    source = open_source(folder)
    schema = infer_schema(source, size=24)
    plan = dict(batch_size=3, steps=5, seed=1, augment=RandomResizedCrop(), workers=0)
    held = list(training_loader(source, schema, **plan))
    again = list(training_loader(open_source(folder), schema, **plan, start=2))
    for a, b in zip(held[2:], again, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    lazily(monkeypatch)
    lazy = list(training_loader(open_source(folder), schema, **plan))
    for a, b in zip(held, lazy, strict=True):
        assert torch.equal(a["video"], b["video"])


def test_several_clips_of_one_decoding(folder, monkeypatch):
    monkeypatch.setattr(_video_columns, "CACHE_BYTES", 0)
    source = open_source(folder, window=4)
    schema = infer_schema(source)
    opened, plain = [], _videos.Film._found
    monkeypatch.setattr(_videos.Film, "_found", lambda self, *a: opened.append(self.name) or plain(self, *a))
    batches = list(training_loader(source, schema, batch_size=4, steps=6, seed=0, workers=0))
    assert all(len(set(batch["index"].tolist())) == 1 for batch in batches)
    assert sorted(batch["index"][0].item() for batch in batches) == list(range(6))
    assert len(opened) == 6
    for batch in batches:
        assert len(set(batch["key"].tolist())) == 4
        assert len({tuple(numbers_of(clip.numpy())) for clip in batch["video"]}) > 1
    resumed = list(training_loader(source, schema, batch_size=4, steps=6, start=4, seed=0, workers=0))
    assert torch.equal(resumed[0]["video"], batches[4]["video"]) and torch.equal(resumed[1]["key"], batches[5]["key"])
    odd = next(iter(training_loader(source, schema, batch_size=3, steps=1, seed=0, workers=0)))
    assert len(set(odd["index"].tolist())) == 3


def broken(root):
    for n in range(4):
        write(root / f"{n}.avi", shades(20))
    (root / "empty.avi").touch()
    (root / "junk.avi").write_bytes(b"no video" * 200)
    noise = np.random.default_rng(0).integers(0, 255, (20, 24, 32, 3), dtype=np.uint8)
    whole = write(root / "cut.avi", noise).read_bytes()
    (root / "cut.avi").write_bytes(whole[: len(whole) * 6 // 10])
    return root


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("lazy", [False, True])
def test_what_cannot_be_read_is_named(tmp_path, monkeypatch, lazy):
    source = open_source(broken(tmp_path))
    assert {name: reason[:20] for name, reason in source.skipped} == {
        "empty.avi": "the file is empty (0", "junk.avi": "not a video in any k"
    }  # fmt: skip
    if lazy:
        lazily(monkeypatch)
    schema = infer_schema(source)
    loader = training_loader(source, schema, batch_size=4, steps=4, seed=0, workers=0)
    batches = list(loader)
    assert dict(loader.source.skipped)["cut.avi"].startswith("it breaks off after")
    cut = source.ids.index("cut.avi")
    assert all(batch["video"].shape == (4, 3, 16, 24, 32) and cut not in batch["index"] for batch in batches)
    found = torch.cat([batch["index"] for batch in ordered_loader(source, schema, batch_size=2)])
    assert found.tolist() == [n for n in range(5) if n != cut]
    with pytest.raises(DataError, match=r"cut.avi .*breaks off.*mend or remove"):
        (tmp_path / "empty.avi").unlink()
        (tmp_path / "junk.avi").unlink()
        list(ordered_loader(open_source(tmp_path, strict=True), schema, batch_size=2))


def test_nothing_readable(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"junk")
    (tmp_path / "b.mp4").touch()
    with pytest.raises(DataError, match=r"none of 2 videos can be read; first: a.mp4 \(not a video"):
        open_source(tmp_path)


def test_folders_of_pictures(tmp_path):
    for n in range(4):
        clip = tmp_path / ("a", "b")[n % 2] / f"clip{n}"
        clip.mkdir(parents=True)
        for number, frame in enumerate(shades(12)):
            Image.fromarray(frame).save(clip / f"frame{number}.png")  # frame10 sorts before frame2 as text
    source = open_source(tmp_path, kind="video")
    assert source.ids == ["a/clip0", "a/clip2", "b/clip1", "b/clip3"] and source.labels.tolist() == [0, 0, 1, 1]
    assert numbers_of(source[0]["video"].frames(np.arange(12))) == list(range(12))
    field = infer_schema(source).fields["video"]
    assert field.shape[1] == 12 and field.interval is None
    before = source.fingerprint()
    Image.fromarray(shades(12)[3]).save(tmp_path / "a" / "clip0" / "frame4.png")
    assert open_source(tmp_path, kind="video").fingerprint() != before
    Image.new("RGB", (9, 9)).save(tmp_path / "a" / "clip0" / "frame5.png")
    with pytest.warns(UserWarning, match=r"left out a/clip0 .*frame5.png is uint8 of 9 x 9; frames are"):
        assert len(torch.cat([b["index"] for b in ordered_loader(source, infer_schema(source), batch_size=4)])) == 3
    (tmp_path / "metadata.csv").write_text("file_name,label,who\na/clip2,up,x\nb/clip1,down,y\n")
    table = open_source(tmp_path, kind="video", group="who")
    assert table.label_names == ["down", "up"] and table.groups.tolist() == ["x", "y"]
    assert table[1]["video"].count == 12


def test_metadata_table(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "d")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.mp4"))
    rows = [f"{name},{n % 3},p{n // 2},{('train', 'test')[n > 3]}" for n, name in enumerate(names)]
    (tmp_path / "d" / "metadata.csv").write_text("\n".join(["file_name,label,person,split", *rows]))
    source = open_source(tmp_path / "d", group="person")
    assert len(source) == 4 and source.labels.tolist() == [0, 1, 2, 0]
    assert source.groups.tolist() == ["p0", "p0", "p1", "p1"]
    assert len(source.split("test")) == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays(tmp_path, dtype):
    videos = np.stack([shades(12, 24, 30), shades(12, 24, 30)[::-1]]).astype(dtype)  # N T H W C
    for array in (videos, np.moveaxis(videos, -1, 1), torch.from_numpy(videos.astype(np.float32)).to(torch.float32)):
        source = open_source(array, kind="video")
        frames = source[1]["video"].frames(np.array([0, 5]))
        assert frames.shape == (2, 24, 30, 3) and numbers_of(frames) == [11, 6]
    field = infer_schema(open_source(videos, kind="video")).fields["video"]
    assert field.shape == (3, 12, 24, 30) and field.dtype == np.dtype(dtype).name and field.interval is None
    if dtype == np.uint8:
        np.save(tmp_path / "a.npy", videos)
        np.savez(tmp_path / "b.npz", videos=videos, y=[0, 1])
        for given in (videos, np.moveaxis(videos, -1, 1), tmp_path / "a.npy", tmp_path / "b.npz"):
            assert list(open_source(given).kinds) == ["video"]
        assert open_source(tmp_path / "b.npz").labels.tolist() == [0, 1]
        source = open_source(tmp_path / "a.npy")
        (batch,) = training_loader(source, infer_schema(source), batch_size=2, steps=1, seed=0, workers=1)
        assert batch["video"].shape == (2, 3, 12, 24, 30)


def test_what_arrays_are_refused():
    with pytest.raises(DataError, match=r"videos \(N, T, H, W, C\).*kind=\"video\""):
        open_source(np.zeros((4, 8, 24, 24, 3), np.float32))
    with pytest.raises(DataError, match=r"not clear which axis holds the channels"):
        open_source(np.zeros((4, 24, 24, 24, 24), np.uint8), kind="video")
    grey = open_source(np.zeros((4, 8, 24, 24), np.uint8), kind="video")
    assert infer_schema(grey).fields["video"].shape == (1, 8, 24, 24)
    nan = np.zeros((2, 8, 24, 24, 3), np.float32)
    nan[1, 3] = np.nan
    with pytest.raises(DataError, match=r"video 1|sample 1"):
        source = open_source(nan, kind="video")
        next(iter(training_loader(source, infer_schema(source), batch_size=2, steps=1, seed=0, workers=0)))
    with pytest.raises(DataError, match="single frame are pictures"):
        open_source(np.zeros((4, 1, 24, 24), np.uint8), kind="video")


def test_other_channels_than_trained_with(folder):
    trained = infer_schema(open_source(folder))
    with pytest.raises(SchemaError, match=r"has 1 channels .* trained on 3 .*channels=3"):
        trained.check(infer_schema(open_source(folder, channels=1)))
    with pytest.raises(DataError, match="channels=4: videos have 3 channels"):
        open_source(folder, channels=4)
    arrays = infer_schema(open_source([shades(20)] * 2, kind="video"))
    assert trained.check(arrays)[0].startswith("the frame rate of videos is not known")


def test_long_videos_are_told(tmp_path):
    for n in range(2):
        write(tmp_path / f"{n}.mp4", shades(8)[np.zeros(70, int)], rate=1)
    (note,) = open_source(tmp_path).notes
    assert note.startswith("2 videos last longer than 60 s (longest: ") and "ffmpeg" in note


def test_without_pyav(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DataError, match=r"PyAV reads: pip install 'anymask\[video\]'"):
        open_source(folder)
