"""Tokens of sounds, decoding in windows, spans and alterations."""

import numpy as np
import pytest
import torch

from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.data.kind import kind_of
from anymask.data.kinds import _mel
from anymask.data.kinds.audio import EXAMPLE, tones
from anymask.engine import everything
from anymask.parts.spectrograms import LogMel, Windows
from anymask.parts.windows import layout
from anymask.recipe import RecipeError, find

SCHEMA = example_schema("audio")
FIELD = SCHEMA.fields["audio"]
SOUNDS = tones(4, EXAMPLE[1], EXAMPLE[0], 3)


def built(recipe="audio-mae", changes=None):
    torch.manual_seed(0)
    return find(recipe).but(changes or {}).build(SCHEMA, SMALL)


def batch(sounds):
    return {"audio": kind_of("audio").pad(sounds, 8)[0]}


def test_tokens_are_patches_of_the_standardised_spectrogram():
    model = built()
    tokens = model.tokenizer(batch(SOUNDS[:1]))
    assert tokens.grid == (8, 10) and tokens.shape == (1, 80) and tokens.valid is None
    front = _mel.front_end(EXAMPLE[0])
    x = _mel.log_mel(torch.from_numpy(SOUNDS[0])[None], front)[0].numpy()
    x = (x - np.array(FIELD.mean)[:, None]) / np.array(FIELD.std)[:, None]
    for i, j in ((0, 0), (2, 7), (7, 9)):
        patch = x[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        np.testing.assert_allclose(tokens.x["audio"][0, 10 * i + j].numpy(), patch.ravel(), atol=1e-4)
        assert tokens.pos[0, 10 * i + j].tolist() == [4 * i + 2, (4 * j + 2) * front.hop]
    whole = model.tokenizer.raw(model.tokenizer.whole(tokens.x["audio"], tokens.grid))
    decibels = _mel.log_mel(torch.from_numpy(SOUNDS[0])[None], front)[0]
    np.testing.assert_allclose(whole[0, 0].numpy(), decibels, atol=1e-3)


def test_statistics_of_the_schema_standardise_by_band():
    model = built()
    long = [sound for sound in tones(64, EXAMPLE[1], EXAMPLE[0], 0) if len(sound) == EXAMPLE[1]]
    x = model.tokenizer(batch(long)).x["audio"]
    assert x.mean().abs() < 0.1 and abs(x.std() - 1) < 0.1


def test_a_padded_sound_has_the_tokens_it_has_alone():
    tokenizer = built().tokenizer
    both = tokenizer(batch(SOUNDS[:2]))
    alone = tokenizer(batch(SOUNDS[1:2]))
    frames = -(-len(SOUNDS[1]) // (4 * 40))
    assert len(SOUNDS[1]) < len(SOUNDS[0]) and alone.grid == (8, frames)
    real = both.valid[1].unflatten(0, both.grid)
    assert real[:, :frames].all() and not real[:, frames:].any() and both.valid[0].all()
    torch.testing.assert_close(both.x["audio"][1][both.valid[1]], alone.x["audio"][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(both.pos[0, both.valid[1]], alone.pos[0], rtol=0, atol=0)


def test_other_front_ends_and_patches():
    changes = {"tokenizer.mels": 24, "tokenizer.window": 0.05, "tokenizer.hop": 0.02, "tokenizer.patch": (0, 1)}
    model = built(changes=changes)
    tokens = model.tokenizer(batch(SOUNDS[:1]))
    assert tokens.grid == (1, 20) and tokens.x["audio"].shape == (1, 20, 24)
    assert tokens.x["audio"].mean().abs() < 1 and 0.3 < tokens.x["audio"].std() < 2  # interpolated figures still serve
    for changes, message in (({"tokenizer.patch": 5}, "do not fit 32 bands"), ({"tokenizer.high": 3_000.0}, "half the"),
                             ({"tokenizer.patch": (0, 99)}, "too short")):  # fmt: skip
        with pytest.raises(RecipeError, match=message):
            built(changes=changes)


@pytest.mark.parametrize("shift", [(0, 0), (0, 2), (1, 3)])
@pytest.mark.parametrize("grid", [(8, 12), (5, 7), (2, 3)])
def test_windows_by_brute_force(grid, shift):
    h, w = grid
    x = torch.arange(1, h * w + 1).view(1, -1, 1).float()
    way = layout(h * w, grid, (4, 4), shift, x.device)
    cut = way.split(x)
    together = lambda n, m: all((n[a] - shift[a]) // 4 == (m[a] - shift[a]) // 4 for a in (0, 1))
    cells = [divmod(n, w) for n in range(h * w)]
    for window in cut[..., 0].tolist():
        there = [cells[int(v) - 1] for v in window if v]
        if there:
            assert sorted(there) == [cell for cell in cells if together(cell, there[0])]
    assert torch.equal(way.join(cut, 1), x)


def test_a_decoder_of_windows_looks_no_further_than_they_reach():
    """One block: the window. Two: also those that the tokens of the shifted window saw."""
    sample = batch_of(SCHEMA, 4)
    for depth, near in ((1, lambda i, j: (i // 4, j // 4) == (0, 1)), (2, lambda i, j: i < 4 and j < 8)):
        model = built(changes={"decoder.depth": depth}).eval()
        tokens = model.tokenizer(sample)
        x = torch.randn(1, tokens.shape[1], SMALL.decoder_width, requires_grad=True)
        y = model.decoder.attended(x, None, tokens.grid)
        (grad,) = torch.autograd.grad(y[0, 5].square().sum(), x)  # band 0, place 5
        reached = grad[0].abs().sum(1) > 0
        expected = [near(i, j) for i in range(8) for j in range(10)]
        assert reached.tolist() == expected
    everywhere = built(changes={"decoder.window": None})
    assert type(everywhere.decoder) is Windows
    y = everywhere.decoder.attended(x, None, tokens.grid)
    assert (torch.autograd.grad(y[0, 5].square().sum(), x)[0].abs().sum(2) > 0).all()


def test_padding_changes_no_prediction_of_the_decoder():
    model = built().eval()
    sounds = [SOUNDS[1], SOUNDS[0]]
    key = torch.tensor([5, 6])
    step = model.hide({**batch(sounds), "key": key})
    wider = torch.nn.functional.pad(batch(sounds)["audio"], (0, 480), value=torch.nan)
    other = model.hide({"audio": wider, "key": key})
    # The same tokens are visible: masks are drawn by place, and the grid is wider.
    place = lambda s: s.tokens.valid[0].nonzero()[:, 0]
    shown = torch.zeros_like(other.mask.visible)
    shown[0, place(other)] = step.mask.visible[0, place(step)]
    shown[1, other.tokens.valid[1]] = step.mask.visible[1]
    from anymask.engine import split

    again = split(1 - shown.float(), shown.sum(1), valid=other.tokens.valid)
    pred = model.predict(step).pred["pixels"]
    moved = model.predict(other._replace(mask=again)).pred["pixels"]
    for row in (0, 1):
        a = {float(p): v for p, v in zip(_key(step, row), pred[row]) if p >= 0}
        b = {float(p): v for p, v in zip(_key(other._replace(mask=again), row), moved[row]) if p >= 0}
        assert a.keys() == b.keys() and len(a) > 20
        torch.testing.assert_close(torch.stack(list(a.values())), torch.stack([b[p] for p in a]), rtol=1e-4, atol=1e-4)
    assert everything(step.tokens).visible[0].sum() < everything(step.tokens).visible[1].sum()


def _key(step, row):
    """Where each asked token is; -1 = filler."""
    pos = step.tokens.pos[0, step.mask.ask[row]]
    name = pos[:, 0] * 1e6 + pos[:, 1]
    return torch.where(step.mask.ask_ok[row], name, -1.0)


def test_the_tokenizer_takes_only_sounds():
    assert LogMel.serves("audio", {}) and not LogMel.serves("image", {})
    assert not find("mae").serves("audio") and find("audio-mae").serves("audio")
