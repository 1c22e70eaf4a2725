"""A kind of data (image, audio, table, ...): everything the generic code must ask about a part of a sample.

One file a kind, in `anymask/data/kinds/`, each with a module attribute `KIND`. The folder is scanned, so a new kind
needs no change elsewhere.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from .errors import DataError

if TYPE_CHECKING:
    from .columns import Blobs, Column
    from .options import Options
    from .schema import Field, Schema
    from .source import AnySource

Value = Any  # of one sample: an array, or what a kind has in its place, with `shape`, `dtype` and `tobytes()`


class Blob(NamedTuple):
    """One encoded sample: its name for messages, and where its bytes are."""

    name: str
    data: Path | bytes

    @property
    def ending(self) -> str:
        """In lower case, with the dot; '' where the name has none."""
        return Path(self.name).suffix.lower()

    def read(self) -> bytes:
        """Its bytes; of a folder those of its files, one after another."""
        if isinstance(self.data, Path) and self.data.is_dir():
            return b"".join(path.read_bytes() for path in sorted(self.data.iterdir()) if path.is_file())
        return self.data.read_bytes() if isinstance(self.data, Path) else self.data


class Settled(NamedTuple):
    """What a kind decided about a column of blobs after looking at headers.

    `decode` turns a blob into a value and must be picklable; `shape` and `dtype` are of every value where the headers
    agree, else None; `bad` is row -> reason; `notes` are for people; `lengths` (N,) of kinds that vary in length, where
    headers say them.
    """

    decode: Callable[[Blob], Value]
    shape: tuple[int, ...] | None
    dtype: str | None
    bad: dict[int, str]
    notes: list[str]
    lengths: np.ndarray | None = None


class Meter(ABC):
    """Accumulates what a Field holds, over a sample."""

    full: bool = False  # True: enough seen, reading more would only cost time
    most: int = 2_000  # samples it wants to see, at most

    @abstractmethod
    def add(self, name: str, value: Value | None) -> None:
        """Takes one value, or None where the part is missing. Raises DataError naming `name` for unusable values."""

    @abstractmethod
    def field(self) -> Field: ...


class Kind(ABC):
    """The questions. All methods are stateless."""

    name: str
    endings: frozenset[str]  # of files that hold one sample each
    held_in: str = ""  # what holds many samples, in words: "a table with a column of dates"
    asked_endings: frozenset[str] = frozenset()  # of such files too, where this kind is asked for by name (kind=)
    recipe: str  # slug of the recipe that is the default for such data
    samples_seen: int = 400_000  # of a run whose number of epochs is not given ...
    most_epochs: int = 120  # ... and epochs at most
    on_grid: bool = False  # values lie on a grid, (C, *space), and are cut into patches
    spelled: bool = False  # values are sequences of pieces of a vocabulary, the field's `more["tokenizer"]`
    renderer: str = ""  # "module:Class" of what draws them, see `anymask.reports.renderer`
    parts: str = ""  # "module:NAME" of its parts beside other fields, see `anymask.parts.several`; '' = its recipe's
    alone: bool = False  # True: cannot be one of several parts, as its tokens need more than a sequence (edges)
    fewest: int = 2  # samples that can be pre-trained on
    asked_last: bool = False  # True: `open` takes what no other kind has taken
    asked_first: bool = False  # True: `open` knows files by their content that others would take by their ending
    incidental: bool = False  # True: files with its endings (readme.txt) count only where no other kind has any
    columns: Sequence[str] = ()  # names of columns of a data set that hold values of this kind, beside its own name
    folders: Sequence[str] = ()  # names of folders that hold values of this kind, beside folders of other parts
    elastic: bool = False  # True: a batch may hold values of another size than the field's, along the last axis
    gaps: bool = False  # True: NaN is a value that is missing; else it is refused
    classics: Sequence[str] = ()  # names of classical features that baselines are measured on, see `classical`
    varies: bool = False  # True: a training batch holds values of several lengths, `field.shape[0]` at most, see `pad`

    def open(self, spec: Any, options: Options) -> AnySource | None:
        """A source from an object or path only this kind knows; None leaves it to the generic openers."""
        return None

    @abstractmethod
    def settle(self, blobs: Blobs, options: Options) -> Settled:
        """Looks at headers, not at all content, and decides how the blobs are decoded."""

    @abstractmethod
    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        """A column from one array that holds all samples; None where the array cannot be of this kind."""

    @abstractmethod
    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Value] | None:
        """How to read one object of a torch Dataset, judged from an example: (object, name) -> value; None: unknown."""

    @abstractmethod
    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        """`size` is what was asked for in training; `column` is None for streams."""

    @abstractmethod
    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        """Raises DataError naming the sample, names(row), if a batch (B, ...) holds what no model can be trained on."""

    @abstractmethod
    def extent(self, value: Value) -> tuple[int, ...]:
        """The sides of a value that vary from sample to sample and are padded, as (H, W)."""

    @abstractmethod
    def fit(self, value: Value, field: Field, augment: Any, rng: np.random.Generator | None) -> Value:
        """A value as training wants it: augmented, then exactly `field.shape`. Without `rng` nothing is random."""

    @abstractmethod
    def natural(self, value: Value, field: Field, limit: int) -> Value:
        """A value as evaluation wants it: its own size, at most `limit` a side."""

    @abstractmethod
    def pad(self, values: Sequence[Value], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """A batch of values of several sizes, padded to a multiple along all axes or along each, and their (B, ...)
        true extents where padding was needed."""

    @abstractmethod
    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        """Notes on harmless differences; SchemaError naming the mend for others."""

    @abstractmethod
    def describe(self, field: Field) -> list[tuple[str, str]]: ...

    @abstractmethod
    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        """(B, D) float32, the plain input of baselines, of a batch fitted to `field`; about `limit` values at most."""

    def flat_tokens(self, values: Tensor, field: Field) -> Tensor | None:
        """(B, N, D) float32, the plain input of baselines on single tokens; None: what the tokenizer gives."""
        return None

    def flattened_tokens(self, field: Field) -> str:
        """What `flat_tokens` gives, in words; '' where it gives None."""
        return ""

    @abstractmethod
    def example_field(self, name: str) -> Field:
        """The field of made-up data, with what is hard about this kind: for the contract."""

    @abstractmethod
    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        """(count, *shape) made-up values of a field, with something to learn."""

    def patch(self, field: Field) -> tuple[int, ...]:
        """Values along each axis of space that a patch takes by default; of kinds on a grid."""
        raise NotImplementedError(f"a {self.name} is not cut into patches")

    # What most kinds have no answer to.

    def groups(self, field: Field) -> list[list[int]]:
        """Channels that belong together, by number; of kinds on a grid."""
        return [[n] for n in range(field.shape[0])]

    def blank(self, field: Field) -> tuple[float, ...]:
        """What stands in patches for missing values beside others, of each channel; of kinds on a grid with gaps."""
        return field.mean

    def samples(self, names: Sequence[str]) -> list[str]:
        """The samples that files make up, by the names of files or folders; by default each file is one."""
        return list(names)

    def recipe_for(self, schema: Schema) -> str:
        """Slug of the recipe that is the default for such data."""
        return self.recipe

    def beside(self, values: Sequence[Value]) -> dict[str, Tensor]:
        """What a batch has beside the values (edges of graphs): suffix -> (B, ...), in a batch `<part>.<suffix>`."""
        return {}

    def example_batch(self, field: Field, count: int, seed: int) -> dict[str, Tensor]:
        """A made-up batch, with what is beside the values."""
        return {field.name: self.examples(field, count, seed)}

    def asked_column(self, options: Options) -> str | None:
        """The column of a data set that the options name for values of this kind."""
        return None

    def absent(self, field: Field) -> Value:
        """What stands in a batch for a value that is missing."""
        return np.zeros(field.shape, field.dtype)

    def classical_search(
        self, documents: Iterable[Value | None], queries: Iterable[Value | None]
    ) -> tuple[str, np.ndarray] | None:
        """The classical search engine of this kind: its name, and (queries, documents) scores of values as stored."""
        return None

    def classical(self, values: Tensor, field: Field) -> dict[str, Tensor]:
        """Features that have long been used for such data, one for each name in `classics`: (B, D) each, of a batch
        fitted to `field`."""
        return {}

    def flattened(self, field: Field, limit: int) -> str:
        """What `flat` does beside flattening, in words; '' where nothing."""
        return ""

    def uncut(self, field: Field) -> Field:
        """The field with values as long as they come, for baselines, where training takes a part of long ones."""
        return field

    def align(self, column: Column, field: Field) -> Column:
        """The column with its values laid out as in the field: a table's cells in the order of its columns' names."""
        return column

    def resized(self, field: Field, size: tuple[int, int]) -> Field:
        """The field with values of another size."""
        return field

    def shrinks(self, field: Field, limit: int) -> bool:
        """Whether `natural` changes the largest value seen."""
        return False

    def augmentable(self, field: Field) -> str:
        """Why values of this field are not augmented in pre-training, in words; '' where they may be."""
        return f"a {self.name} is used as it is: not augmented"

    def light(self, field: Field) -> Any:
        """The light augmentation of fine-tuning; None = none."""
        return None

    def model_size(self, field: Field) -> str:
        """The default size of a model."""
        return "tiny"


@functools.cache
def all_kinds() -> dict[str, Kind]:
    """Every kind by name, found by scanning `anymask/data/kinds/`."""
    from . import kinds

    modules = (importlib.import_module(f"{kinds.__name__}.{m.name}") for m in pkgutil.iter_modules(kinds.__path__))
    found = [m.KIND for m in modules if hasattr(m, "KIND")]
    return {kind.name: kind for kind in found}


def asked_kinds(name: str | None) -> list[Kind]:
    """The kind that is asked for by name, or every kind. Raises DataError for a name that is none."""
    kinds = all_kinds()
    if name is not None and name not in kinds:
        raise DataError(f"kind={name!r} (--kind) is no kind of data; there is: {', '.join(kinds)}")
    return list(kinds.values()) if name is None else [kinds[name]]


def kind_of(name: str) -> Kind:
    """The kind with this name. Raises DataError for an unknown one (a schema from a newer version)."""
    try:
        return all_kinds()[name]
    except KeyError:
        raise DataError(f"unknown kind of data '{name}'; known: {', '.join(all_kinds())}. Was this schema written by a "
                        "newer anymask? pip install -U anymask") from None
