"""FASTA files, and the folders of the benchmark FLIP (Dallago et al. 2021) as columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, some
from ..options import Options
from . import _texts
from ._cells import Raw, from_text

ENDINGS = (".fasta", ".fa", ".faa", ".fas")
SEQUENCES, MASK = "sequences.fasta", "mask.fasta"  # of FLIP's folders
SAYS = ("SET", "VALIDATION", "TARGET")  # in the headers of FLIP
PAIR = re.compile(r"(\w+)=(\S+)")


def records(path: Path) -> Iterator[tuple[str, dict[str, str], str]]:
    """(id, what the header says as KEY=VALUE, sequence) of each record.

    Raises:
        DataError: no text, empty, or lines before the first header.
    """
    text = _texts.read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty; give data that hold something")
    head, parts = "", list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith(">"):
            if head:
                yield (*_header(head), "".join(parts))
            head, parts = line, []
        elif line and not line.startswith(";"):
            if not head:
                raise DataError(f"line {number} of {path} stands before the first header; a record of a FASTA file "
                                "begins with a line '>name', and its sequence is on the lines below")
            parts.append(line)
    yield (*_header(head), "".join(parts))


def _header(line: str) -> tuple[str, dict[str, str]]:
    name, _, rest = line[1:].strip().partition(" ")
    return name, dict(PAIR.findall(rest))


def read_fasta(path: Path, options: Options) -> list[Raw]:
    """Columns id, sequence, and what headers say: set, validation and target, as FLIP has them, and what label= and
    group= name."""
    return _columns(list(records(path)), options, [])


def _columns(found: Sequence[tuple[str, dict[str, str], str]], options: Options, more: list[Raw]) -> list[Raw]:
    columns = [Raw(name="id", text=[name for name, _, _ in found]),
               Raw(name="sequence", text=[sequence or None for *_, sequence in found]), *more]
    wanted: dict[str, Any] = {word.lower(): word for word in SAYS}
    wanted |= {str(name): str(name) for name in (options.label, options.group) if isinstance(name, str)}
    for name, key in wanted.items():
        cells = [said.get(key) for _, said, _ in found]
        if any(cell is not None for cell in cells) and name not in {column.name for column in columns}:
            columns.append(from_text(name, cells))
    return columns


def read_flip(root: Path, options: Options) -> tuple[list[Raw], list[str]]:
    """sequences.fasta with the labels of residues in another file, whose headers say the part of each sequence, and
    mask.fasta, whose 0 are residues without a label; and notes. Label files hold all or some of the sequences.

    Raises:
        DataError: names or numbers of labels that do not fit the sequences.
    """
    sequences = {name: sequence for name, _, sequence in records(root / SEQUENCES)}
    ways = [path for path in sorted(root.glob("*.fasta")) if path.name not in (SEQUENCES, MASK)]
    if not ways:
        return _columns([(name, {}, sequence) for name, sequence in sequences.items()], options, []), []
    labels = list(records(ways[0]))
    lost = [name for name, _, _ in labels if name not in sequences]
    if lost:
        raise DataError(f"{ways[0]} has labels for {some(lost)}, which {SEQUENCES} does not hold; give both "
                        "the same names")
    found = [(name, said, sequences[name]) for name, said, _ in labels]
    for (name, _, cells), (_, _, sequence) in zip(labels, found):
        if len(cells) != len(sequence):
            raise DataError(f"{name} has {len(sequence):,} residues in {SEQUENCES} and {len(cells):,} labels in "
                            f"{ways[0].name}; give one a residue")
    more = [Raw(name="label", text=[cells for *_, cells in labels])]
    if (root / MASK).is_file():
        marks = {name: marks for name, _, marks in records(root / MASK)}
        more.append(Raw(name="mask", text=[marks.get(name) for name, _, _ in found]))
    notes = [f"labels of residues are those of {ways[0].name}"] if len(ways) > 1 else []
    return _columns(found, options, more), notes
