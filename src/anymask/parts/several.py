"""Samples of several fields as one sequence of tokens. Each field keeps the tokenizer, stem, positions, target and loss
of its kind: those of the kind's default recipe, or those that the kind names as its `parts` in a mix. So a mix of any
kinds can be trained, and a missing field is tokens that are not valid."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.data.kind import kind_of
from anymask.engine import Head, Mask, Model, Part, Sample, Seen, Step, Tokens, take
from anymask.recipe import P, Recipe, RecipeError, find

Loss = Callable[[Tensor, Tensor], Tensor]


def own(schema: Any, field: str) -> Recipe:
    """The recipe whose parts a field of a schema keeps."""
    alone = replace(schema, fields={field: schema.fields[field]})
    kind = kind_of(schema.fields[field].kind)
    if not kind.parts:
        return find(kind.recipe_for(alone))
    module, _, name = kind.parts.partition(":")
    return Recipe(stages=getattr(importlib.import_module(module), name))


class View:
    """A model as the parts of one field see it: with the field's own tokenizer, target and positions."""

    def __init__(self, model: Any, recipe: Recipe, tokenizer: Any = None, target: Any = None):
        self.model, self.recipe, self.tokenizer, self.target = model, recipe, tokenizer, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def positions(self, width: int) -> nn.Module:
        return self.recipe.positions(self, width=width)


def tokenizer_of(tokenizer: Any, field: str) -> Any:
    """The tokenizer that makes the tokens of a field: of several, its own."""
    return tokenizer.of(field) if isinstance(tokenizer, Several) else tokenizer


def view_of(model: Model, field: str) -> Any:
    """The model as the parts of a field see it; the model itself where its tokenizer is of one field."""
    if not isinstance(model.tokenizer, Several):
        return model
    target = getattr(model, "target", None)  # none yet while the target itself is built
    target = target.of(field) if isinstance(target, Own) else None
    return View(model, model.tokenizer.recipes[field], model.tokenizer.of(field), target)


def of_field(x: Tensor, tokens: Tokens, field: str) -> Tensor:
    """Of (R, N, ...) over the tokens of all fields, those of one (R, n, ...). Split and not sliced, so that a compiled
    graph takes any lengths."""
    sizes = [one.shape[1] for one in tokens.x.values()]
    return x.split(sizes, 1)[list(tokens.x).index(field)]


