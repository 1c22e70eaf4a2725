"""Small videos for tests: frames whose shade tells their number."""

from fractions import Fraction

import numpy as np


def shades(count, height=24, width=32, step=8):
    """(T, H, W, 3) uint8: frame n is of the shade 8 n, and has a brighter left half."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    frames += (np.arange(count) * step).astype(np.uint8)[:, None, None, None]
    frames[:, :, : width // 2] += 10
    return frames


def write(path, frames, *, rate=25, codec="mpeg4", pixels="yuv420p"):
    """A video file of frames (T, H, W, 3)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.gop_size = 6
        if codec != "ffv1":
            stream.bit_rate = 4_000_000
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers_of(frames, step=8):
    """Which frames of `shades` these are, (n, h, w, C) or (C, n, h, w) with the channels told by their number."""
    if frames.shape[-1] not in (1, 3):
        frames = frames.transpose(1, 2, 3, 0)
    right = frames[:, :, frames.shape[2] * 3 // 4 :]
    return np.round(right.reshape(len(right), -1).mean(1) / step).astype(int).tolist()
