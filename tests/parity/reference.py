"""Literal references, written from the papers' and their authors' descriptions, slow and plain."""

import math

import numpy as np


def mae_positions(width: int, height: int, columns: int) -> np.ndarray:
    """(height * columns, width): as in MAE's own code, whose meshgrid has columns first."""

    def one_axis(share: int, places: np.ndarray) -> np.ndarray:
        omega = 1.0 / 10000 ** (np.arange(share // 2, dtype=np.float64) / (share / 2.0))
        angle = np.einsum("m,d->md", places.reshape(-1), omega)
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    across, down = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.concatenate([one_axis(width // 2, across), one_axis(width // 2, down)], axis=1)


def hog(image: np.ndarray, cell: int, bins: int) -> np.ndarray:
    """(C, H, W) -> (C, H / cell, W / cell, bins): gradients by central differences with repeated edges, orientations
    without sign, votes by magnitude averaged over the cell, each histogram to length 1."""
    channels, height, width = image.shape
    out = np.zeros((channels, height // cell, width // cell, bins))
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                dx = image[c, y, min(x + 1, width - 1)] - image[c, y, max(x - 1, 0)]
                dy = image[c, min(y + 1, height - 1), x] - image[c, max(y - 1, 0), x]
                angle = math.atan2(dy, dx) % math.pi
                out[c, y // cell, x // cell, int(angle / math.pi * bins) % bins] += math.hypot(dx, dy) / cell**2
    length = np.sqrt((out**2).sum(-1, keepdims=True))
    return out / np.maximum(length, 1e-12)