class Several(Part):
    """The tokens of several fields, those of one field after those of another.

    Streams are called as the fields; `kind` is the number of a token's field; `pos` has as many coordinates as the
    field with the most of them, further ones being 0. Tokens of a field that a sample lacks (`<field>.present`) are not
    valid.

    Args:
        kinds: of the fields that are taken, and which there have to be; None = all that the data have.
    """

    takes = ("image", "depth", "classmap")  # what the contract makes up, unless `kinds` says more
    grid = None

    @staticmethod
    def serves(kind: str, arguments: Mapping[str, Any]) -> bool:
        return not arguments.get("kinds") or kind in arguments["kinds"]

    def __init__(self, model: Model, *, kinds: Sequence[str] | None = None):
        super().__init__(model)
        fields = model.schema.fields
        lacking = [kind for kind in kinds or () if all(field.kind != kind for field in fields.values())]
        if lacking:
            have = ", ".join(f"{name} ({field.kind})" for name, field in fields.items())
            raise RecipeError(
                f"this recipe needs parts of kind {' and '.join(kinds or ())}, and the data have {have}; a folder of "
                "images with texts in metadata.csv is read as both with --kind mix, and a mix.toml names any parts"
            )
        self.fields = [name for name, field in fields.items() if self.serves(field.kind, {"kinds": kinds})]
        for name in self.fields:
            if kind_of(fields[name].kind).alone:
                raise RecipeError(f"a {fields[name].kind} ('{name}') cannot be one of several parts; train on it alone")
        self.recipes = {name: own(model.schema, name) for name in self.fields}
        made = [recipe.tokenizer.but(field=name)(View(model, recipe)) for name, recipe in self.recipes.items()]
        self.each = nn.ModuleList(made)
        for name, part in zip(self.fields, made):
            if set(part.streams) != {name} or getattr(part, "kinds", 1) > 1:
                kind = fields[name].kind
                raise RecipeError(f"a {kind} ('{name}') cannot be one of several parts; train on it alone")
        self.streams = {name: part.streams[name] for name, part in zip(self.fields, made)}
        self.kinds = len(self.fields)
        self.pitch = self.each[0].pitch
        self.shares = self._shares()

    def _shares(self) -> str | None:
        told = [f"{name}: {part.shares}" for name, part in zip(self.fields, self.each) if getattr(part, "shares", None)]
        return "; ".join(told) or None

    def of(self, field: str) -> Any:
        """The tokenizer of a field."""
        return self.each[self.fields.index(field)]

    def _by_field(self, attribute: str) -> dict[str, Any]:
        found = {name: getattr(part, attribute, None) for name, part in zip(self.fields, self.each)}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def sides(self) -> dict[str, Any]:
        """Values along each axis of a patch, of fields that are cut into patches."""
        return self._by_field("sides")

    @property
    def crop(self) -> dict[str, Any]:
        """Space of a training sample, of fields that are cut into whole patches."""
        return self._by_field("crop")

    def forward(self, sample: Sample) -> Tokens:
        found = {name: part(self.given(sample, name)) for name, part in zip(self.fields, self.each)}
        x = {name: tokens.x[name] for name, tokens in found.items()}
        b = next(iter(x.values())).shape[0]
        axes = max(tokens.pos.shape[2] for tokens in found.values())
        batch = max(tokens.pos.shape[0] for tokens in found.values())
        pos = [F.pad(t.pos, (0, axes - t.pos.shape[2])).expand(batch, -1, -1) for t in found.values()]
        kind = [torch.full((v.shape[1],), n, device=v.device) for n, v in enumerate(x.values())]
        valid = [self._valid(sample, name, tokens) for name, tokens in found.items()]
        joined = None
        if any(v is not None for v in valid):
            ones = [torch.ones(b, v.shape[1], dtype=torch.bool, device=v.device) for v in x.values()]
            joined = torch.cat([one if v is None else v.expand(b, -1) for v, one in zip(valid, ones)], 1)
        return Tokens(x, torch.cat(pos, 1), joined, torch.cat(kind))

    def given(self, sample: Sample, field: str) -> Sample:
        """The sample as the tokenizer of one field expects it, where the field stands alone."""
        out = {name: v for name, v in sample.items() if name.partition(".")[0] == field or name in ("key", "index")}
        extent = sample.get(f"{field}.extent", sample.get("extent") if len(self.fields) == 1 else None)
        return out if extent is None else {**out, "extent": extent}

    def _valid(self, sample: Sample, field: str, tokens: Tokens) -> Tensor | None:
        present = sample.get(f"{field}.present")
        if present is None:
            return tokens.valid
        here = present[:, None].expand(-1, tokens.shape[1])
        return here if tokens.valid is None else here & tokens.valid

    def part(self, tokens: Tokens, field: str) -> Tokens:
        """The tokens of one field by themselves, without a grid."""
        axes = len(self.of(field).pitch)
        valid = None if tokens.valid is None else of_field(tokens.valid, tokens, field)
        return Tokens({field: tokens.x[field]}, of_field(tokens.pos, tokens, field)[..., :axes], valid)

    def step(self, step: Step, field: str) -> Step:
        """A step of one field by itself, in which every token of it is asked for that the whole step asks for."""
        tokens, mask = step.tokens, step.mask
        valid = None if tokens.valid is None else of_field(take(tokens.valid, None, mask.keep_of), tokens, field)
        own = Mask(
            of_field(mask.visible, tokens, field),
            keep_ok=valid,
            ask_ok=of_field(_asked(mask), tokens, field),
            keep_of=mask.keep_of,
            ask_of=mask.ask_of,
        )
        return step._replace(tokens=self.part(tokens, field), mask=own)


