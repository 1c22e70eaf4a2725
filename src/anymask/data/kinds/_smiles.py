"""SMILES: their tokens, what is wrong with one as far as its own text says, and what RDKit knows of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..options import Options
from . import _texts
from ._cells import Raw, from_text

KEPT = 200_000  # molecules whose scaffold is known from before: every split of a set is opened by itself
ENDINGS = (".smi", ".smiles")
# One token an atom, bond, branch or ring number (Schwaller et al. 2017, arXiv:1711.04810, section 2.3): an atom in
# brackets with its isotope, chirality, hydrogens and charge is one token, and so is a ring number of two digits.
PATTERN = (r"\[[^\[\]]+\]|Br|Cl|B|C|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>|\*|\$|%[0-9]{2}|[0-9]")
TOKEN = re.compile(PATTERN)
LETTERS = ("B", "C", "N", "O", "P", "S", "F", "Cl", "Br", "I", "b", "c", "n", "o", "p", "s", "*", "(", ")", ".", "-",
           "=", "#", "$", ":", "~", "/", "\\", "@", "+", "?", ">", *"0123456789")  # fmt: skip


def tokens(smiles: str) -> list[str]:
    """
    Raises:
        ValueError: a character belongs to no token.
    """
    found = TOKEN.findall(smiles)
    if sum(map(len, found)) < len(smiles):
        place = 0
        for token in found:
            if not smiles.startswith(token, place):
                break
            place += len(token)
        raise ValueError(f"character {place + 1} ({smiles[place]!r}) belongs to no SMILES")
    return found


def checked(smiles: str) -> str:
    """The SMILES, whose branches and rings are closed.

    Raises:
        ValueError: what is wrong.
    """
    if not smiles:
        raise ValueError("is empty")
    depth, rings = 0, set[str]()
    for token in tokens(smiles):
        depth += (token == "(") - (token == ")")
        if depth < 0:
            raise ValueError("closes a branch that it did not open")
        if token[0].isdigit() or token[0] == "%":
            rings ^= {token.removeprefix("%").lstrip("0") or "0"}
    if depth:
        raise ValueError("does not close a branch")
    if rings:
        raise ValueError(f"does not close ring {min(rings)}")
    return smiles


def read_smi(path: Path, options: Options) -> list[Raw]:
    """Lines of a SMILES, white space, and a name, with or without a header.

    Raises:
        DataError: no text, or empty.
    """
    rows = [line.split() for line in _texts.read_text(path).splitlines() if line.strip()]
    if not rows:
        raise DataError(f"{path} is empty; give data that hold something")
    head = rows[0] if rows[0][0].lower() in ("smiles", "canonical_smiles") else None
    rows = rows[1:] if head else rows
    width = max((len(row) for row in rows), default=1)
    names = ["smiles", *(head[1:] if head else ["id"])]
    names += [f"column {n}" for n in range(len(names), width)]
    cells = [[row[n] if n < len(row) else None for row in rows] for n in range(width)]
    return [Raw(name="smiles", text=cells[0]), *(from_text(name, column) for name, column in zip(names[1:], cells[1:]))]


# What RDKit knows.


def rdkit() -> Any:
    """The library, silent.

    Raises:
        DataError: it is not there.
    """
    try:
        from rdkit import Chem, RDLogger
    except (ImportError, OSError, RuntimeError) as error:
        raise DataError(f"scaffolds and canonical SMILES need the library rdkit ({error}): pip install "
                        '"anymask[molecules]"') from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem


@functools.lru_cache(maxsize=KEPT)
def canonical(smiles: str) -> str:
    """
    Raises:
        ValueError: RDKit finds no molecule in it.
    """
    chem = rdkit()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError("is no molecule that RDKit reads")
    return chem.MolToSmiles(molecule)


def scaffolds(texts: Sequence[str]) -> np.ndarray:
    """(N,) the Bemis-Murcko scaffold of each molecule as SMILES without chirality (Bemis & Murcko 1996); '' for one
    without a ring, and what RDKit cannot read is a scaffold of its own."""
    rdkit()
    return np.array([_scaffold(text) for text in texts])


@functools.lru_cache(maxsize=KEPT)
def _scaffold(smiles: str) -> str:
    chem = rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        return f"unread {smiles}"
    return MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=False)


def by_size(groups: np.ndarray, shares: Sequence[float]) -> list[str]:
    """The split of each sample so that no group is in two: the largest groups fill the training part, then the
    validation part, the rest is for testing (MoleculeNet, arXiv:1703.00564, section 3.2, as DeepChem does it). Groups
    of one size are in the order of their first sample, the latest first."""
    _, first, number, count = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    where, held = np.full(len(groups), "test", dtype=object), [0, 0]
    limits = [shares[0] * len(groups), sum(shares[:2]) * len(groups)]
    for group in sorted(range(len(count)), key=lambda g: (-count[g], -first[g])):
        size = count[group]
        if held[0] + size <= limits[0]:
            where[number == group] = "train"
            held[0] += size
        elif held[0] + held[1] + size <= limits[1]:
            where[number == group] = "validation"
            held[1] += size
    return where.tolist()
