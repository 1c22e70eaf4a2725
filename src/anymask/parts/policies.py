"""Masks that a network draws, and what trains it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Mask, Model, Part, Step, Tokens, split, take
from anymask.parts.layers import Block, Linear, init_weights
from anymask.parts.losses import mean_of
from anymask.recipe import RecipeError


class Policy(Part):
    """Visible tokens are drawn from a distribution over the tokens of a sample, which a small network makes: one
    transformer block over all tokens and a linear layer (AdaMAE, arXiv:2211.09120, section 3.2). Tokens are embedded as
    the stem does, with positions of its own. `Rewarded` trains it.

    Args:
        ratio: share of a sample's tokens that is hidden.
        heads: of the block; None = the encoder's.
    """

    def __init__(self, model: Model, *, ratio: float = 0.95, heads: int | None = None):
        super().__init__(model)
        if not 0.0 < ratio < 1.0:
            raise RecipeError(f"the mask ratio is the hidden share, above 0 and below 1, not {ratio}")
        if len(model.tokenizer.streams) != 1:
            raise RecipeError("a policy draws among tokens of one stream; use P(Random) for several")
        self.ratio, width = float(ratio), model.size.width
        (self.stream,) = model.tokenizer.streams
        self.positions = model.positions(width)
        self.block = Block(width, heads or model.size.heads)
        self.score = Linear(width, 1)
        init_weights(self.block)
        nn.init.zeros_(self.score.weight)  # begins with equal chances
        nn.init.zeros_(self.score.bias)

    def logp(self, tokens: Tokens, model: Model) -> Tensor:
        """(B, N) log-probability of each token; -inf where it is not valid."""
        x = model.stem.embedded(self.stream, tokens.x[self.stream])
        x = x + self.positions(tokens).to(x.dtype)
        score = self.score(self.block(x, tokens.valid)).squeeze(-1).float()
        if tokens.valid is not None:
            score = score.masked_fill(~tokens.valid, -torch.inf)
        return score.log_softmax(1)

    @torch.no_grad()
    def forward(self, step: Step, model: Model) -> Mask:
        tokens = step.tokens
        logp = self.logp(tokens, model)
        u = keyed.uniform(step.sample["key"], tokens.shape[1]).clamp(1e-7, 1 - 1e-7)
        chance = logp - torch.log(-torch.log(u))  # Gumbel: the highest are draws without replacement
        n, whole = tokens.shape[1], tokens.valid
        shown: int | Tensor = max(1, int(n * (1.0 - self.ratio) + 1e-4))
        if whole is not None:
            count = whole.sum(1)
            shown = (count * (1.0 - self.ratio) + 1e-4).long().clamp(min=1).minimum(count)
        return split(-chance, shown, keep=model.corruption.keep, valid=tokens.valid, logp=logp)

    def groups(self) -> dict[str, dict[str, float]]:
        return {"positions": {"weight_decay": 0.0}}


class Rewarded(Part):
    """Trains a `Policy` by policy gradient: hidden tokens that are rebuilt badly become more likely to be drawn. The
    loss is minus the mean, over the hidden tokens that are asked for, of their log-probability times their error, which
    has no gradient (AdaMAE, arXiv:2211.09120, equation 8 and the authors' code).

    Args:
        weight: of the loss.
    """

    def __init__(self, model: Model, *, weight: float = 1e-4):
        super().__init__(model)
        if weight <= 0:
            raise RecipeError(f"the weight of the policy's loss is above 0, not {weight}")
        if not isinstance(model.mask, Policy):
            raise RecipeError("only a mask that a network draws can be rewarded: use mask=P(Policy)")
        self.weight = weight

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        # Once more with gradients: the mask is drawn outside the part of a step that is compiled.
        logp = take(model.mask.logp(step.tokens, model)[..., None], step.mask.ask).squeeze(-1)
        error = torch.stack([error.detach() for error in step.error.values()]).sum(0)
        ok = step.mask.ask_ok
        chance = logp if ok is None else torch.where(ok, logp, 0.0)  # -inf of padding times 0 is NaN
        return {"policy": -self.weight * mean_of(chance * error, ok)}
