"""What is checked: a recipe with the data and the size it is checked on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anymask import keyed
from anymask.data import Schema
from anymask.engine import Model, Sample, Step, Tokens
from anymask.errors import AnymaskError
from anymask.recipe import Recipe, Size


class ContractError(AnymaskError):
    """A recipe breaks the contract: which `item`, `what` was seen, and how to `mend` it."""

    def __init__(self, item: str, what: str, mend: str):
        super().__init__(f"{item}: {what}; {mend}")
        self.item, self.what, self.mend = item, what, mend


@dataclass(frozen=True)
class Subject:
    """A recipe and what it is checked on."""

    recipe: Recipe
    schema: Schema
    size: Size
    batch: Sample

    def build(self, seed: int = 0) -> Model:
        """A fresh model in training mode; equal seeds give equal weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(self.recipe, self.schema, self.size).train()

    def redrawn(self, step: int) -> Sample:
        """The same samples with other keys, so with other masks."""
        return {**self.batch, "key": keyed.keys(0, step, self.batch["index"])}

    def declared(self, model: Model, attribute: str) -> list[str]:
        """Reasons that parts (or modules in them) declare: 'encoder: overlapping windows'."""
        return [
            f"{name}: {reason}"
            for name, module in model.named_modules()
            if isinstance(reason := getattr(module, attribute, None), str)
        ]


def build(recipe: Recipe, schema: Schema, size: Size) -> Model:
    """The model of a recipe, its earlier stages built too (and not trained)."""
    earlier = {stage.slug: build(stage, schema, size) for stage in recipe.stages.get("stages", ())}
    return recipe.build(schema, size, earlier=earlier)


def seeded(model: Model, step: Step, seed: int = 0) -> Step:
    """`model.learn` of the step, whatever it draws being a function of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.learn(step._replace(aux={}))


def predictions(model: Model, step: Step) -> dict[str, Tensor]:
    """head -> (Q, M, width), without gradient; equal draws in every call."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        pred = model.predict(step._replace(aux={})).pred
    assert pred is not None
    return pred


def edited(tokens: Tokens, where: Tensor, model: Model, seed: int = 1) -> Tokens:
    """Tokens with other content `where` (B, N) says so."""
    generator = torch.Generator().manual_seed(seed)
    content, start = {}, 0
    for name, x in tokens.x.items():
        here = where[:, start : start + x.shape[1]]
        start += x.shape[1]
        if x.is_floating_point():
            other = 1 + 2 * torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.dtype)
        else:
            classes = max(2, -model.tokenizer.streams[name])
            other = (x + torch.randint(1, classes, x.shape, generator=generator)) % classes
        content[name] = torch.where(here.view(*here.shape, *[1] * (x.ndim - 2)), other, x)
    return tokens._replace(x=content)


def decoder_rows(step: Step, most: int = 4) -> list[int]:
    """Decoder rows to look at, the first of different samples first."""
    mask = step.mask
    count = next(m.shape[0] for m in (mask.ask_of, mask.via, mask.ask, mask.visible) if m is not None)
    samples = range(count) if mask.ask_of is None else mask.ask_of.tolist()
    seen: set[int] = set()
    first = [q for q, b in enumerate(samples) if not (b in seen or seen.add(b))]  # type: ignore[func-returns-value]
    return (first + [q for q in range(count) if q not in first])[:most]


def sample_of(step: Step, q: int) -> int:
    """The sample that decoder row `q` predicts."""
    return q if step.mask.ask_of is None else int(step.mask.ask_of[q])


def shown_to(step: Step, q: int) -> Tensor:
    """(N,) bool: the tokens of decoder row `q`'s sample whose content its encoder row sees."""
    mask, sample = step.mask, sample_of(step, q)
    row = q if mask.via is None else int(mask.via[q])
    visible = mask.visible[row]
    if mask.keep_of is None or mask.keep_of.ndim == 1:
        owner = row if mask.keep_of is None else int(mask.keep_of[row])
        return visible if owner == sample else torch.zeros_like(visible)
    index = torch.arange(visible.shape[0]) if mask.keep is None else mask.keep[row]
    mine = (mask.keep_of[row] == sample) & visible[index]
    if mask.keep_ok is not None:
        mine = mine & mask.keep_ok[row]
    return torch.zeros_like(visible).index_fill(0, index[mine], True)


def only(step: Step, sample: int, tokens: Tensor) -> Tensor:
    """(B, N) bool: `tokens` (N,) of one sample."""
    where = torch.zeros(step.tokens.shape, dtype=torch.bool)
    where[sample] = tokens
    return where


def asked_rows(pred: Tensor, step: Step, q: int) -> Tensor:
    """(m, width): the predictions of decoder row `q` at tokens that are really asked for."""
    return pred[q] if step.mask.ask_ok is None else pred[q][step.mask.ask_ok[q]]
