"""The renderers of sequences over an alphabet: letters side by side, hidden ones covered, predicted ones framed with
what stood there below."""

from __future__ import annotations

from .texts import Sentences, Word

LETTERS, HEIGHT = 180, 28  # of a drawn sequence, at most; of a line, small type counted
BLOCK = 10  # residues


class Letters(Sentences):
    """SMILES and other sequences, without spaces; see `Renderer`."""

    noun, unit, pieces = "sequences", "tokens", "tokens"
    most, line = LETTERS, HEIGHT

    def piece(self, number: int) -> tuple[str, bool]:
        return self.vocabulary.id_to_token(number) or "?", True

    def guess(self, text: str, before: str, right: bool, glued: bool) -> Word:
        """In brackets, what stood there could be read as a branch."""
        return Word(text, glued, "right" if right else "wrong", below="" if right else before)


class Residues(Letters):
    """Proteins in blocks of ten residues."""

    unit, pieces = "residues", "residues"

    def joined(self, n: int, glued: bool) -> bool:
        return n % BLOCK > 0
