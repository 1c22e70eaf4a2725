"""Augmentation of one image in a worker: objects called with (array (C, H, W), generator, size (H, W)).

All keep the dtype and the number of channels, for any of uint8, uint16 and float32. Resizing is Pillow's antialiased
bicubic, which is what the papers' code used; results are clipped to the range of the dtype (of the image for floats).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from .kinds._skeletons import dimensions, resampled

Size = tuple[int, int]
Box = tuple[float, float, float, float]

_PACKED = {1: "L", 3: "RGB", 4: "CMYK"}  # Pillow resizes these in one go; CMYK, as RGBA would be premultiplied


class Augment(Protocol):
    """An augmentation; `rng` is None only for objects that draw nothing."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator, size: Size, /) -> np.ndarray: ...


def resize(image: np.ndarray, size: Size, box: Box | None = None) -> np.ndarray:
    """(C, h, w) to (C, *size), bicubic and antialiased; `box` (left, top, right, bottom) is cut out first."""
    h, w = size
    if image.shape[1:] == (h, w) and box in (None, (0, 0, w, h)):
        return image
    mode = _PACKED.get(len(image)) if image.dtype == np.uint8 else None
    if mode is not None:
        packed = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        # frombytes and not fromarray: half the time for small images
        source = Image.frombuffer(mode, (image.shape[2], image.shape[1]), packed.tobytes(), "raw", mode, 0, 1)
        out = np.asarray(source.resize((w, h), Image.Resampling.BICUBIC, box=box))
        return np.ascontiguousarray(out[None] if len(image) == 1 else out.transpose(2, 0, 1))
    planes = [Image.fromarray(plane.astype(np.float32)).resize((w, h), Image.Resampling.BICUBIC, box=box)
              for plane in image]
    return _like(np.stack([np.asarray(plane) for plane in planes]), image)


