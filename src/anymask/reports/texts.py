"""The renderer of texts: running words, hidden ones covered, predicted ones beside what stood there."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import torch
from torch import Tensor

from anymask.data.kinds import _vocabulary
from anymask.engine import Model, Step, take

from .renderer import Drawing, Panel

WIDTH, LINE, LETTER = 372, 20, 6.3  # of a drawing, of a line, of a letter of the typeface
SPACE, GAP = 4.0, 10  # between words, between texts
MOST = 48  # tokens of a text that are drawn
LIKELY = 4  # candidates for a hidden word
SMALL = 0.7  # size of small type
DEEPEST = 0.42  # opacity of the largest value
FONT = 'font-family="ui-monospace, monospace" font-size="10.5"'


class Word(NamedTuple):
    """A token as it is drawn."""

    text: str
    glued: bool  # to the one before, as the rest of a word
    style: str = "plain"  # or hidden, right, wrong
    shade: float = 0.0
    below: str = ""  # in small type

    @property
    def width(self) -> float:
        return max(len(self.text), SMALL * len(self.below)) * LETTER


class Sentences:
    """Texts as running words; see `Renderer`. Hidden words are covered; a predicted word is framed, with what stood
    there in brackets where they differ."""

    layout = "blocks"
    samples = 3
    noun, unit, pieces = "texts", "tokens", "words"
    most, line = MOST, LINE

    def __init__(self, model: Model) -> None:
        field = model.schema.fields[model.tokenizer.field]
        self.vocabulary = _vocabulary.loaded(field.more["tokenizer"])
        self.inner = any(piece.startswith("##") for piece in self.vocabulary.get_vocab())

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        return [self._drawing(panel, panels[0].content) for panel in panels]

    def piece(self, number: int) -> tuple[str, bool]:
        """A piece of the vocabulary as text, and whether it goes on with a word."""
        token = self.vocabulary.id_to_token(number) or "?"
        if token.startswith("##"):
            return token[2:], True
        marks = ("Ġ", "▁")  # of byte pairs and of SentencePiece: a space before the word
        if token.startswith(marks):
            return self.vocabulary.decode([number], skip_special_tokens=False).strip() or token, False
        return token, not self.inner and not token.startswith(("[", "<"))

    def guess(self, text: str, before: str, right: bool, glued: bool) -> Word:
        """A predicted token, and what stood there."""
        return Word(text if right else f"{text} ({before})", False, "right" if right else "wrong")

    def joined(self, n: int, glued: bool) -> bool:
        """Whether the n-th token stands close to the one before."""
        return glued

    def _drawing(self, panel: Panel, truth: Tensor) -> Drawing:
        texts = [self._words(panel, row, truth) for row in range(len(panel.content))]
        hidden = sum(word.style == "hidden" for text in texts for word in text)
        right, wrong = (sum(word.style == s for text in texts for word in text) for s in ("right", "wrong"))
        alt = f"{panel.name}: {len(texts)} {self.noun if len(texts) != 1 else self.noun.removesuffix('s')}"
        alt += f", {hidden} tokens hidden" if hidden else ""
        alt += f", {right} of {right + wrong} hidden tokens predicted right" if right + wrong else ""
        return Drawing(panel.name, alt, svg=_svg([lines_of(text) for text in texts], alt, self.line))

    def _words(self, panel: Panel, row: int, truth: Tensor) -> list[Word]:
        content = panel.content[row]
        there = torch.nonzero(~content.isnan())[:, 0].tolist()
        values = torch.zeros(len(content)) if panel.values is None else panel.values[row].float()
        shades = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-9)
        words = []
        for n in there[: self.most]:
            text, glued = self.piece(int(content[n]))
            glued = self.joined(n, glued)
            made = panel.predicted is not None and bool(panel.predicted[row, n])
            if made:
                before, _ = self.piece(int(truth[row, n]))
                right = int(content[n]) == int(truth[row, n])
                words.append(self.guess(text, before, right, glued))
            elif panel.shown is not None and not bool(panel.shown[row, n]):
                words.append(Word(" " * len(text), glued, "hidden"))
            else:
                words.append(Word(text, glued, shade=float(shades[n])))
        return [*words, Word("…", False)] if len(there) > self.most else words

    def candidates(self, model: Model, step: Step) -> Drawing:
        """What the model holds likely for each hidden word, the likeliest first, beside what stood there."""
        (head,) = step.pred
        likely = step.pred[head].float().softmax(-1).topk(LIKELY, dim=-1)
        truth = take(step.tokens.x[model.tokenizer.field], step.mask.ask)
        hidden = ~take(step.mask.visible, step.mask.ask)
        hidden = hidden if step.mask.ask_ok is None else hidden & step.mask.ask_ok
        rows: list[list[list[tuple[float, Word]]]] = []
        said = []
        for b in range(min(self.samples, len(truth))):
            lines = []
            for m in torch.nonzero(hidden[b])[:, 0].tolist()[:6]:
                word, _ = self.piece(int(truth[b, m]))
                line = [(0.0, Word(word, False, "right"))]
                guesses = []
                for k in range(LIKELY):
                    guess, _ = self.piece(int(likely.indices[b, m, k]))
                    share = float(likely.values[b, m, k])
                    line.append((WIDTH * (0.24 + 0.19 * k), Word(f"{guess[:9]} {share:.0%}", False, shade=share)))
                    guesses.append(f"{guess} {share:.0%}")
                lines.append(line)
                said.append(f"{word}: {', '.join(guesses)}")
            rows.append(lines)
        alt = f"Likeliest {self.pieces} for hidden ones. " + "; ".join(said)
        return Drawing(f"what stood there, and the likeliest {self.pieces}", alt, svg=_svg(rows, alt, LINE))


def lines_of(words: Sequence[Word]) -> list[list[tuple[float, Word]]]:
    """Words with their places along a line, as many lines as they need."""
    lines: list[list[tuple[float, Word]]] = [[]]
    x = 0.0
    for word in words:
        width = word.width
        x += SPACE if lines[-1] and not word.glued else 0.0
        if x + width > WIDTH and lines[-1]:
            lines.append([])
            x = 0.0
        lines[-1].append((x, word))
        x += width
    return lines


def _svg(texts: Sequence[Sequence[Sequence[tuple[float, Word]]]], alt: str, height: int) -> str:
    parts, y = [], 0.0
    for lines in texts:
        for line in lines:
            parts += [_word(x, y, word) for x, word in line]
            y += height
        y += GAP
    head = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {max(y - GAP, LINE):.0f}">'
    return f"{head}<g {FONT}>{''.join(parts)}</g></svg>"


def _word(x: float, y: float, word: Word) -> str:
    width = max(len(word.text) * LETTER, LETTER)
    box = f'<rect x="{x:.1f}" y="{y + 1:.1f}" width="{width:.1f}" height="{LINE - 4}" rx="2"'
    text = f'<text x="{x:.1f}" y="{y + 13:.1f}" fill="var(--ink)" textLength="{width:.1f}">{escape(word.text)}</text>'
    if word.style == "hidden":
        return f'{box} fill="var(--axis)"/>'
    if word.below:
        text += f'<text x="{x:.1f}" y="{y + 23:.1f}" fill="var(--ink)" font-size="7.5">{escape(word.below)}</text>'
    if word.style in ("right", "wrong"):
        colour = "var(--c1)" if word.style == "right" else "var(--c2)"
        return f'{box} fill="none" stroke="{colour}" stroke-width="1.4"/>{text}'
    if word.shade:
        return f'{box} fill="var(--c1)" fill-opacity="{DEEPEST * min(word.shade, 1.0):.2f}"/>{text}'
    return text
