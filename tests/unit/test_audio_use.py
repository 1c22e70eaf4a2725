"""Spans and alterations of TERA; sounds from training to evaluation, report and command line."""

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from task_tools import made

from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.data import infer_schema, open_source
from anymask.data.kinds.audio import EXAMPLE, tones
from anymask.engine import Step
from anymask.evaluation import embed, evaluate
from anymask.recipe import RecipeError, find
from anymask.reports import Panel, renderer_of
from anymask.train import pretrain
from anymask.train.measure import first_batch

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
SCHEMA = example_schema("audio")


def tera(changes=None):
    torch.manual_seed(0)
    return find("tera").but(changes or {}).build(SCHEMA, SMALL)


def step_of(model, count=6, seed=0):
    sample = batch_of(SCHEMA, count, seed)
    return model.hide(sample)


# Spans.


def test_spans_are_runs_that_hide_exactly_the_share():
    model = tera({"mask.ratio": 0.3, "mask.span": 4})
    step = step_of(model, 8)
    hidden = ~step.mask.visible & (step.tokens.valid if step.tokens.valid is not None else True)
    for row in range(8):
        n = int(step.tokens.valid[row].sum())
        assert int(hidden[row].sum()) == n - int(0.7 * n + 1e-4)
        edges = np.diff(np.r_[0, hidden[row].int().numpy(), 0])
        runs = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
        starts = np.flatnonzero(edges == 1)
        # Whole runs of four, longer where they overlap; one is cut by the share, and one may be by an end.
        assert sum(run < 4 for run in runs) <= 2 and len(starts) <= -(-int(hidden[row].sum()) // 4) + 2
    many = torch.stack([step_of(model, 8, seed).mask.visible[0] for seed in range(40)]).float().mean(0)
    assert many.min() > 0.4 and many.max() < 0.98  # no place is always seen
    with pytest.raises(RecipeError, match="one line of tokens"):
        find("tera").but({"tokenizer.patch": (4, 4)}).build(SCHEMA, SMALL)


# Alterations.


def altered(model, step):
    seen = {}
    stem = model.stem.forward
    model.stem.forward = lambda step, content=None, fill=None: seen.update(content=content) or stem(step, content, fill)
    model.corruption(step, model)
    model.stem.forward = stem
    return seen["content"]["audio"]


def test_time_is_altered_where_frames_are_hidden_only():
    model = tera({"corruption.bands": 0.0, "corruption.noisy": 0.0, "mask.ratio": 0.5})
    step = step_of(model)
    x, y, shown = step.tokens.x["audio"], altered(model, step), step.mask.visible
    assert torch.equal(y[shown], x[shown])
    hidden = ~shown & step.tokens.valid
    zero = (y == 0).all(-1)
    assert 0.6 < zero[hidden].float().mean() < 1
    rows, places = (hidden & ~zero).nonzero(as_tuple=True)
    assert len(rows)
    for row, place in zip(rows.tolist(), places.tolist()):  # a visible frame of the same sound
        same = (x[row] == y[row, place]).all(-1)
        assert (same & shown[row]).any()
    none = altered(tera({"corruption.other": 0.0, "corruption.bands": 0.0, "corruption.noisy": 0.0}), step)
    assert (none[hidden] == 0).all()


def test_a_run_of_bands_is_altered_in_all_frames():
    model = tera({"corruption.bands": 0.25, "corruption.noisy": 0.0, "corruption.other": 0.0})
    widths, firsts = set(), set()
    for seed in range(12):
        step = step_of(model, 6, seed)
        x, y = step.tokens.x["audio"], altered(model, step)
        for row in range(6):
            shown = step.mask.visible[row]
            gone = (y[row, shown] == 0).all(0)
            assert torch.equal(y[row, shown][:, ~gone], x[row, shown][:, ~gone])
            places = gone.nonzero()[:, 0]
            widths.add(len(places))
            if len(places):
                assert places[-1] - places[0] + 1 == len(places)
                firsts.add(int(places[0]))
    assert widths == set(range(9)) and min(firsts) < 4 and max(firsts) > 22  # 32 bands, 8 at most


def test_noise_is_added_to_some_sounds():
    model = tera({"corruption.bands": 0.0, "corruption.noisy": 0.4, "corruption.noise": 0.2, "corruption.other": 0.0})
    loud = []
    for seed in range(10):
        step = step_of(model, 6, seed)
        gap = altered(model, step) - step.tokens.x["audio"]
        for row in range(6):
            spread = gap[row, step.mask.visible[row]].std()
            assert spread == 0 or 0.15 < spread < 0.25
            loud.append(bool(spread > 0))
    assert 0.2 < np.mean(loud) < 0.6


# From training to evaluation.


@pytest.fixture(scope="module")
def sounds():
    """Low and high tones, of three lengths."""
    rate, length = EXAMPLE
    made_up = [sound if n % 2 else sound[::-1].copy() for n, sound in enumerate(tones(24, length, rate, 1))]
    t = np.arange(length) / rate
    for n, sound in enumerate(made_up):
        sound += (0.2 * np.sin(2 * np.pi * (300, 1_200)[n % 2] * t)).astype(np.float32)[: len(sound)]
    return open_source((made_up, [n % 2 for n in range(24)]), kind="audio", rate=rate)


def test_sounds_are_trained_on_resumed_and_embedded(sounds, tmp_path):
    options = dict(size=SMALL, batch_size=8, progress=False, probe_labels=None, workers=0)
    run = pretrain(sounds, steps=3, out=tmp_path / "a", **options)
    assert run.recipe.slug == "audio-mae" and (tmp_path / "a" / "history.npz").is_file()
    features = np.asarray(embed(run, sounds))
    alone = np.asarray(embed(run, sounds.subset([4, 1])))
    np.testing.assert_allclose(features[[4, 1]], alone, atol=1e-4)


def test_baselines_stand_beside_the_encoder(sounds, tmp_path):
    table = evaluate(made(sounds, tmp_path, "tera"), sounds, labels=("all",), probes="linear")
    assert [row[0] for row in table.rows] == ["raw input", "MFCC", "untrained encoder", "pre-trained encoder"]
    assert table.rows[1][2].mean == 100.0
    assert "raw input is the log-mel spectrogram, standardised by band" in table.notes


def test_spectrograms_are_drawn_with_their_axes(sounds, tmp_path):
    model = made(sounds, tmp_path, "audio-mae").model()
    sample = first_batch(sounds, infer_schema(sounds), 3)
    tokens = model.tokenizer(sample)
    x = torch.where(tokens.valid[..., None], tokens.x["audio"], torch.nan)
    shown = torch.rand(tokens.valid.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    renderer = renderer_of(model)
    drawings = renderer.draw([
        Panel("original", x), Panel("seen", x, shown), Panel("rebuilt", x, shown, predicted=~shown & tokens.valid),
        Panel("norms", x, values=tokens.valid.float()),
    ])  # fmt: skip
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
        assert len(tree.findall(".//{http://www.w3.org/2000/svg}image")) == 3
        assert "1 kHz" in drawing.svg and "0 s" in drawing.svg and "0.1" in drawing.svg and "dB bright" in drawing.svg
    assert "spectrograms of 3 sounds" in drawings[0].alt and "% of the patches hidden" in drawings[1].alt
    decibels = renderer.decibels(x)
    assert decibels.shape == (3, 32, 40) and np.nanmin(decibels) >= -100 and np.isnan(decibels[1, :, -1]).all()
    step = Step(sample, tokens, aux={})
    assert step.tokens.grid == (8, 10)


# As they are on disk.

on_disk = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")


@pytest.mark.realdata
@on_disk
def test_real_sounds_are_opened_and_learnt_from():
    digits = open_source(DATA / "fsdd", group="speaker")
    schema = infer_schema(digits)
    field = schema.fields["audio"]
    assert schema.count == 1_500 and len(digits.split("test")) == 300 and len(set(digits.groups)) == 6
    assert field.more == {"rate": 8_000} and len(field.mean) == 64 and field.sizes[0][0] > 1_000
    rooms, music = (open_source(DATA / name) for name in ("room_events", "speech_music_silence"))
    assert infer_schema(rooms).fields["audio"].shape == (16_000,) and len(rooms.label_names or range(5)) == 5
    assert music.label_names == ["music", "silence", "speech"]
    torch.manual_seed(0)
    for slug in ("audio-mae", "tera"):
        model = find(slug).build(schema, SMALL)
        batch = first_batch(digits, schema, 8)
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        losses = []
        for _ in range(12):
            optimiser.zero_grad()
            losses.append(model(batch).loss)
            losses[-1].backward()
            optimiser.step()
        assert losses[-1] < 0.95 * losses[0]