def _like(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Float values clipped to the range of `image` (of its dtype for integers) and in its dtype."""
    if image.dtype.kind == "u":
        return np.clip(np.rint(values), 0, np.iinfo(image.dtype).max).astype(image.dtype)
    return np.clip(values, image.min(), image.max()).astype(image.dtype)


class Compose:
    """Several augmentations, one after another."""

    def __init__(self, *steps: Augment) -> None:
        self.steps = steps

    def __call__(self, image: np.ndarray, rng: np.random.Generator, size: Size) -> np.ndarray:
        for step in self.steps:
            image = step(image, rng, size)
        return image


class Flip:
    """Mirrors left and right with probability `p`."""

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: np.ndarray, rng: np.random.Generator, size: Size) -> np.ndarray:
        return image[:, :, ::-1] if rng.random() < self.p else image


class RandomResizedCrop:
    """A crop of random area and shape, resized; then a flip (Szegedy et al. 2014; as in torchvision and MAE).

    `scale` is the share of the area, `ratio` the range of width to height, `flip` the probability of mirroring. Ten
    tries for a crop that fits, then the largest centred one.
    """

    def __init__(self, *, scale: tuple[float, float] = (0.2, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3),
                 flip: float = 0.5) -> None:
        self.scale, self.ratio, self.flip = scale, ratio, flip
        self._log_ratio = math.log(ratio[0]), math.log(ratio[1])

    def box(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """A drawn crop: left, top, right, bottom in whole pixels."""
        draws = rng.random((10, 4))  # all at once: one call costs as much as one number
        low, high = self.scale
        log_low, log_high = self._log_ratio
        for a, b, c, d in draws.tolist():
            area = height * width * (low + (high - low) * a)
            aspect = math.exp(log_low + (log_high - log_low) * b)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(c * (width - w + 1)), int(d * (height - h + 1))
                return left, top, left + w, top + h
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def __call__(self, image: np.ndarray, rng: np.random.Generator, size: Size) -> np.ndarray:
        image = resize(image, size, self.box(rng, image.shape[1], image.shape[2]))
        return image[:, :, ::-1] if rng.random() < self.flip else image


class RandomCrop:
    """A crop of exactly `size` at a random place, after reflecting `pad` pixels at every border (and more where the
    image is smaller than `size`)."""

    def __init__(self, *, pad: int = 4) -> None:
        self.pad = pad

    def __call__(self, image: np.ndarray, rng: np.random.Generator, size: Size) -> np.ndarray:
        image = reflect(image, [max(self.pad, -(-(want - have) // 2)) for want, have in zip(size, image.shape[1:])])
        top, left = (int(rng.integers(have - want + 1)) for want, have in zip(size, image.shape[1:]))
        return image[:, top : top + size[0], left : left + size[1]]


class Cover:
    """Resizes, keeping the shape, so that the image just covers `size`. Deterministic."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None, size: Size) -> np.ndarray:
        h, w = image.shape[1:]
        factor = max(size[0] / h, size[1] / w)
        return resize(image, (max(size[0], round(h * factor)), max(size[1], round(w * factor))))


class FitSize:
    """Resizes the short side and crops the centre to `size`. Deterministic: for evaluation at one size."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None, size: Size) -> np.ndarray:
        image = Cover()(image, rng, size)
        top, left = ((have - want) // 2 for want, have in zip(size, image.shape[1:]))
        return image[:, top : top + size[0], left : left + size[1]]


def reflect(image: np.ndarray, pads: Sequence[int]) -> np.ndarray:
    """Reflects `pads` = (rows, columns) at each border; the edge is not repeated."""
    if not any(pads):
        return image
    rows, columns = (_mirror(n, pad) for n, pad in zip(image.shape[1:], pads))
    return image[:, rows[:, None], columns]


def _mirror(n: int, pad: int) -> np.ndarray:
    """Indices -pad..n+pad-1 folded back into 0..n-1; any pad, also for n = 1."""
    period = max(1, 2 * n - 2)
    index = np.abs(np.arange(-pad, n + pad)) % period
    return np.minimum(index, period - index) if n > 1 else index * 0


class ScaleShift:
    """A point cloud (P, C) with each axis scaled and shifted at random, further channels as they are (Point-MAE,
    arXiv:2203.06604, section 4.1; ranges as in its code). Called as the others, with the shape (P, C) for size."""

    def __init__(self, *, scale: tuple[float, float] = (2 / 3, 3 / 2), shift: float = 0.2) -> None:
        self.scale, self.shift = scale, shift

    def __call__(self, cloud: np.ndarray, rng: np.random.Generator, size: Size) -> np.ndarray:
        out = cloud.copy()
        out[:, :3] = cloud[:, :3] * rng.uniform(*self.scale, 3) + rng.uniform(-self.shift, self.shift, 3)
        return out


class MirrorScale:
    """Points of a lidar window (P, C), the sensor at the origin: mirrored along each horizontal axis half of the time,
    and scaled (as Voxel-MAE, arXiv:2207.00531, section 4.1). Called as the others, with the shape (P, C) for size."""

    def __init__(self, *, flip: float = 0.5, scale: tuple[float, float] = (0.95, 1.05)) -> None:
        self.flip, self.scale = flip, scale

    def __call__(self, sweep: np.ndarray, rng: np.random.Generator, size: Size) -> np.ndarray:
        factor = np.full(3, rng.uniform(*self.scale))
        factor[:2] *= np.where(rng.random(2) < self.flip, -1.0, 1.0)
        out = sweep.copy()
        out[:, :3] *= factor.astype(out.dtype)
        return out


class CropTurn:
    """A skeleton sequence (C, J, T) cut to a stretch of its frames, which is brought back to its length, and turned by
    the same angles about all axes of space (as MAMP's code, arXiv:2308.07092). Called as the others.

    Args:
        shortest: share of the frames that a stretch has at least.
        angle: about each axis, at most, in radians; in the plane there is one.
    """

    def __init__(self, *, shortest: float = 0.5, angle: float = 0.3) -> None:
        self.shortest, self.angle = shortest, angle

    def __call__(self, sequence: np.ndarray, rng: np.random.Generator, size: Size) -> np.ndarray:
        frames = sequence.shape[2]
        kept = max(2, round(frames * rng.uniform(self.shortest, 1.0)))
        start = int(rng.integers(frames - kept + 1))
        out = resampled(sequence[:, :, start : start + kept], frames)
        space = dimensions(len(out))
        turn = np.eye(space)
        for a, b in ((0, 1), (1, 2), (2, 0))[: 1 if space == 2 else 3]:
            angle, about = rng.uniform(-self.angle, self.angle), np.eye(space)
            about[a, a] = about[b, b] = math.cos(angle)
            about[a, b], about[b, a] = -math.sin(angle), math.sin(angle)
            turn = about @ turn
        turned = np.einsum("de,ejt->djt", turn, out[:space].astype(np.float64))
        return np.concatenate([turned.astype(out.dtype), out[space:]])
