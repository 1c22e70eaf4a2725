"""Parts of systems for health records: tokens that are pairs of a code and a value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Head, Model, Part, Sample, Seen, Step, Tokens, take
from anymask.parts.decoders import asked_codes
from anymask.parts.layers import LayerNorm, Linear, init_weights
from anymask.parts.masks import Scored
from anymask.recipe import RecipeError

NULL, HIDDEN = -1.0, -2.0  # what stands for a value that is missing, and for one that is hidden


class Measurements(Part):
    """Stays to one token for each measurement.

    (B, N, 3) of code, value and hour, the code -1 behind the end of a stay -> stream `ehr` (B, N, 3): the number of the
    code; the value as its place in the distribution of the code's values in training, 0 to 1 (Labrador,
    arXiv:2312.11502, section 3.1), -1 where it is missing; and the hour, for drawing. `pos` is the hour.

    Args:
        field: of the schema.
    """

    takes = "ehr"
    renderer = "anymask.reports.ehr:Stays"

    def __init__(self, model: Model, *, field: str = "ehr"):
        super().__init__(model)
        ehr = model.schema.fields[field]
        self.field, self.codes = field, len(ehr.columns)
        self.streams, self.grid, self.pitch = {field: 3}, None, (1.0,)
        self.register_buffer("knots", torch.tensor(ehr.more["knots"], dtype=torch.float64), persistent=False)

    knots: Tensor  # (codes, K) values at equal shares of the distribution

    def forward(self, sample: Sample) -> Tokens:
        value = sample[self.field]
        valid = value[..., 0] >= 0
        code = value[..., 0].long().clamp(0, self.codes - 1)
        share = torch.where(value[..., 1].isnan(), NULL, self.share(code, value[..., 1].nan_to_num()))
        hours = value[..., 2].detach().float()
        x = torch.stack([code.float(), share.float(), hours], -1)
        return Tokens({self.field: x}, hours[..., None] + 0.5, valid)

    def share(self, code: Tensor, value: Tensor) -> Tensor:
        """Place of values (B, N) in the distributions of their codes, 0 to 1, linear between the known places; that of
        a value with a mass of its own is the middle of the mass."""
        knots, value = self.knots[code], value.double()[..., None]  # B N K
        last = knots.shape[-1] - 1
        upper = (knots <= value).sum(-1) - 1  # the last place that is not above
        lower = (knots < value).sum(-1)  # the first that is not below
        at = upper.clamp(0, last - 1)[..., None]
        below, above = knots.gather(-1, at), knots.gather(-1, at + 1)
        part = ((value - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)
        between = (at + part)[..., 0]
        return torch.where(upper >= lower, (upper + lower) / 2, between).clamp(0, last) / last

    def raw(self, x: Tensor) -> Tensor:
        """Tokens' content (B, N, 3) with values in the units of the data, float64; missing ones NaN."""
        code, share = x[..., 0].nan_to_num().round().long().clamp(0, self.codes - 1), x[..., 1].double()
        place = share.nan_to_num().clamp(0, 1) * (self.knots.shape[-1] - 1)
        at = place.long().clamp(max=self.knots.shape[-1] - 2)[..., None]
        below, above = (self.knots[code].gather(-1, at + n)[..., 0] for n in (0, 1))
        value = below + (place - at[..., 0]) * (above - below)
        value = torch.where((share < -0.5) | share.isnan(), torch.nan, value)
        return torch.stack([x[..., 0].double(), value, x[..., 2].double()], -1)


class WithValue(Scored):
    """Tokens drawn uniformly among those that have a value; the others stay visible, as long as there are such
    (Labrador, section 3.2).

    Args:
        ratio: share of a stay's tokens that is hidden.
    """

    def __init__(self, model: Model, *, ratio: float = 0.15):
        super().__init__(model, ratio=ratio)

    def visible(self, tokens: Tokens) -> Tensor:
        count = torch.full_like(tokens.pos[:, 0, 0], tokens.shape[1]) if tokens.valid is None else tokens.valid.sum(1)
        count = count.long()
        return count - (count * self.ratio).round().long().clamp(min=1).minimum(count - 1).clamp(min=0)

    def score(self, step: Step, model: Model) -> Tensor:
        null = step.tokens.x[model.tokenizer.field][..., 1] < -0.5
        return keyed.uniform(step.sample["key"], step.tokens.shape[1]) - null.float()


class HidePairs(Part):
    """Hidden tokens lose their value and, most of them, their code; their time stays (Labrador, section 3.2, where all
    lose both).

    Args:
        value_only: share of the hidden tokens whose code stays.
    """

    keep = 1.0

    def __init__(self, model: Model, *, value_only: float = 0.5):
        super().__init__(model)
        if not 0.0 <= value_only <= 1.0:
            raise RecipeError(f"corruption.value_only is a share of the hidden tokens, 0 to 1, not {value_only}")
        self.value_only, self.stream, self.codes = float(value_only), model.tokenizer.field, model.tokenizer.codes

    def code_stays(self, step: Step) -> Tensor:
        """(B, N) hidden tokens whose code stays visible."""
        drawn = keyed.uniform(step.sample["key"], step.tokens.shape[1], salt=41) < self.value_only
        return drawn & ~step.mask.visible

    def shown(self, step: Step) -> dict[str, Tensor]:
        """stream -> (B, N, D) what of hidden tokens stays visible."""
        stays = self.code_stays(step)
        return {self.stream: torch.stack([stays, torch.zeros_like(stays), torch.zeros_like(stays)], -1)}

    def forward(self, step: Step, model: Model) -> Seen:
        x = step.tokens.x[self.stream]
        code = torch.where(step.mask.visible | self.code_stays(step), x[..., 0], float(self.codes))
        value = torch.where(step.mask.visible, x[..., 1], HIDDEN)
        return model.stem(step, content={self.stream: torch.stack([code, value, x[..., 2]], -1)})


