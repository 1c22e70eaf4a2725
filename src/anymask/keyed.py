"""Randomness as a function of (seed, step, sample index), the same in workers, masks, probes and after resuming.

A *key* is one int64 for each sample. Nothing here has state: equal keys give equal numbers on every device, however a
batch is put together. Integer mixing is SplitMix64 (Steele, Lea & Flood 2014, OOPSLA, "Fast Splittable Pseudorandom
Number Generators").
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer; torch has no uint64 arithmetic
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser: int64 to well mixed int64, any shape. Overflow wraps, as intended."""
    x = x * 1 + _GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX1  # the masks make the arithmetic shift a logical one
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def fold(key: Tensor, salt: Tensor | int) -> Tensor:
    """A new key from a key and a number (an int, or an int64 tensor that broadcasts with the key)."""
    return mix(mix(key) ^ torch.as_tensor(salt, dtype=torch.int64, device=key.device))


def keys(seed: int, step: int, index: Tensor) -> Tensor:
    """(B,) int64 keys of the samples `index` (B,) at `step` of a run with `seed`."""
    index = index.to(torch.int64)
    return fold(fold(torch.full_like(index, seed), step), index)


def uniform(key: Tensor, n: int | Tensor, salt: int = 0) -> Tensor:
    """(B, N) float32 in [0, 1), one row a key. `n` is N, or (N,) or (B, N) int64 names of the cells: equal names in a
    row get equal numbers. `salt` separates several uses of one key."""
    cells = torch.arange(n, device=key.device) if isinstance(n, int) else n
    bits = fold(fold(key, salt)[:, None], cells)
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) / (1 << 24)


def normal(key: Tensor, n: int, salt: int = 0) -> Tensor:
    """(B, n) standard normal float32, one row a key (Box-Muller)."""
    u, v = uniform(key, n, 2 * salt + 1_000_003), uniform(key, n, 2 * salt + 1_000_004)
    return torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * torch.pi * v)


def generator(seed: int, step: int, index: int) -> np.random.Generator:
    """A NumPy generator for one sample at one step: for augmentation in workers."""
    key = np.array([np.uint64(seed % 2**64), np.uint64(step % 2**64)])
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
