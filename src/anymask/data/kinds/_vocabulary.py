"""Vocabularies of texts: trained on the data with the library `tokenizers`, or given as its tokenizer.json."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # BERT's, in this order at the start of a trained vocabulary
FEWEST, MOST = 512, 30_000  # pieces
LETTERS = 1_000  # characters of a trained vocabulary of word pieces; rarer ones are unknown
CHUNK = 4_096  # texts that are cut into pieces at once
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Pieces(ABC):
    """How the vocabulary of a data set is made.

    Args:
        size: of the vocabulary; None = 8 times the square root of the number of words, 512 to 30,000.
        lower: lower case.
    """

    size: int | None = None
    lower: bool = True

    @abstractmethod
    def trained(self, texts: Sequence[str], size: int) -> str: ...

    def make(self, texts: Sequence[str]) -> str:
        """tokenizer.json for the texts, the same for the same texts."""
        digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
        if (self, digest) not in _MADE:
            while len(_MADE) >= 8:
                _MADE.pop(next(iter(_MADE)))
            _MADE[self, digest] = self.trained(texts, self.size or default_size(texts))
        return _MADE[self, digest]


_MADE: dict[tuple[Pieces, str], str] = {}  # the schema of the same data is inferred several times in one evaluation


def default_size(texts: Sequence[str]) -> int:
    words = sum(len(text.split()) for text in texts)
    return min(MOST, max(FEWEST, 256 * math.ceil(8 * math.sqrt(words) / 256)))


class WordPieces(Pieces):
    """Word pieces (Schuster and Nakajima 2012; BERT, arXiv:1810.04805, section 3), `##` within a word."""

    def trained(self, texts: Sequence[str], size: int) -> str:
        library = tokenizers()
        made = library.Tokenizer(library.models.WordPiece(unk_token=SPECIAL[1]))
        made.normalizer = library.normalizers.BertNormalizer(lowercase=self.lower)
        made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        made.decoder = library.decoders.WordPiece(prefix="##")
        counts = Counter[str]()
        for text in texts:
            counts.update(made.normalizer.normalize_str(text))
        letters = sorted(c for c in counts if not c.isspace())
        letters = sorted(sorted(letters, key=lambda c: -counts[c])[:LETTERS])
        # The trainer numbers letters within words in the order of a hash table, and breaks ties by these numbers:
        # given as special tokens, they keep one order.
        inner = [f"##{c}" for c in letters]
        trainer = library.trainers.WordPieceTrainer(
            vocab_size=max(size, len(SPECIAL) + 2 * len(letters)), special_tokens=[*SPECIAL, *inner],
            initial_alphabet=letters, limit_alphabet=len(letters), show_progress=False)
        made.train_from_iterator(texts, trainer)
        file = json.loads(made.to_str())
        file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in SPECIAL]
        return json.dumps(file, ensure_ascii=False)


class BytePairs(Pieces):
    """Pairs of bytes (Sennrich et al., arXiv:1508.07909; on bytes as GPT-2): no text has an unknown piece."""

    def trained(self, texts: Sequence[str], size: int) -> str:
        library = tokenizers()
        made = library.Tokenizer(library.models.BPE())
        if self.lower:
            made.normalizer = library.normalizers.Sequence([library.normalizers.NFC(), library.normalizers.Lowercase()])
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        trainer = library.trainers.BpeTrainer(
            vocab_size=max(size, len(SPECIAL) + len(alphabet)), special_tokens=list(SPECIAL),
            initial_alphabet=sorted(alphabet), show_progress=False)
        made.train_from_iterator(texts, trainer)
        return made.to_str()


class Characters(Pieces):
    """One piece for each character, space and line ends too; the rarest of more than `LETTERS` are unknown."""

    def trained(self, texts: Sequence[str], size: int) -> str:
        library = tokenizers()
        counts = Counter(c for text in texts for c in (text.lower() if self.lower else text))
        letters = sorted(sorted(counts, key=lambda c: (-counts[c], c))[:LETTERS])
        numbers = {piece: n for n, piece in enumerate((*SPECIAL, *letters))}
        made = library.Tokenizer(library.models.WordLevel(numbers, unk_token=SPECIAL[1]))
        if self.lower:
            made.normalizer = library.normalizers.Lowercase()
        made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r"[\s\S]"), behavior="isolated")
        made.decoder = library.decoders.Fuse()
        made.add_special_tokens(list(SPECIAL))
        return made.to_str()


@dataclass(frozen=True)
class Alphabet(Pieces):
    """Letters that a science has fixed, one token each; no text is lower-cased.

    Args:
        letters: of every vocabulary, in this order.
        pattern: matches one letter, wherever it stands.
        grows: further letters that match occur, and are in the vocabulary where the data hold them.
    """

    letters: tuple[str, ...] = ()
    pattern: str = "."
    grows: bool = False

    def trained(self, texts: Sequence[str], size: int) -> str:
        library = tokenizers()
        letters = list(self.letters)
        if self.grows:
            counts = Counter(letter for text in texts for letter in re.findall(self.pattern, text))
            more = sorted(set(counts) - set(letters), key=lambda letter: (-counts[letter], letter))
            letters += sorted(more[: max(0, MOST - len(letters))])
        numbers = {letter: n for n, letter in enumerate((*SPECIAL, *letters))}
        made = library.Tokenizer(library.models.WordLevel(numbers, unk_token=SPECIAL[1]))
        made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(self.pattern), behavior="isolated")
        made.decoder = library.decoders.Fuse()
        made.add_special_tokens(list(SPECIAL))
        return made.to_str()


@dataclass(frozen=True)
class Given(Pieces):
    """A vocabulary that is there already.

    Args:
        file: tokenizer.json as text. One without a mask token gets [MASK].
    """

    file: str = ""

    def trained(self, texts: Sequence[str], size: int) -> str:
        made = loaded(self.file)
        if mask_of(made) is None:
            made.add_special_tokens([SPECIAL[4]])
            return made.to_str()
        return self.file


def pieces(asked: Any, size: int | None, cased: bool) -> Pieces:
    """What `tokenizer=`, `vocabulary=` and `cased=` ask for.

    Raises:
        DataError: no such tokenizer, or one that these do not go with.
    """
    if size is not None and asked == "characters":
        raise DataError("tokenizer='characters' has a piece for each character: leave vocabulary= (--vocabulary) out")
    if size is not None and (not isinstance(size, int) or size < len(SPECIAL) + 1):
        raise DataError(f"vocabulary={size!r} is the number of pieces, such as 4000")
    if asked is None or asked in TRAINED:
        return TRAINED[asked or "wordpiece"](size=size, lower=not cased)
    if size is not None or cased:
        raise DataError("vocabulary= and cased= are for a tokenizer that is trained on the data; the one given has its "
                        "own: leave them out")
    if hasattr(asked, "to_str"):
        return Given(file=asked.to_str())
    return Given(file=_read(Path(asked).expanduser()))


TRAINED: dict[str, type[Pieces]] = {"wordpiece": WordPieces, "bytepair": BytePairs, "characters": Characters}


def _read(path: Path) -> str:
    """tokenizer.json as text, from such a file, a folder with one, or the folder of a run on texts."""
    known = " or ".join(TRAINED)
    if path.is_dir():
        path = path / (RUN_FILE if (path / RUN_FILE).is_file() else "tokenizer.json")
    if not os.path.isfile(path):
        raise DataError(f"tokenizer={str(path)!r} is neither {known} nor a file; give a tokenizer.json, or the folder "
                        "of a run")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if path.name == RUN_FILE:
            fields = content["schema"]["fields"].values()
            text = next(field["more"]["tokenizer"] for field in fields if "tokenizer" in field.get("more", {}))
        loaded(text)
    except (ValueError, KeyError, StopIteration, OSError) as error:
        raise DataError(f"{path} holds no tokenizer that can be read ({error or 'none there'}); give a tokenizer.json "
                        "as the library tokenizers writes it, or the folder of a run on texts") from error
    return text


def tokenizers() -> Any:
    """The library, with all its modules.

    Raises:
        DataError: it is not there.
    """
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except (ImportError, OSError, RuntimeError) as error:
        raise DataError(f'texts and sequences need the library tokenizers ({error}): pip install "anymask[text]"') \
            from error
    return tokenizers


@functools.lru_cache(maxsize=4)
def loaded(file: str) -> Any:
    """The tokenizer of a tokenizer.json.

    Raises:
        DataError: it is none.
    """
    library = tokenizers()
    try:
        made = library.Tokenizer.from_str(file)
    except Exception as error:  # the library raises no other class
        raise DataError(f"this is no tokenizer.json ({error}); give one that Tokenizer.save of the library tokenizers "
                        "wrote (--tokenizer)") from error
    made.no_truncation()
    made.no_padding()
    return made


def mask_of(made: Any) -> int | None:
    """The number of the mask token."""
    tokens = [(number, token.content) for number, token in made.get_added_tokens_decoder().items()]
    return next((number for number, content in tokens if "mask" in content.lower()), None)


def encode(made: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """The pieces of each text, (n,) int32, without what stands for the start and the end of a text."""
    found: list[np.ndarray] = []
    for start in range(0, len(texts), CHUNK):
        cut = made.encode_batch(list(texts[start : start + CHUNK]), add_special_tokens=False)
        found += [np.array(one.ids, dtype=np.int32) for one in cut]
    return found


def frequencies(numbers: Sequence[np.ndarray], size: int) -> np.ndarray:
    """(size,) in how many texts each piece occurs."""
    found = np.zeros(size, dtype=np.int64)
    for one in numbers:
        found[np.unique(one)] += 1
    return found
