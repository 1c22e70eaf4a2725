"""Texts: a value is UTF-8 as stored, (bytes,) uint8, or the numbers of its pieces in a vocabulary, (n,) int32."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..columns import Blobs, Column
from ..errors import DataError, Unreadable
from ..kind import Blob, Kind, Meter, Settled, Value
from ..options import Options
from ..schema import Field
from ..source import Source
from . import _texts, _vocabulary
from ._vocabulary import Pieces

ENOUGH = 20_000_000  # characters that are looked at for the vocabulary
BESIDE = ("tokenizer", "vocabulary", "cased")  # options that are kept by the columns of files and lists


class TextColumn(Column):
    """Texts in memory. `pieces` says how their vocabulary is made, where a schema is inferred from them."""

    dtype, shape, in_memory = "uint8", None, True

    def __init__(self, texts: Sequence[str], pieces: Pieces, kind: TextKind) -> None:
        self.kind, self.texts, self.pieces = kind, list(texts), pieces

    def __len__(self) -> int:
        return len(self.texts)

    def read(self, row: int) -> np.ndarray:
        return as_bytes(self.texts[row])

    def raw(self, row: int) -> bytes:
        return self.texts[row].encode("utf-8", "surrogatepass")

    def nbytes(self, row: int) -> int:
        return len(self.texts[row])


class TokenColumn(Column):
    """Texts of another column as numbers of their pieces, all in memory, those of a row (n,) int32."""

    dtype, shape, in_memory = "int32", None, True

    def __init__(self, column: Column, tokenizer: str) -> None:
        self.kind, self.column = column.kind, column
        self.bad: dict[int, Unreadable] = {}
        self.absent: set[int] = set()
        numbers = _vocabulary.encode(_vocabulary.loaded(tokenizer), [self._text(row) for row in range(len(column))])
        self.ends = np.cumsum([len(one) for one in numbers], dtype=np.int64)
        self.numbers = np.concatenate([*numbers, np.zeros(0, np.int32)])

    def _text(self, row: int) -> str:
        try:
            value = self.column.read(row)
        except Unreadable as error:
            self.bad[row] = error
            return ""
        if value is None:
            self.absent.add(row)
            return ""
        return as_text(value)

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, row: int) -> np.ndarray | None:
        if row in self.bad:
            raise self.bad[row]
        start = self.ends[row - 1] if row else 0
        return None if row in self.absent else self.numbers[start : self.ends[row]]

    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)

    def raw(self, row: int) -> bytes:
        return self.column.raw(row)

    def nbytes(self, row: int) -> int | None:
        return self.column.nbytes(row)


_CUT: weakref.WeakKeyDictionary[Column, dict[str, TokenColumn]] = weakref.WeakKeyDictionary()


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)


def as_text(value: np.ndarray) -> str:
    return value.tobytes().decode("utf-8", "replace")


class TextKind(Kind):
    name = "text"
    held_in = "a table with a column of sentences"
    endings = frozenset((".txt",))
    incidental = True
    columns: Sequence[str] = _texts.NAMES
    recipe = "bert"
    renderer = "anymask.reports.texts:Sentences"
    elastic = varies = spelled = True
    samples_seen, most_epochs = 200_000, 60
    longest = 128  # tokens of a training sample, unless asked for: BERT trains nine tenths of its steps so
    fitting = 0.99  # share of the texts that are no longer than a training sample, if that is below `longest`
    noun, unit = "texts", "word pieces"
    unknown = "tokenizer='bytepair' (--tokenizer) knows all"  # mends a vocabulary that lacks pieces

    def pieces(self, options: Options) -> Pieces:
        """How the vocabulary is made."""
        return _vocabulary.pieces(options.tokenizer, options.vocabulary, options.cased)

    def measured(self, numbers: Sequence[np.ndarray], size: int) -> dict[str, Any]:
        """What else the field keeps, of the pieces (n,) of all texts and a vocabulary of `size`."""
        return {}

    def made_up(self, count: int, seed: int) -> list[str]:
        return made_up(count, seed)

    def open(self, spec: Any, options: Options) -> Source | None:
        from . import _text_sources

        return _text_sources.open_texts(spec, options)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        bad = {row: "is empty" for row in range(len(blobs)) if blobs.nbytes(row) == 0}
        return Settled(_decode, None, "uint8", bad, [])

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if array.ndim != 1 or array.dtype.kind not in "US":
            return None
        texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in array.tolist()]
        return TextColumn(texts, self.pieces(options), self)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        if not isinstance(example, str):
            return None
        given = [name for name in BESIDE if getattr(options, name)]
        if given:
            raise DataError(f"{given[0]}= is for files, lists and tables of texts; give the texts as a list, or leave "
                            "it out")
        return _text_of

    def asked_column(self, options: Options) -> str | None:
        return options.text

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None and (not isinstance(size, int) or size < 2):
            raise DataError(f"size={size!r} (--image-size) of '{name}' is the longest training sample in tokens, such "
                            "as 128")
        return TextMeter(self, name, size, getattr(column, "pieces", None) or self.pieces(Options()))

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        return None

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        """A window at a random place of a text that is longer than the field; without `rng` its start."""
        value, most = tokens_of(value, field), field.shape[0]
        start = 0 if rng is None or len(value) <= most else int(rng.integers(len(value) - most + 1))
        return value[start : start + most]

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return self.fit(value, field, None, None)

    def absent(self, field: Field) -> np.ndarray:
        return np.zeros(0, dtype=np.int32)

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(B, n) int32 with -1 behind the end of a text; the longest text fills a row, rounded up to `multiple`."""
        longest = max(1, *(len(value) for value in values))
        step = multiple if isinstance(multiple, int) else multiple[0]
        out = np.full((len(values), -(-longest // step) * step), -1, dtype=np.int32)
        for row, value in zip(out, values):
            row[: len(value)] = value
        return torch.from_numpy(out), None

    def align(self, column: Column, field: Field) -> Column:
        """The same texts cut into the pieces of the field's vocabulary; done once for all sources that share them."""
        if isinstance(column, TokenColumn):
            return column
        file = field.more["tokenizer"]
        cut = _CUT.setdefault(column, {})
        if file not in cut:
            cut.clear()
            cut[file] = TokenColumn(column, file)
        return cut[file]

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, median, high = (size[0] for size in field.sizes)
        rows = [(field.name, f"{low:,} to {high:,} tokens, median {median:,}; {field.shape[0]} at most in training")]
        made = _vocabulary.loaded(field.more["tokenizer"])
        kind = type(made.model).__name__
        return [*rows, ("vocabulary", f"{len(field.more['counts']):,} pieces ({kind})")]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        """Bags of pieces: 1 + log of the count, times 1 + log of how rare the piece is, of length 1 (tf-idf)."""
        documents = torch.tensor(field.more["documents"])
        idf = ((1 + field.more["texts"]) / (1 + documents)).log() + 1
        kept = documents.argsort(descending=True, stable=True)[:limit].sort().values
        place = torch.full((len(idf) + 1,), len(kept))
        place[kept] = torch.arange(len(kept))
        place = place[values.long()]  # -1, padding, is the last entry
        counts = torch.zeros(len(values), len(kept) + 1).scatter_add_(1, place, torch.ones(place.shape))[:, :-1]
        bag = torch.where(counts > 0, 1 + counts.clamp(min=1).log(), 0.0) * idf[kept]
        return torch.nn.functional.normalize(bag, dim=1)

    def flattened(self, field: Field, limit: int) -> str:
        some_ = f", the {limit:,} most frequent" if len(field.more["counts"]) > limit else ""
        return f"bags of {self.unit}{some_}, weighed by tf-idf"

    def classical_search(
        self, documents: Iterable[Value | None], queries: Iterable[Value | None]
    ) -> tuple[str, np.ndarray] | None:
        """BM25 (Lucene's, with the defaults of the library bm25s) on words in lower case."""
        try:
            import bm25s
        except ImportError:
            raise DataError('BM25 needs the library bm25s: pip install "anymask[retrieval]"') from None
        text = lambda values: ["" if value is None else as_text(value) for value in values]
        cut = lambda values: bm25s.tokenize(text(values), stopwords="en", show_progress=False, return_ids=False)
        engine = bm25s.BM25()
        engine.index(cut(documents), show_progress=False)
        return "BM25", np.stack([engine.get_scores(words) for words in cut(queries)])

    def example_field(self, name: str) -> Field:
        meter = TextMeter(self, name, EXAMPLE, self.pieces(Options()))
        for text in self.made_up(64, 0):
            meter.add("", as_bytes(text))
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        texts = self.made_up(count, seed)
        return self.pad([self.fit(as_bytes(text), field, None, None) for text in texts], 8)[0]

    def model_size(self, field: Field) -> str:
        return "nano"


EXAMPLE = 24  # tokens of a made-up text, at most


class TextMeter(Meter):
    """Makes the vocabulary, and measures lengths."""

    most = 50_000

    def __init__(self, kind: TextKind, name: str, size: int | None, pieces: Pieces) -> None:
        self.kind, self.name, self.size, self.pieces = kind, name, size, pieces
        self.texts: list[str] = []
        self.letters = 0

    def add(self, name: str, value: Value | None) -> None:
        if value is not None:
            self.texts.append(as_text(value))
            self.letters += len(self.texts[-1])
            self.full = self.letters > ENOUGH

    def field(self) -> Field:
        if not any(text.strip() for text in self.texts):
            raise DataError(f"no sample that was looked at has any text in '{self.name}'; look whether the right "
                            "column was read: text= (--text)")
        file = self.pieces.make(self.texts)
        made = _vocabulary.loaded(file)
        numbers = _vocabulary.encode(made, self.texts)
        lengths = np.array([len(one) for one in numbers])
        size = made.get_vocab_size()
        tail = int(np.quantile(lengths, self.kind.fitting, method="higher"))
        longest = self.size or min(self.kind.longest, max(8, -(-tail // 8) * 8))
        sizes = tuple((int(np.quantile(lengths, q, method="nearest")),) for q in (0, 0.5, 1))
        return Field(name=self.name, kind=self.kind.name, dtype="int32", shape=(longest,), sizes=sizes, low=0.0,
                     high=float(size - 1), mean=(0.0,), std=(1.0,), notes=self._notes(lengths, longest, numbers, made),
                     more={"tokenizer": file, "mask": _vocabulary.mask_of(made), "texts": len(numbers),
                           "counts": np.bincount(np.concatenate(numbers), minlength=size).tolist(),
                           "documents": _vocabulary.frequencies(numbers, size).tolist(),
                           **self.kind.measured(numbers, size)})

    def _notes(self, lengths: np.ndarray, longest: int, numbers: list[np.ndarray], made: Any) -> tuple[str, ...]:
        notes = []
        long = float((lengths > longest).mean())
        if long:
            notes.append(f"{long:.1%} of the {self.kind.noun} are longer than {longest} tokens: training takes a "
                         "window of such ones, other uses their start; size= (--image-size) takes longer ones")
        unknown = made.token_to_id(getattr(made.model, "unk_token", None) or "")
        lost = 0 if unknown is None else sum(int((one == unknown).sum()) for one in numbers) / max(1, lengths.sum())
        if lost > 0.01:
            notes.append(f"{lost:.1%} of the pieces are unknown to the vocabulary; {self.kind.unknown}")
        return tuple(notes)


def tokens_of(value: np.ndarray, field: Field) -> np.ndarray:
    """A value as the numbers of its pieces."""
    if value.dtype != np.uint8:
        return value
    return _vocabulary.encode(_vocabulary.loaded(field.more["tokenizer"]), [as_text(value)])[0]


def made_up(count: int, seed: int) -> list[str]:
    """Sentences of three topics, of 4 to 20 words each, the first word of a pair saying the second."""
    rng = np.random.default_rng([seed, 2])
    topics = ("red apple sweet pear ripe plum green fig", "cold snow wet rain dry dust loud storm",
              "old ship blue sea far coast deep tide")
    texts = []
    for n in range(count):
        words = topics[int(rng.integers(3))].split()
        pairs = [words[2 * i : 2 * i + 2] for i in rng.integers(0, 4, 2 + int(rng.integers(0, 9)) if n else 10)]
        texts.append(" ".join(word for pair in pairs for word in pair))
    return texts


def _decode(blob: Blob) -> np.ndarray:
    try:
        return as_bytes(_texts.decoded(blob.read()))
    except (ValueError, OSError) as error:
        raise Unreadable(blob.name, str(error)) from error


def _text_of(item: Any, name: str) -> np.ndarray:
    if not isinstance(item, str):
        raise Unreadable(name, f"is {type(item).__name__}, not text")
    return as_bytes(item)


KIND = TextKind()
