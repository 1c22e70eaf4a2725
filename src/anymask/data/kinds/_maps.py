"""What depth maps and class maps share: one number a pixel, which is never averaged with its neighbours'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..augment import resize
from ..columns import ArrayColumn, Column
from ..errors import DataError
from ..options import Options
from ..schema import Field
from . import _pictures, image


class MapKind(image.ImageKind):
    """Maps (1, H, W) that are cropped, mirrored and scaled as the images beside them, by the nearest pixel. They are
    read only where they are asked for by name, or lie in a folder or column that is called so."""

    endings: frozenset[str] = frozenset()
    asked_endings = _pictures.ENDINGS
    on_grid = False  # of kinds that any recipe of images could take
    recipe = "multimae"
    called: str  # in words
    held: str  # dtype of values
    converted: Callable[[np.ndarray], np.ndarray]  # an array of maps as values are

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if options.kind != self.name:
            return None
        found = super().array_column(array, options, name)
        if found is None:
            return None
        assert isinstance(found, ArrayColumn) and found.shape is not None
        if found.shape[0] != 1:
            raise DataError(f"{name} has {found.shape[0]} channels, and a {self.called} has one; give an array "
                            "(N, H, W)")
        return ArrayColumn(self, found.array, dtype=self.held, convert=self.converted, mapped=found.mapped,
                           reopen=found.reopen)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        return None

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        """What happens to the map happens to the places of its pixels, whose values are then looked up."""
        place = super().fit(_places(value), field, augment, rng)
        return _looked_up(value, place)

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        longest = max(value.shape[1:])
        if longest <= limit:
            return value
        h, w = (max(1, round(n * limit / longest)) for n in value.shape[1:])
        return _looked_up(value, resize(_places(value), (h, w)))


def _places(value: np.ndarray) -> np.ndarray:
    """(2, H, W) row and column of each pixel."""
    return np.indices(value.shape[1:]).astype(np.float32)


def _looked_up(value: np.ndarray, place: np.ndarray) -> np.ndarray:
    row, column = np.rint(place).astype(np.int64)
    return np.ascontiguousarray(value[:, row, column])


def one_channel(options: Options) -> Options:
    """Options of images that a map has no use for, left out."""
    return replace(options, channels=None)
