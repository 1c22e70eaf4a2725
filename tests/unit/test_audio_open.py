"""Sounds from files and objects, and what is wrong with them."""

import io
import pickle

import numpy as np
import pytest
import torch

from anymask.data import DataError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.kind import kind_of
from anymask.data.kinds import _sounds
from anymask.evaluation.inputs import raw_input

soundfile = pytest.importorskip("soundfile")
AUDIO = kind_of("audio")


def tone(seconds=0.5, rate=8_000, hertz=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def saved(path, x, rate=8_000, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate, **how)
    return path


@pytest.mark.parametrize(
    ("name", "how", "gap"),
    [("a.wav", dict(subtype="PCM_16"), 1e-4), ("a.wav", dict(subtype="FLOAT"), 1e-7), ("a.wav", dict(subtype="PCM_U8"),
     1e-2), ("a.flac", {}, 1e-4), ("a.ogg", {}, 0.05), ("a.mp3", {}, 0.05), ("a.aiff", {}, 1e-4)],
)  # fmt: skip
def test_files_of_all_formats_are_read(tmp_path, name, how, gap):
    x = tone(0.8, 16_000)
    for folder in ("dog", "cat"):
        saved(tmp_path / folder / name, x, 16_000, **how)
    source = open_source(tmp_path)
    value = source[0]["audio"]
    assert value.dtype == np.float32 and value.ndim == 1 and source.label_names == ["cat", "dog"]
    middle = slice(2_000, 10_000)  # lossy formats ring at the ends
    assert np.abs(value[middle] - x[middle]).max() < gap
    field = infer_schema(source).fields["audio"]
    assert field.more == {"rate": 16_000} and len(field.mean) == 128 and field.shape == (len(value),)


def test_the_rate_of_most_files_is_kept_and_others_are_resampled(tmp_path):
    for n in range(3):
        saved(tmp_path / f"{n}.wav", tone(0.5, 8_000))
    saved(tmp_path / "9.wav", tone(0.5, 44_100), 44_100)
    source = open_source(tmp_path)
    assert "1 of 4 sounds have another sampling rate (first: 9.wav at 44,100 Hz)" in source.notes[0]
    value = source[3]["audio"]
    assert len(value) == 4_000 and np.abs(value - tone(0.5, 8_000))[200:-200].max() < 0.01
    assert source.columns["audio"].lengths().tolist() == [4_000] * 4
    asked = open_source(tmp_path, rate=16_000)
    assert len(asked[0]["audio"]) == 8_000 and infer_schema(asked).fields["audio"].more == {"rate": 16_000}


def test_a_source_at_another_rate_is_resampled_to_the_models(tmp_path):
    for n in range(2):
        saved(tmp_path / f"{n}.wav", tone(0.5, 16_000), 16_000)
    source, field = open_source(tmp_path), infer_schema(open_source(tmp_path, rate=8_000)).fields["audio"]
    schema = infer_schema(open_source(tmp_path, rate=8_000))
    (batch,) = ordered_loader(source, schema, batch_size=2)
    assert batch["audio"].shape == (2, 4_000)
    assert np.abs(batch["audio"][0].numpy() - tone(0.5, 8_000))[200:-200].max() < 0.01
    assert "resampled to the 8,000 Hz" in AUDIO.compare(field, infer_schema(source).fields["audio"], "a", "b")[0]
    column = AUDIO.align(source.columns["audio"], field)
    assert column is AUDIO.align(source.columns["audio"], field) and column.lengths().tolist() == [4_000] * 2


def test_channels_are_averaged(tmp_path):
    both = np.stack([tone(), np.zeros(4_000, np.float32)], 1)
    for n in range(2):
        saved(tmp_path / f"{n}.wav", both, subtype="FLOAT")
    source = open_source(tmp_path)
    np.testing.assert_allclose(source[0]["audio"], tone() / 2, atol=1e-6)
    assert "2 of 2 sounds have several channels, which are averaged" in source.notes


def test_metadata_gives_labels_groups_and_splits(tmp_path):
    rows = ["file_name,label,speaker,split"]
    for n in range(6):
        saved(tmp_path / "clips" / f"{n}.flac", tone(0.1 + 0.1 * n))
        rows.append(f"clips/{n}.flac,{n % 2},{'ab'[n // 3]},{'test' if n == 5 else 'train'}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    source = open_source(tmp_path, group="speaker")
    assert len(source) == 5 and source.labels.tolist() == [0, 1, 0, 1, 0] and source.groups.tolist() == list("aaabb")
    assert len(source.split("test")) == 1
    field = infer_schema(source).fields["audio"]
    assert field.shape == (4_000,) and field.sizes == ((800,), (2_400,), (4_000,))


def test_batches_hold_sounds_of_similar_lengths_padded_with_nothing(tmp_path):
    lengths = [400 + 97 * n for n in range(24)]
    for n, length in enumerate(lengths):
        saved(tmp_path / f"{n:02}.wav", tone()[:1].repeat(length) + 0.01 * np.random.default_rng(n).normal(size=length))
    source = open_source(tmp_path)
    schema = infer_schema(source)
    widths = []
    for batch in training_loader(source, schema, batch_size=4, steps=6, seed=0, workers=0):
        x = batch["audio"]
        there = (~x.isnan()).sum(1)
        assert sorted(there.tolist()) == sorted(lengths[i] for i in batch["index"])
        assert x.shape[1] % 8 == 0 and x.shape[1] - there.max() < 8
        assert all(not row[:n].isnan().any() and row[n:].isnan().all() for row, n in zip(x, there))
        widths.append(there.max() - there.min())
    assert max(widths) == 3 * 97  # batches are runs of the sorted lengths


def test_long_sounds_are_cut_at_a_random_place_in_training_and_in_the_middle_elsewhere(tmp_path):
    ramp = np.linspace(-0.5, 0.5, 8 * 12_000, dtype=np.float32)
    for n in range(4):
        saved(tmp_path / f"{n}.wav", ramp, subtype="FLOAT")
    source = open_source(tmp_path)
    schema = infer_schema(source)
    assert schema.fields["audio"].shape == (80_000,)
    assert "100.0% of the sounds are longer than 10 s" in schema.fields["audio"].notes[0]
    assert infer_schema(source, size=2).fields["audio"].shape == (16_000,)
    starts = [b["audio"][:, 0] for b in training_loader(source, schema, batch_size=4, steps=2, seed=0, workers=0)]
    assert len({round(float(s), 4) for s in torch.cat(starts)}) == 8
    (batch,) = ordered_loader(source, schema, batch_size=4)
    torch.testing.assert_close(batch["audio"][0], torch.from_numpy(ramp[8_000:88_000]), rtol=0, atol=1e-6)


def test_arrays_and_lists_need_a_rate(tmp_path):
    whole = (np.stack([tone(), -tone()]) * 32767).astype(np.int16)
    source = open_source((whole, [0, 1]), kind="audio", rate=8_000)
    np.testing.assert_allclose(source[0]["audio"], tone(), atol=1e-4)
    assert infer_schema(source).fields["audio"].more == {"rate": 8_000}
    two = open_source(np.stack([tone(), -tone(), tone()])[:, None].repeat(2, 1), kind="audio", rate=8_000)
    assert two[0]["audio"].shape == (4_000,) and len(two) == 3
    some = open_source(([tone(), torch.from_numpy(tone(0.2))], ["x", "y"]), kind="audio", rate=8_000)
    assert [len(some[n]["audio"]) for n in (0, 1)] == [4_000, 1_600] and some.label_names == ["x", "y"]
    items = [{"array": tone(0.5, 16_000), "sampling_rate": 16_000}, {"array": tone(), "sampling_rate": 8_000}]
    mixed = open_source(items, kind="audio", rate=8_000)
    assert [len(mixed[n]["audio"]) for n in (0, 1)] == [4_000, 4_000]
    np.save(tmp_path / "x.npy", np.stack([tone(), tone()]))
    assert len(open_source(tmp_path / "x.npy", kind="audio", rate=8_000)) == 2
    for spec in (whole, [tone(), tone()]):
        with pytest.raises(DataError, match=r"give rate= \(--rate\), as 16000"):
            open_source(spec, kind="audio")
    bad = np.stack([tone(), tone()])
    bad[1, 7] = np.nan
    with pytest.raises(DataError, match="NaN or infinite values"):
        infer_schema(open_source(bad, kind="audio", rate=8_000))


def test_hugging_face_columns_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(saved(tmp_path / f"{n}.wav", tone(0.1 * (n + 2)))) for n in range(3)]
    made = datasets.Dataset.from_dict({"audio": files, "label": [0, 1, 0]}).cast_column("audio", datasets.Audio())
    source = open_source(made)
    assert [len(source[n]["audio"]) for n in range(3)] == [1_600, 2_400, 3_200] and source.labels.tolist() == [0, 1, 0]
    assert source.columns["audio"].lengths().tolist() == [1_600, 2_400, 3_200]


def test_broken_files_are_left_out_and_named(tmp_path):
    for n in range(3):
        saved(tmp_path / f"good{n}.wav", tone())
    whole = (tmp_path / "good0.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:3_000])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "pickle.wav").write_bytes(pickle.dumps([1, 2]))
    saved(tmp_path / "none.wav", tone()[:0])
    with pytest.warns(UserWarning):
        source = open_source(tmp_path)
    assert len(source) == 3
    reasons = dict(source.skipped)
    assert reasons["cut.wav"] == "it is cut off: 3,000 of 8,044 bytes are there"
    assert "0 bytes" in reasons["empty.wav"] and reasons["none.wav"] == "it holds no samples"
    assert reasons["pickle.wav"] == "Format not recognised."
    with pytest.raises(DataError, match=r"cut.wav .* cannot be read \(it is cut off"):
        open_source(tmp_path, strict=True)


def test_what_cannot_be_used_is_refused(tmp_path):
    x = tone()
    x[5] = np.inf
    for n in range(2):
        saved(tmp_path / "inf" / f"{n}.wav", x, subtype="FLOAT")
        saved(tmp_path / "silent" / f"{n}.wav", 0 * tone())
        (tmp_path / "junk").mkdir(exist_ok=True)
        (tmp_path / "junk" / f"{n}.mp3").write_bytes(b"not a sound" * 50)
    saved(tmp_path / "one" / "0.wav", tone())
    cases = {"inf": r"0.wav holds NaN or infinite values \(first at sample 5\)|1.wav holds", "junk": "none of 2 sound",
             "silent": "hold nothing but 0", "one": "needs at least 2"}  # fmt: skip
    for folder, message in cases.items():
        with pytest.raises(DataError, match=message):
            infer_schema(open_source(tmp_path / folder))
    with pytest.raises(DataError, match=r"size='x' .* in seconds"):
        infer_schema(open_source(tmp_path / "silent"), size="x")


def test_other_numbers_become_shares_of_their_range():
    assert _sounds.plain(np.array([0, 128, 255], np.uint8)).tolist() == [-1, 0, 127 / 128]
    assert _sounds.plain(np.array([-(2**31), 2**30], np.int32)).tolist() == [-1, 0.5]
    assert _sounds.length_at(np.array([1, 147, 148]), 44_100, 16_000).tolist() == [1, 54, 54]
    for length in (1, 147, 148, 1_000):
        assert len(_sounds.resampled(np.ones(length, np.float32), 44_100, 16_000)) == _sounds.length_at(
            length, 44_100, 16_000
        )


def test_a_stream_of_bytes_is_read_as_a_file_is(tmp_path):
    from anymask.data.kind import Blob

    out = io.BytesIO()
    soundfile.write(out, tone(), 8_000, format="FLAC")
    blob = Blob("row 3", out.getvalue())
    assert _sounds.header(blob) == (8_000, 1, 4_000)
    np.testing.assert_allclose(_sounds.read(blob, 8_000), tone(), atol=1e-4)


def test_plain_input_is_the_spectrogram_and_cepstra_are_a_classical_one(tmp_path):
    sounds = [tone(0.5, hertz=300), tone(0.3, hertz=900), tone(0.5, hertz=301)]
    source = open_source(sounds, kind="audio", rate=8_000)
    schema = infer_schema(source)
    x = raw_input(source, schema)
    assert x.shape == (3, 64 * 50) and np.isfinite(x).all()
    assert np.abs(x[0] - x[2]).mean() < 0.2 * np.abs(x[0] - x[1]).mean()
    assert (x[1].reshape(64, 50)[:, 30:] == 0).all()
    field = schema.fields["audio"]
    batch = AUDIO.pad(sounds, 8)[0]
    both = AUDIO.classical(batch, field)["MFCC"]
    alone = AUDIO.classical(torch.from_numpy(sounds[1])[None], field)["MFCC"]
    assert both.shape == (3, 80)
    torch.testing.assert_close(both[1:2], alone, rtol=1e-3, atol=1e-2)
    librosa = pytest.importorskip("librosa")
    from anymask.data.kinds import _mel

    decibels = _mel.log_mel(torch.from_numpy(sounds[0])[None], _mel.front_end(8_000))[0].numpy()
    theirs = librosa.feature.mfcc(S=decibels, n_mfcc=20)
    np.testing.assert_allclose(both[0, :20].numpy(), theirs.mean(1), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(both[0, 40:60].numpy(), theirs.std(1), rtol=1e-3, atol=1e-2)
