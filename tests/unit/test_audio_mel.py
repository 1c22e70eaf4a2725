"""Log-mel spectrograms against librosa, transformers and SciPy."""

import numpy as np
import pytest
import scipy.signal
import torch

from anymask.data.kinds import _mel

RATES = [(8_000, {}), (16_000, {}), (44_100, {}), (22_050, dict(mels=40, low=0, high=9_000, window=0.04, hop=0.02))]


def wave(rate, seconds=0.5, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (0.05 * rate + 300 * t) * t) + 0.05 * rng.normal(size=len(t))).astype(np.float32)


def placed(x, front):
    """The waveform so padded that frames which begin at multiples of the hop are ours."""
    count = _mel.frames_of(len(x), front)
    before = front.fft // 2 - front.hop // 2
    return np.pad(x, (before, (count - 1) * front.hop + front.fft - before - len(x))), count


@pytest.mark.parametrize(("rate", "given"), RATES)
def test_filters_are_those_of_other_libraries(rate, given):
    audio = pytest.importorskip("transformers.audio_utils")
    front = _mel.front_end(rate, **given)
    ours = _mel.filters(front).double().numpy()
    args = dict(num_frequency_bins=front.fft // 2 + 1, num_mel_filters=front.mels, min_frequency=front.low,
                max_frequency=front.high, sampling_rate=rate)  # fmt: skip
    theirs = audio.mel_filter_bank(**args, mel_scale="htk").T
    np.testing.assert_allclose(ours, theirs / theirs.sum(1, keepdims=True), atol=1e-6)
    assert (theirs.sum(1) > 0).all()
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(
        sr=rate, n_fft=front.fft, n_mels=front.mels, fmin=front.low, fmax=front.high, htk=True, norm=None
    )
    np.testing.assert_allclose(ours, theirs / theirs.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("rate", "given"), RATES)
def test_spectrograms_are_those_of_other_libraries(rate, given):
    front, x = _mel.front_end(rate, **given), wave(rate)
    ours = _mel.log_mel(torch.from_numpy(x)[None], front)[0].numpy()
    padded, count = placed(x, front)
    assert ours.shape == (front.mels, count)
    hann = scipy.signal.get_window("hann", front.window)
    wide = np.zeros(front.fft)
    wide[(front.fft - front.window) // 2 :][: front.window] = hann
    _, _, spectrum = scipy.signal.stft(
        padded, rate, wide, nperseg=front.fft, noverlap=front.fft - front.hop, boundary=None, padded=False
    )
    density = np.abs(spectrum * wide.sum()) ** 2 / (hann**2).sum()
    np.testing.assert_allclose(ours, 10 * np.log10(_mel.filters(front).numpy() @ density), atol=2e-3)
    audio = pytest.importorskip("transformers.audio_utils")
    theirs = audio.spectrogram(
        padded.astype(np.float64), wide, front.fft, front.hop, fft_length=front.fft, power=2.0, center=False,
        mel_filters=_mel.filters(front).double().numpy().T, mel_floor=0.0,
    )  # fmt: skip
    np.testing.assert_allclose(ours, 10 * np.log10(theirs / (hann**2).sum()), atol=2e-3)
    librosa = pytest.importorskip("librosa")
    theirs = librosa.feature.melspectrogram(
        y=padded, sr=rate, n_fft=front.fft, hop_length=front.hop, win_length=front.window, center=False, power=2.0,
        n_mels=front.mels, fmin=front.low, fmax=front.high, htk=True, norm=None,
    )  # fmt: skip
    weight = librosa.filters.mel(
        sr=rate, n_fft=front.fft, n_mels=front.mels, fmin=front.low, fmax=front.high, htk=True, norm=None
    ).sum(1)
    np.testing.assert_allclose(ours, 10 * np.log10(theirs / weight[:, None] / (hann**2).sum()), atol=5e-3)


def test_noise_of_variance_1_is_0_decibels_in_every_band_and_silence_the_floor():
    front = _mel.front_end(16_000)
    noise = torch.randn(1, 16_000 * 20, generator=torch.Generator().manual_seed(0))
    level = 10 * (10 ** (_mel.log_mel(noise, front)[0] / 10)).mean(1).log10()
    assert level.abs().max() < 0.5
    assert (_mel.log_mel(torch.zeros(1, 1600), front) == -100).all()


def test_defaults_follow_the_rate():
    assert _mel.front_end(16_000) == (16_000, 400, 160, 128, 20.0, 8_000.0)
    assert _mel.front_end(8_000) == (8_000, 200, 80, 64, 20.0, 4_000.0)
    assert _mel.front_end(1_000) == (1_000, 25, 10, 32, 20.0, 500.0)
    assert _mel.front_end(50) == (50, 2, 1, 32, 12.5, 25.0)
    assert _mel.front_end(16_000).fft == 1024  # 512 would leave bands of 28 Hz between its bins of 31 Hz empty


def test_frames_do_not_depend_on_what_is_padded():
    front, x = _mel.front_end(8_000), torch.from_numpy(wave(8_000))[None]
    more = torch.nn.functional.pad(x, (0, 999))
    short, long = _mel.log_mel(x, front), _mel.log_mel(more, front)
    torch.testing.assert_close(short, long[..., : short.shape[2]], rtol=0, atol=1e-4)
    torch.testing.assert_close(long[..., :60], _mel.log_mel(more, front, 60)[..., :60])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(_mel.log_mel(x, front), short)
