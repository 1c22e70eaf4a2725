"""Windows of waveforms: which lie within a sound, how they are scaled, and what does not fit."""

import dataclasses

import numpy as np
import pytest
import torch

from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.data import open_source
from anymask.evaluation import embed
from anymask.recipe import P, RecipeError, find
from anymask.train import pretrain


def built(changes=None, schema=None):
    torch.manual_seed(0)
    return find("data2vec-2-speech").but(changes or {}).build(schema or example_schema("audio"), SMALL)


def test_windows_of_sounds_of_several_lengths():
    tokenizer = built().tokenizer
    rng = np.random.default_rng(0)
    sounds = [rng.normal(3.0, 2.0, n).astype(np.float32) for n in (1_500, 800, 100)]
    wave = torch.full((3, 1_500), torch.nan)
    for row, sound in zip(wave, sounds):
        row[: len(sound)] = torch.from_numpy(sound)
    tokens = tokenizer({"audio": wave})
    x = tokens.x["audio"]
    assert tokens.grid == (4,) and tokens.pos[0, :, 0].tolist() == [200, 520, 840, 1160]
    assert tokens.valid.tolist() == [[True] * 4, [True, True, False, False], [True, False, False, False]]
    for row, sound in zip(x, sounds):
        scaled = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        for n, start in enumerate((0, 320)):
            part = scaled[start : start + 400]
            np.testing.assert_allclose(row[n, : len(part)], part, atol=1e-5)
            assert (row[n, len(part) :] == 0).all()
    alone = tokenizer({"audio": torch.from_numpy(sounds[1])[None]})
    assert alone.valid is None and alone.shape == (1, 2)
    torch.testing.assert_close(alone.x["audio"][0], x[1, :2])


def test_only_kept_windows_are_embedded():
    model = built()
    seen = []
    model.stem.embed["audio"].register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:2]))
    step = model.hide(batch_of(example_schema("audio"), 3))
    model.predict(step)
    assert seen[0] == step.mask.keep.shape and step.mask.keep.shape[0] == 3 * 8


def test_a_run_is_trained_and_used(tmp_path):
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.1, n).astype(np.float32) for n in rng.integers(900, 3_000, 24)]
    source = open_source(sounds, kind="audio", rate=8_000)
    run = pretrain(
        source, recipe="data2vec-2-speech", steps=3, size=SMALL, batch_size=8, out=tmp_path / "r", progress=False,
        probe_labels=None, changes={"mask.masks": 2},
    )  # fmt: skip
    features = embed(run, source)
    assert features.shape == (24, SMALL.width) and np.isfinite(features).all()
    alone = embed(run, source.subset([5]))
    np.testing.assert_allclose(alone[0], features[5], atol=1e-4)


def test_what_does_not_fit_is_refused():
    for changes, words in [
        ({"tokenizer.hop": 0}, "hop is at least 1"),
        ({"tokenizer.window": 500}, "see 400 samples every 320"),
        ({"stem.strides": (5, 2)}, "of the same layers"),
        ({"tokenizer": P(find("audio-mae").stages["tokenizer"].part)}, "tokenizer=P.WaveWindows"),
    ]:
        with pytest.raises(RecipeError, match=words):
            built(changes)
    schema = example_schema("audio")
    field = schema.fields["audio"]
    short = dataclasses.replace(schema, fields={"audio": dataclasses.replace(field, shape=(600,))})
    with pytest.raises(RecipeError, match="too short for windows of 400"):
        built(schema=short)