def _asked(mask: Mask) -> Tensor:
    """(Q, N) which tokens are asked for."""
    n = mask.visible.shape[1]
    if mask.ask is None:
        ok = mask.ask_ok
        return torch.ones_like(mask.visible) if ok is None else ok
    ok = torch.ones_like(mask.ask, dtype=torch.bool) if mask.ask_ok is None else mask.ask_ok
    empty = torch.zeros(mask.ask.shape[0], n, dtype=torch.bool, device=mask.ask.device)
    return empty.scatter(1, mask.ask, ok)


class Stems(Part):
    """The stem of each field on its tokens, its own positions included, and a learned vector for each field."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.fields, width = list(model.tokenizer.fields), model.size.width
        self.each = nn.ModuleList(self._one(view_of(model, name)) for name in self.fields)
        many = len(self.fields) > 1
        self.kinds = nn.Parameter(torch.empty(len(self.fields), width).normal_(std=0.02)) if many else None
        self.axes = {name: len(model.tokenizer.of(name).pitch) for name in self.fields}
        self.width = width

    @staticmethod
    def _one(view: View) -> Any:
        part = view.recipe.stem
        return (part.but(positions=True) if part.takes("positions") else part)(view)

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        """Arguments as of `stems.Embed`."""
        tokens, mask = step.tokens, step.mask
        made = []
        for name, stem in zip(self.fields, self.each):
            alone = self._alone(step, name)
            made.append(stem(alone, None if content is None else {name: content[name]}, fill).x)
        x = torch.cat(made, 1)  # R N D
        kind = tokens.kinds
        if kind is not None:
            kind = take(kind, mask.keep, mask.keep_of)
        x = take(x, mask.keep)
        if self.kinds is not None and kind is not None:
            x = x + self.kinds[kind].to(x.dtype)
        return Seen(x, take(tokens.pos, mask.keep, mask.keep_of), mask.keep_ok, kind, content)

    def _alone(self, step: Step, field: str) -> Step:
        """The step of one field with every token in it."""
        tokens, mask = step.tokens, step.mask
        pos, valid, keep_ok = of_field(tokens.pos, tokens, field)[..., : self.axes[field]], None, None
        if tokens.valid is not None:
            valid = of_field(tokens.valid, tokens, field)
            keep_ok = of_field(take(tokens.valid, None, mask.keep_of), tokens, field)
        own = Mask(of_field(mask.visible, tokens, field), keep_ok=keep_ok, keep_of=mask.keep_of)
        return step._replace(tokens=Tokens({field: tokens.x[field]}, pos, valid), mask=own)

    def groups(self) -> dict[str, dict[str, float]]:
        return {"kinds": {"weight_decay": 0.0}}


class Places(nn.Module):
    """The positions of each field, and a learned vector for each field, so that places of different fields differ."""

    def __init__(self, model: Model, *, width: int):
        super().__init__()
        self.fields = list(model.tokenizer.fields)
        views = [view_of(model, name) for name in self.fields]
        self.each = nn.ModuleList(view.positions(width) for view in views)
        self.axes = [len(view.tokenizer.pitch) for view in views]
        many = len(self.fields) > 1
        self.kinds = nn.Parameter(torch.empty(len(self.fields), width).normal_(std=0.02)) if many else None

    def forward(self, tokens: Tokens) -> Tensor:
        found = []
        for n, (name, axes, module) in enumerate(zip(self.fields, self.axes, self.each)):
            valid = None if tokens.valid is None else of_field(tokens.valid, tokens, name)
            made = module(Tokens({name: tokens.x[name]}, of_field(tokens.pos, tokens, name)[..., :axes], valid))
            found.append(made if self.kinds is None else made + self.kinds[n])
        b = max(made.shape[0] for made in found)
        return torch.cat([made.expand(b, -1, -1) for made in found], 1)

    def groups(self) -> dict[str, dict[str, float]]:
        return {"kinds": {"weight_decay": 0.0}}


class Own(Part):
    """The target of each field, scored at its tokens only, and its loss.

    Args:
        losses: name or kind of a field -> loss, where it is not that of its kind.
        weights: name or kind of a field -> weight of its heads, in place of 1.
    """

    def __init__(
        self, model: Model, *, losses: Mapping[str, Loss] | None = None, weights: Mapping[str, float] | None = None
    ):
        super().__init__(model)
        self.fields = list(model.tokenizer.fields)
        views = [view_of(model, name) for name in self.fields]
        self.each = nn.ModuleList(view.recipe.target(view) for view in views)
        self.axes = [len(view.tokenizer.pitch) for view in views]
        self.names: list[dict[str, str]] = []  # of each field: its target's heads -> heads here
        self.heads: dict[str, Head] = {}
        self.losses: dict[str, Loss] = {}
        made: list[Any] = list(self.each)
        for n, (field, view, target) in enumerate(zip(self.fields, views, made)):
            alone = len(target.heads) == 1
            self.names.append({head: field if alone else f"{field}_{head}" for head in target.heads})
            kind = model.schema.fields[field].kind
            loss = _given(losses, field, kind, view.recipe.loss)
            for head, name in self.names[-1].items():
                about = target.heads[head]
                if about.kinds is not None:
                    raise RecipeError(f"'{field}' has tokens of several kinds and cannot be one of several parts")
                self.heads[name] = about._replace(kinds=(n,), weight=about.weight * _given(weights, field, kind, 1.0))
                self.losses[name] = _bound(loss[head] if isinstance(loss, Mapping) else loss)

    def of(self, field: str) -> Any:
        """The target of a field."""
        return self.each[self.fields.index(field)]

    @property
    def constants(self) -> dict[str, Tensor]:
        """What heads would predict that knew nothing but the training data, where their targets say so."""
        found = {}
        for names, target in zip(self.names, self.each):
            known = getattr(target, "constants", {})
            found.update({names[head]: value for head, value in known.items()})
        return found

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        goals = {}
        for field, names, target in zip(self.fields, self.names, self.each):
            found = target(model.tokenizer.step(step, field), view_of(model, field))
            goals.update({names[head]: spread(goal, step.tokens, field, step.mask) for head, goal in found.items()})
        return goals

    def pred(self, step: Step, field: str) -> dict[str, Tensor]:
        """The predictions of a field's heads at all its tokens, (Q, N of the field, width), 0 where none is asked
        for."""
        mask, out = step.mask, {}
        for head, name in self.names[self.fields.index(field)].items():
            pred = step.pred[name]
            if mask.ask is not None:
                empty = pred.new_zeros(pred.shape[0], step.tokens.shape[1], pred.shape[2])
                pred = empty.scatter(1, mask.ask[..., None].expand_as(pred), pred)
            out[head] = of_field(pred, step.tokens, field)
        return out


def spread(x: Tensor, tokens: Tokens, field: str, mask: Mask) -> Tensor:
    """Values (Q, N of a field, ...) at the asked ones of all tokens, 0 where these are of other fields."""
    sizes, n = [one.shape[1] for one in tokens.x.values()], list(tokens.x).index(field)
    wide = F.pad(x, (0, 0) * (x.ndim - 2) + (sum(sizes[:n]), sum(sizes[n + 1 :])))
    return take(wide, mask.ask)


def _given(by_name: Mapping[str, Any] | None, field: str, kind: str, default: Any) -> Any:
    return (by_name or {}).get(field, (by_name or {}).get(kind, default))


def _bound(loss: Any) -> Loss:
    return functools.partial(loss.part, **loss.args) if isinstance(loss, P) else loss


def own_augment(*, schema: Any) -> dict[str, Any]:
    """Field -> the augmentation of its kind; None where a field is used as it is. Fields with the same augmentation, an
    image and its depth, are cropped at the same place, so none of them is where one must not be."""
    parts = {name: own(schema, name).augment for name in schema.fields}
    asis = [parts[name] for name, field in schema.fields.items() if kind_of(field.kind).augmentable(field)]
    return {name: None if part is None or part in asis else part() for name, part in parts.items()}