class PairEmbed(Part):
    """Code and value of a measurement as one vector (Labrador, section 3.2 and appendix): the vector of the code, plus
    a linear embedding of the value (or a vector that says that it is missing or hidden), through a layer with ReLU and
    normalisation; that beside the vector of the code again, through a linear layer. Positions, the hour, on top.

    Args:
        positions: add the hour of the measurement.
        bins: values as so many words for each code, each with a vector of its own, as in the paper's BERT; None =
            continuous values.
    """

    def __init__(self, model: Model, *, positions: bool = True, bins: int | None = None):
        super().__init__(model)
        if bins is not None and bins < 2:
            raise RecipeError(f"stem.bins counts words of a code's values, from 2 on, not {bins}")
        width, codes = model.size.width, model.tokenizer.codes
        self.stream, self.bins, self.codes = model.tokenizer.field, bins, codes
        table = lambda rows: nn.Parameter(torch.empty(rows, width).normal_(std=0.02))
        self.code, self.special = table(codes + 1), table(2)  # the last code is the hidden one
        self.value = Linear(1, width) if bins is None else None
        self.words = table((codes + 1) * bins) if bins is not None else None
        self.joint, self.norm, self.project = Linear(width, width), LayerNorm(width), Linear(2 * width, width)
        self.positions = model.positions(width) if positions else None
        init_weights(self)

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        """`content` as in `stems.Embed`; there is no `fill`, as content says what is hidden."""
        tokens, mask = step.tokens, step.mask
        x = take((tokens.x if content is None else content)[self.stream], mask.keep, mask.keep_of)
        place, share = x[..., 0].round().long().clamp(0, self.codes), x[..., 1]
        code = self.code[place]
        if self.value is not None:
            value = self.value(share.clamp(min=0)[..., None])
        else:
            assert self.words is not None and self.bins is not None
            value = self.words[place * self.bins + (share * self.bins).long().clamp(0, self.bins - 1)]
        special = self.special[(share < -1.5).long()].to(value.dtype)
        value = torch.where((share < -0.5)[..., None], special, value)
        joint = self.norm(F.relu(self.joint(code + value)))
        out = self.project(torch.cat([code.to(joint.dtype), joint], -1))
        if self.positions is not None:
            out = out + take(self.positions(tokens), mask.keep, mask.keep_of).to(out.dtype)
        return Seen(out, take(tokens.pos, mask.keep, mask.keep_of), mask.keep_ok, None, content)

    def groups(self) -> dict[str, dict[str, float]]:
        return {name: {"weight_decay": 0.0} for name in ("code", "special", "words")}


class PairHeads(Part):
    """Two heads on the codes of the asked tokens: a layer with ReLU to the code's probabilities, and one that reads
    these as well to the value, 0 to 1 (Labrador, appendix)."""

    def __init__(self, model: Model):
        super().__init__(model)
        width, codes = model.encoder.width, model.tokenizer.codes
        self.hidden, self.code = Linear(width, width), Linear(width, codes)
        self.joint, self.value = Linear(width + codes, width + codes), Linear(width + codes, 1)
        init_weights(self)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        x = asked_codes(step)
        code = self.code(F.relu(self.hidden(x)))
        both = torch.cat([x, code.float().softmax(-1).to(x.dtype)], -1)
        return {"code": code, "value": torch.sigmoid(self.value(F.relu(self.joint(both))))}


class CodeAndValue(Part):
    """Code (Q, M, codes) and value (Q, M, 1) of the asked tokens: 1 for the code, 0 for the others, NaN where it was
    not hidden; values as the tokenizer scales them, NaN where there is none.

    Args:
        weight: of the value's error beside the code's.
    """

    def __init__(self, model: Model, *, weight: float = 1.0):
        super().__init__(model)
        self.stream, self.codes = model.tokenizer.field, model.tokenizer.codes
        self.heads = {"code": Head(self.codes), "value": Head(1, weight=weight)}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        x = take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of)
        code = F.one_hot(x[..., 0].round().long().clamp(0, self.codes - 1), self.codes).float()
        stays = getattr(model.corruption, "code_stays", None)
        if stays is not None:
            code = code.masked_fill(take(stays(step), step.mask.ask)[..., None], torch.nan)
        value = x[..., 1:2]
        return {"code": code, "value": torch.where(value < -0.5, torch.nan, value)}

    difference_words = "mean squared error of the hidden values, as places in their distributions,"

    def difference(self, made: Tensor, content: Tensor) -> Tensor:
        """(B, N) how far content (B, N, 3) that was made is from the true one: of values, as codes have no distance."""
        return torch.where(content[..., 1] < -0.5, torch.nan, (made - content)[..., 1].square())

    def content(self, step: Step) -> Tensor:
        """(Q, M, 3) predictions in the units of the tokens' content: the likeliest code, the value, and the hour, which
        is not hidden."""
        code = step.pred["code"].float().argmax(-1, keepdim=True).float()
        hour = take(step.tokens.pos, step.mask.ask, step.mask.ask_of) - 0.5
        return torch.cat([code, step.pred["value"].float(), hour.expand_as(code)], -1)
