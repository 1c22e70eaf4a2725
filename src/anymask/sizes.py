"""The sizes that models come in."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Widths and depths of encoder and decoder."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int


SIZES = {
    "pico": Size(64, 2, 2, 64, 1, 2),  # claims on texts, in minutes of one core
    "micro": Size(64, 6, 4, 64, 4, 4),  # tables, as ReMasker (arXiv:2309.13793)
    "nano": Size(96, 4, 4, 64, 1, 4),  # toy-sized data: digits
    "graph": Size(512, 2, 4, 512, 1, 1),  # nodes of graphs, as GraphMAE (arXiv:2205.10803)
    "tiny": Size(192, 12, 3, 192, 4, 3),
    "small": Size(384, 12, 6, 512, 8, 16),
    "base": Size(768, 12, 12, 512, 8, 16),
    "large": Size(1024, 24, 16, 512, 8, 16),
    "huge": Size(1280, 32, 16, 512, 8, 16),
}
