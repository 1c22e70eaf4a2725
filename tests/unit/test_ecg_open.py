"""Electrocardiograms from wfdb records, and what is wrong with them."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import wfdb

from anymask.data import DataError, SchemaError, infer_schema, open_source, ordered_loader, training_loader
from anymask.data.kinds import _ecg

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def beats(seconds, rate, apart=0.8):
    """A trace with a sharp wave every `apart` seconds, and where they are."""
    t = np.arange(int(seconds * rate)) / rate
    peaks = np.arange(0.5, seconds - 0.4, apart)
    return sum(np.exp(-0.5 * ((t - p) / 0.02) ** 2) for p in peaks), np.round(peaks * rate).astype(int)


def record(folder, name="r", seconds=40, rate=250, leads=("II", "V1"), units=None, symbols=None, values=None):
    trace, peaks = beats(seconds, rate)
    if values is None:
        noise = np.random.default_rng(len(name)).normal(0, 0.01, (len(trace), len(leads)))
        values = trace[:, None] * (1 + np.arange(len(leads))) + noise
    wfdb.wrsamp(name, fs=rate, units=list(units or ["mV"] * len(leads)), sig_name=list(leads), p_signal=values,
                fmt=["16"] * len(leads), write_dir=str(folder))  # fmt: skip
    if symbols is not None:
        given = [symbols[n % len(symbols)] for n in range(len(peaks))]
        wfdb.wrann(name, "atr", np.array([*peaks, peaks[-1] + 5]), [*given, "+"], write_dir=str(folder))
    return folder / name, peaks


def test_a_record_is_cut_into_windows_of_parts_by_time(tmp_path):
    path, _ = record(tmp_path, seconds=200)
    source = open_source(path)
    field = infer_schema(source).fields["ecg"]
    assert field.shape == (2, 2250) and field.columns == ("II", "V1") and field.units == ("mV", "mV")
    assert field.more["rate"] == 250 and field.interval == 1 / 250 and source.name == "r"
    whole = source.columns["ecg"].signals(0)
    taken = {}
    for split in ("train", "validation", "test"):
        part = source.split(split)
        column = part.columns["ecg"]
        taken[split] = np.zeros(whole.shape[1], dtype=bool)
        for n, start in enumerate(column.starts):
            np.testing.assert_array_equal(part[n]["ecg"], whole[:, start : start + 2250])
            taken[split][start : start + 2250] = True
    assert not (taken["train"] & taken["test"]).any() and not (taken["train"] & taken["validation"]).any()
    share = [taken[split].mean() for split in ("train", "validation", "test")]
    assert share[0] > 0.5 and 0.1 < share[1] < 0.25 and 0.1 < share[2] < 0.25
    late = [np.flatnonzero(taken[split]).mean() / len(taken[split]) for split in ("train", "test")]
    assert abs(late[0] - late[1]) < 0.15  # spread over the record
    assert len(open_source(str(path) + ".hea", parts="0.4,0.2,0.4").split("test")) > len(source.split("test"))


def test_blocks_follow_the_shares():
    made = _ecg.blocks(100_000, 250, 1000, (0.5, 0.1, 0.4))
    assert made.size == 10_000 and [int((made.parts == n).sum()) for n in range(3)] == [5, 1, 4]
    spans = [made.spans(n, 100_000) for n in range(3)]
    flat = sorted(span for part in spans for span in part)
    assert flat[0][0] == 0 and flat[-1][1] == 100_000
    assert all(a[1] == b[0] for a, b in itertools.pairwise(flat))
    assert _ecg.blocks(10**7, 250, 1000, (0.6, 0.2, 0.2)).size == 15_000  # a minute


def test_signals_are_resampled_filtered_and_in_millivolts(tmp_path):
    rate, seconds = 500, 20
    t = np.arange(rate * seconds) / rate
    tone = np.sin(2 * np.pi * 8 * t)
    x = np.stack([tone + 3 + 2 * np.sin(2 * np.pi * 0.1 * t) + np.sin(2 * np.pi * 90 * t), 1000 * tone], 1)
    path, _ = record(tmp_path, rate=rate, values=x, leads=("i", "AVF"), units=("mV", "uV"))
    header = _ecg.read_header(path)
    assert list(header.leads) == ["I", "aVF"]
    out = _ecg.read_signals(header, ("I", "V9", "aVF"), 250)
    assert out.shape == (3, 250 * seconds) and np.isnan(out[1]).all()
    middle = slice(500, -500)
    true = np.sin(2 * np.pi * 8 * np.arange(250 * seconds) / 250)
    assert np.abs(out[0, middle] - true[middle]).max() < 0.08  # drift, offset and noise are gone
    assert np.abs(out[2, middle] - true[middle]).max() < 0.08


def test_gaps_stay_gaps(tmp_path):
    trace, _ = beats(30, 250)
    x = np.stack([trace, 2 * trace], 1)
    x[1000:1500, 1] = np.nan
    path, _ = record(tmp_path, values=x, seconds=30)
    out = _ecg.read_signals(_ecg.read_header(path), ("II", "V1"), 125)
    assert np.isnan(out[1, 501:749]).all() and np.isfinite(out[0]).all() and np.isfinite(out[1, :499]).all()


def test_beats_are_samples_with_their_annotations(tmp_path):
    path, peaks = record(tmp_path, seconds=120, symbols="NNA")
    source = open_source(path, label="beat")
    assert source.label_names == ["A", "N"] and infer_schema(source).fields["ecg"].shape == (2, 400)
    for n in range(len(source)):
        value = source[n]["ecg"][0]
        assert abs(int(value[200:320].argmax()) + 200 - 250) <= 1  # the R peak
    column = source.columns["ecg"]
    number = [int(np.abs(peaks - (start + 250)).argmin()) for start in column.starts]
    assert source.labels.tolist() == [0 if n % 3 == 2 else 1 for n in number]
    block = _ecg.blocks(120 * 250, 250, 400, (0.6, 0.2, 0.2)).size
    assert [int(group) for group in source.groups] == (column.starts // block).tolist()
    spans = {split: {int(s) for s in source.split(split).columns["ecg"].starts} for split in ("train", "test")}
    assert all(abs(a - b) >= 400 for a in spans["train"] for b in spans["test"])


def test_a_folder_of_records_with_different_leads(tmp_path):
    record(tmp_path, "a", leads=("V1", "i", "MLII"))
    record(tmp_path, "b", rate=125, leads=("II", "ABP"), units=("mV", "mmHg"))
    record(tmp_path, "c", seconds=4, leads=("II", "RESP"))
    source = open_source(tmp_path)
    field = infer_schema(source).fields["ecg"]
    assert field.columns == ("I", "II", "V1", "MLII") and field.more["rate"] == 250
    assert set(source.groups) == {"a", "b", "c"} and "ABP, RESP" in source.notes[0]
    seen = {group: np.isfinite(source[int(np.flatnonzero(source.groups == group)[0])]["ecg"]) for group in "abc"}
    there = {"a": [True, False, True, True], "b": [False, True, False, False], "c": [False, True, False, False]}
    assert {group: value.any(1).tolist() for group, value in seen.items()} == there
    assert seen["c"][1].sum() == 1000  # a short record ends in missing values
    assert infer_schema(open_source(tmp_path, ignore="MLII")).fields["ecg"].columns == ("I", "II", "V1")
    batch = next(iter(training_loader(source, infer_schema(source), batch_size=4, steps=1, seed=0, workers=0)))
    assert batch["ecg"].shape == (4, 4, 2250)


def test_classes_by_folder_are_of_whole_records(tmp_path):
    for n in range(4):
        folder = tmp_path / ("sick" if n % 2 else "well")
        folder.mkdir(exist_ok=True)
        record(folder, f"r{n}", seconds=10 + n)
    source = open_source(tmp_path)
    assert len(source) == 4 and source.label_names == ["sick", "well"]
    schema = infer_schema(source)
    assert schema.fields["ecg"].shape == (2, 2250)
    shapes = [batch["ecg"].shape for batch in ordered_loader(source, schema, batch_size=2, multiple=(1, 75))]
    assert shapes == [(2, 2, 2250)] * 2
    (tmp_path / "metadata.csv").write_text("file_name,label\nsick/r1.hea,x\nwell/r0.hea,y\n")
    assert len(open_source(tmp_path)) == 2


def test_other_records_are_arranged_for_a_model(tmp_path):
    one, _ = record(tmp_path, "one", leads=("II", "V1", "V5"))
    two, _ = record(tmp_path, "two", rate=125, leads=("V5", "aVR", "II"))
    three, _ = record(tmp_path, "three", leads=("V6",))
    trained = infer_schema(open_source(one))
    source = open_source(two)
    assert source.columns["ecg"].rate == 125
    notes = trained.check(infer_schema(source))
    assert any("aVR" in note and "not used" in note for note in notes) and any("lacks the leads V1" in n for n in notes)
    batch = next(iter(ordered_loader(source, trained, batch_size=2)))
    assert batch["ecg"].shape == (2, 3, 2250)
    assert batch["ecg"][:, 1].isnan().all() and batch["ecg"][:, 0].isfinite().all()
    with pytest.raises(SchemaError, match="none of those"):
        trained.check(infer_schema(open_source(three)))


def test_what_is_wrong_is_said(tmp_path):
    path, _ = record(tmp_path, "whole", symbols="N")
    with pytest.raises(DataError, match="label='beat'"):
        open_source(path, label="diagnosis")
    with pytest.raises(DataError, match="no split 'other'"):
        open_source(path, split="other")
    with pytest.raises(DataError, match="16 or more"):
        open_source(path, window=3)
    with pytest.raises(DataError, match="--kind series"):
        open_source(np.zeros((4, 2, 500)), kind="ecg")
    cut, _ = record(tmp_path, "cut")
    (tmp_path / "cut.dat").write_bytes((tmp_path / "cut.dat").read_bytes()[:1000])
    with pytest.raises(DataError, match="cut"):
        infer_schema(open_source(cut))
    record(tmp_path, "gone")
    (tmp_path / "gone.dat").unlink()
    (tmp_path / "junk.hea").write_text("what\nis this\n")
    with pytest.raises(DataError, match=r"gone\.dat, which is not there"):
        open_source(tmp_path / "gone")
    with pytest.raises(DataError, match="no wfdb header"):
        open_source(tmp_path / "junk.hea")
    pressure, _ = record(tmp_path, "pressure", leads=("ABP",), units=("mmHg",))
    with pytest.raises(DataError, match="none of its signals"):
        open_source(pressure)
    source = open_source(tmp_path)
    assert {note.partition(":")[0] for note in source.notes if note.startswith("left out")} == {
        "left out gone.hea", "left out junk.hea", "left out pressure.hea"
    }  # fmt: skip
    with pytest.raises(DataError, match="strict"):
        open_source(tmp_path, strict=True)
    (tmp_path / "empty").mkdir()
    record(tmp_path / "empty", "bare")
    with pytest.raises(DataError, match="annotated"):
        open_source(tmp_path / "empty", label="beat")


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
def test_records_of_physionet():
    folder = open_source(DATA / "ecg_wfdb")
    field = infer_schema(folder).fields["ecg"]
    assert set(folder.groups) == {"03700181", "100", "100_3chan", "a103l", "s0010_re", "test01_00s", "v102s"}
    assert field.columns[:12] == _ecg.STANDARD[:12] and "RESP" not in field.columns and "MLII" in field.columns
    beats_ = open_source(DATA / "ecg_wfdb" / "100", label="beat", parts="0.5,0.1,0.4")
    test = beats_.split("test")
    assert beats_.label_names == ["A", "N", "V"] or beats_.label_names == ["A", "N"]
    assert (beats_.labels == 0).sum() >= 10 <= (test.labels == 0).sum()
    peaks = [abs(int(np.abs(beats_[n]["ecg"][0, 200:320]).argmax()) - 50) for n in range(0, len(beats_), 50)]
    assert np.median(peaks) <= 2
