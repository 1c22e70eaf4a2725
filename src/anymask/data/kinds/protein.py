"""Proteins: a value is the sequence of residues as stored, (n,) uint8, or their numbers in the alphabet, (n,) int32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import Options
from ..schema import Field
from ..source import Source
from . import _fasta
from ._cells import Raw
from ._sequence_columns import from_columns
from ._sequences import SequenceKind
from ._vocabulary import SPECIAL, Alphabet

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
OTHERS = "XBZUOJ-"  # any, D or N, E or Q, selenocysteine, pyrrolysine, I or L, a gap of an alignment
LETTERS = frozenset(RESIDUES + OTHERS)
NUCLEOTIDES = frozenset("ACGTUN")
AROUND = 7  # residues on either side that a baseline of a single residue sees: windows of 15
ALIGNED = 160  # places that differ, at most, of sequences that are compared place by place


class ProteinKind(SequenceKind):
    name = "protein"
    held_in = "a .fasta file, or a table with a column of sequences"
    columns = ("protein", "sequence", "protein_sequence", "aa_sequence", "amino_acid_sequence", "mutated_sequence",
               "primary", "seq", "sequences")  # fmt: skip
    files = _fasta.ENDINGS
    alphabet = Alphabet(letters=tuple(RESIDUES + OTHERS))
    renderer = "anymask.reports.sequences:Residues"
    labelled_tokens = True
    samples_seen, most_epochs = 20_000, 20  # of some hundred tokens each
    longest, fitting = 1024, 1.0
    noun, unit = "proteins", "residues"
    unknown = "letters are amino acids of IUPAC's code, X stands for any"

    def cleaned(self, text: str, options: Options) -> str:
        """In upper case, without white space and a stop at the end."""
        found = "".join(text.split()).upper().removesuffix("*")
        if not found:
            raise ValueError("is empty")
        if not set(found) <= LETTERS:
            wrong = next(n for n, letter in enumerate(found) if letter not in LETTERS)
            raise ValueError(f"letter {wrong + 1} is {found[wrong]!r}, which is no amino acid of IUPAC's code")
        return found

    def likely(self, cell: str) -> bool:
        letters = set(cell.strip().removesuffix("*"))
        return len(cell) > 3 and letters <= LETTERS and not letters <= NUCLEOTIDES

    def read_file(self, path: Path, options: Options) -> list[Raw]:
        return _fasta.read_fasta(path, options)

    def open_folder(self, root: Path, options: Options) -> Source | None:
        if not (root / _fasta.SEQUENCES).is_file():
            return None
        columns, notes = _fasta.read_flip(root, options)
        source = from_columns(self, columns, options, root.name, lambda asked: self.open_folder(root, asked))
        source.notes += notes
        return source

    def measured(self, numbers: Sequence[np.ndarray], size: int) -> dict[str, Any]:
        """`aligned`: the places that differ, where all sequences have one length (variants of one protein)."""
        if len({len(one) for one in numbers}) > 1:
            return {"aligned": []}
        table = np.stack(numbers)
        differ = np.flatnonzero((table != table[0]).any(0)).tolist()
        return {"aligned": differ if len(differ) <= ALIGNED else []}

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        """Variants of one protein: the residues at the places that differ, one-hot. Others: the shares of the residues
        and of pairs of neighbours."""
        places, letters = field.more["aligned"], len(RESIDUES)
        ours = torch.where((values >= len(SPECIAL)) & (values < len(SPECIAL) + letters), values - len(SPECIAL), letters)
        ours = ours.long()  # B N, `letters` for what is no residue
        if places:
            ours = F.pad(ours, (0, max(0, places[-1] + 1 - ours.shape[1])), value=letters)
            return F.one_hot(ours[:, places], letters + 1)[..., :-1].flatten(1).float()
        pairs = torch.where((ours[:, 1:] < letters) & (ours[:, :-1] < letters), ours[:, :-1] * letters + ours[:, 1:],
                            letters * letters)  # fmt: skip
        return torch.cat([_shares(ours, letters), _shares(pairs, letters * letters)], 1)

    def flattened(self, field: Field, limit: int) -> str:
        places = field.more["aligned"]
        if places:
            return f"one-hot residues at the {len(places)} places that differ"
        return "shares of residues and of pairs of neighbours"

    def flat_tokens(self, values: Tensor, field: Field) -> Tensor:
        """One-hot residues of a window of 15 around each."""
        size = len(field.more["counts"]) - len(SPECIAL)
        ours = torch.where(values >= len(SPECIAL), values - len(SPECIAL), size).long()
        hot = F.one_hot(F.pad(ours, (AROUND, AROUND), value=size), size + 1)[..., :-1].float()  # B N+14 A
        return hot.unfold(1, 2 * AROUND + 1, 1).flatten(2)

    def flattened_tokens(self, field: Field) -> str:
        return f"one-hot residues in windows of {2 * AROUND + 1}"

    def made_up(self, count: int, seed: int) -> list[str]:
        """Chains of three families, of 8 to 24 residues, the first of a pair saying the second."""
        rng = np.random.default_rng([seed, 3])
        families = ("ACDEFGHI", "KLMNPQRS", "TVWYACKL")
        chains = []
        for n in range(count):
            letters = families[int(rng.integers(3))]
            at = 2 * rng.integers(0, 4, 4 + int(rng.integers(0, 9)) if n else 12)
            chains.append("".join(letters[i : i + 2] for i in at))
        return chains


def _shares(values: Tensor, classes: int) -> Tensor:
    """(B, classes) how often each class occurs in a row (B, N), as a share; `classes` stands for none."""
    counts = torch.zeros(len(values), classes + 1).scatter_add_(1, values, torch.ones(values.shape))[:, :-1]
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


KIND = ProteinKind()
