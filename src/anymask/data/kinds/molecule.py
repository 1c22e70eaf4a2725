"""Molecules: a value is a SMILES as stored, (bytes,) uint8, or the numbers of its tokens, (n,) int32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..options import Options
from . import _smiles, _vocabulary
from ._cells import Raw
from ._sequences import SequenceKind
from ._vocabulary import Alphabet, Pieces

SCAFFOLD = "scaffold"  # what group= asks for


class MoleculeKind(SequenceKind):
    name = "molecule"
    held_in = "a .smi file, or a table with a column of SMILES"
    columns = ("smiles", "canonical_smiles", "isomeric_smiles", "molecule", "smile", "mol")
    files = _smiles.ENDINGS
    alphabet = Alphabet(letters=_smiles.LETTERS, pattern=_smiles.PATTERN, grows=True)
    renderer = "anymask.reports.sequences:Letters"
    samples_seen, most_epochs = 100_000, 40
    longest, fitting = 256, 1.0
    noun, unit = "molecules", "SMILES tokens"
    unknown = "train on data that hold these atoms"

    def cleaned(self, text: str, options: Options) -> str:
        """Without what follows a space (names, CXSMILES); with canonical= as RDKit writes it."""
        smiles = _smiles.checked(next(iter(text.split()), ""))
        return _smiles.canonical(smiles) if options.canonical else smiles

    def likely(self, cell: str) -> bool:
        try:
            _smiles.checked(cell.strip())
        except ValueError:
            return False
        return True

    def read_file(self, path: Path, options: Options) -> list[Raw]:
        return _smiles.read_smi(path, options)

    def pieces(self, options: Options) -> Pieces:
        """The vocabulary of another run may be given, so that its weights fit."""
        if options.tokenizer is not None and options.tokenizer not in _vocabulary.TRAINED:
            return _vocabulary.pieces(options.tokenizer, options.vocabulary, options.cased)
        return super().pieces(options)

    def grouped(self, options: Options, columns: Sequence[Raw], texts: Sequence[str]) -> np.ndarray | None:
        """group="scaffold", where there is no such column: the scaffolds, by RDKit."""
        asked = isinstance(options.group, str) and options.group == SCAFFOLD
        return _smiles.scaffolds(texts) if asked and SCAFFOLD not in {column.name for column in columns} else None

    def split_by(self, options: Options, groups: np.ndarray | None, where: str) -> Raw | None:
        """parts= divides by group, the largest groups to training."""
        if options.parts is None:
            return None
        if groups is None or max(options.parts) >= 1:
            raise DataError(f"parts= (--parts) divides the molecules of {where} by group: give shares, as 0.8,0.1,0.1, "
                            "and group='scaffold' (--group scaffold) or a column")
        return Raw(name="split", text=list(_smiles.by_size(groups, options.parts)))

    def made_up(self, count: int, seed: int) -> list[str]:
        """Chains of 2 to 8 parts, each an atom with what hangs on it, or a ring."""
        rng = np.random.default_rng([seed, 4])
        families = (("C", "CC", "C(=O)O", "C(N)"), ("c1ccccc1", "N", "c1ccncc1", "O"), ("S(=O)(=O)", "Cl", "F", "[nH]"))
        made = []
        for n in range(count):
            parts = families[int(rng.integers(3))]
            made.append("".join(parts[i] for i in rng.integers(0, 4, 2 + int(rng.integers(0, 5)) if n else 8)))
        return made


KIND = MoleculeKind()
