"""Corruptions: what becomes of hidden content. `keep` says how many of the hidden tokens enter the encoder (0.0 none,
1.0 all; see `engine.split`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Model, Part, Seen, Step, take
from anymask.parts.layers import LayerNorm, Linear, PostBlock, init_weights, linear
from anymask.parts.losses import cross_entropy, mean_of
from anymask.recipe import RecipeError


class Drop(Part):
    """Hidden tokens do not enter the encoder (MAE, arXiv:2111.06377)."""

    keep = 0.0

    def forward(self, step: Step, model: Model) -> Seen:
        return model.stem(step)


class Replace(Part):
    """Hidden tokens enter as one learned vector plus their position (BERT, arXiv:1810.04805; SimMIM).

    Args:
        keep: share of the hidden tokens that enter; the others are dropped (MAGE, arXiv:2211.09117).
    """

    def __init__(self, model: Model, *, keep: float = 1.0):
        super().__init__(model)
        self.keep = float(keep)
        width = getattr(model.stem, "filled", model.size.width)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))

    def forward(self, step: Step, model: Model) -> Seen:
        return model.stem(step, fill=self.token)

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}}


class Zero(Part):
    """The content of hidden tokens enters as zeros, with their position (PatchTST, arXiv:2211.14730, section 3.2): a
    linear embedding makes its bias of them. For one stream of real numbers, embedded by `stems.Embed`."""

    keep = 1.0

    def __init__(self, model: Model):
        super().__init__(model)
        (self.stream,) = model.tokenizer.streams

    def forward(self, step: Step, model: Model) -> Seen:
        return model.stem(step, fill=model.stem.embed[self.stream].bias)


class Substitute(Part):
    """Hidden tokens of a stream of integers are the mask token, or random ones, so that the encoder has to weigh every
    token it sees (BERT, arXiv:1810.04805, section 3.1; with `Chosen`, 80 % mask, 10 % random, 10 % as they are).

    Args:
        random: share of random tokens among the chosen ones, those that stay visible counted.
    """

    keep = 1.0

    def __init__(self, model: Model, *, random: float = 0.1):
        super().__init__(model)
        hidden = 1.0 - getattr(model.mask, "kept", 0.0)
        if not 0.0 <= random <= hidden:
            raise RecipeError(f"corruption.random is a share of the chosen tokens, 0 to {hidden:g}, not {random}")
        self.random = random / hidden
        self.stream, self.mask_id = model.tokenizer.field, model.tokenizer.mask_id
        self.classes = -model.tokenizer.streams[self.stream]

    def forward(self, step: Step, model: Model) -> Seen:
        key, x = step.sample["key"], step.tokens.x[self.stream]
        drawn = (keyed.uniform(key, x.shape[1], salt=21) * self.classes).long()
        other = torch.where(keyed.uniform(key, x.shape[1], salt=22) < self.random, drawn, self.mask_id)
        content = {**step.tokens.x, self.stream: torch.where(step.mask.visible, x, other)}
        return model.stem(step, content=content)


class Generated(Part):
    """Hidden tokens of a stream of integers enter as plausible ones, drawn from a small generator that is trained with
    the model to predict them (ELECTRA, arXiv:2003.10555, section 2). Its loss, cross-entropy in nats, is added as
    `generator`; nothing is trained through the draws. It shares the stem's embeddings, which it projects to its width
    and, as its last layer, reads as a table of classes.

    Args:
        share: of the encoder's width and heads that the generator has (section 3.2: a quarter to a half).
        depth: its blocks; None = as many as the size.
    """

    keep = 1.0

    def __init__(self, model: Model, *, share: float = 0.25, depth: int | None = None):
        super().__init__(model)
        if not 0.0 < share <= 1.0:
            raise RecipeError(f"corruption.share is the generator's width in the encoder's, above 0 to 1, not {share}")
        self.stream, self.mask_id = model.tokenizer.field, model.tokenizer.mask_id
        size = model.size
        heads = max(1, round(size.heads * share))
        width = max(1, round(size.width * share / heads)) * heads
        self.norm = LayerNorm(size.width, eps=1e-12)
        self.project = Linear(size.width, width)
        self.blocks = nn.ModuleList(PostBlock(width, heads) for _ in range(depth or size.depth))
        self.dense = Linear(width, size.width)
        self.last = LayerNorm(size.width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(-model.tokenizer.streams[self.stream]))
        for part in (self.project, self.blocks, self.dense):
            init_weights(part)

    def forward(self, step: Step, model: Model) -> Seen:
        x, visible = step.tokens.x[self.stream], step.mask.visible
        hidden = ~visible if step.tokens.valid is None else ~visible & step.tokens.valid
        # A table of classes is large: it is read for hidden tokens, and as few others as a fixed number takes.
        index = hidden.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : self.most(model, x.shape[1])]
        real, there = x.gather(1, index), hidden.gather(1, index)
        scores = self.scores(step, model, index)  # B M classes
        with torch.autocast(x.device.type, enabled=False):
            scores = scores.float()
            step.aux["generator"] = mean_of(cross_entropy(scores, real), there)
            noise = torch.rand_like(scores.detach()).clamp(1e-9, 1 - 1e-7)
            drawn = (scores.detach() - torch.log(-torch.log(noise))).argmax(-1)  # by the Gumbel-max trick
        x = x.scatter(1, index, torch.where(there, drawn, real))
        return model.stem(step, content={**step.tokens.x, self.stream: x})

    @staticmethod
    def most(model: Model, n: int) -> int:
        """Hidden tokens of n, at most."""
        return model.mask.most(n) if hasattr(model.mask, "most") else n

    def scores(self, step: Step, model: Model, index: Tensor | None = None) -> Tensor:
        """(B, M, classes) of the tokens at index (B, M), by default all, with mask tokens at hidden places."""
        x = torch.where(step.mask.visible, step.tokens.x[self.stream], self.mask_id)
        seen = model.stem(step, content={**step.tokens.x, self.stream: x})
        x = self.project(self.norm(seen.x))
        for block in self.blocks:
            x = block(x, seen.ok)
        x = self.last(nn.functional.gelu(self.dense(take(x, index))))
        return linear(x, model.stem.embed[self.stream].weight, self.bias)


class Shift(Part):
    """Each token of a stream of integers enters with the content of the one before it, the first with the mask token:
    with an encoder that looks back only (`encoders.earlier`), each is predicted from all before it, as by an
    autoregressive model."""

    keep = 1.0
    shares = "each token enters at the next place, to be read from there on"

    def __init__(self, model: Model):
        super().__init__(model)
        self.stream, self.mask_id = model.tokenizer.field, model.tokenizer.mask_id

    def forward(self, step: Step, model: Model) -> Seen:
        x = step.tokens.x[self.stream]
        before = nn.functional.pad(x[:, :-1], (1, 0), value=self.mask_id)
        return model.stem(step, content={**step.tokens.x, self.stream: before})


class Foreign(Part):
    """Hidden tokens hold content that is not theirs: the same place of another sample of the batch, or noise (GMML,
    arXiv:2205.14986, section 3.1).

    Args:
        noise: share of samples whose hidden content is standard normal noise instead of another sample's.
    """

    keep = 1.0

    def __init__(self, model: Model, *, noise: float = 0.3):
        super().__init__(model)
        self.noise = noise

    def forward(self, step: Step, model: Model) -> Seen:
        key, start, content = step.sample["key"], 0, {}
        chosen = keyed.uniform(key, 1, salt=11)[:, :, None] < self.noise  # B 1 1
        for salt, (name, x) in enumerate(step.tokens.x.items()):
            place = slice(start, start + x.shape[1])
            visible = step.mask.visible[:, place, None]
            noise = keyed.normal(key, x.shape[1] * x.shape[2], salt=12 + salt).view_as(x)
            noisy = chosen
            if step.tokens.valid is not None:  # padding of the other sample is no content
                noisy = chosen | ~step.tokens.valid.roll(1, 0)[:, place, None]
            other = torch.where(noisy, noise, x.roll(1, 0))
            content[name] = torch.where(visible, x, other)
            start += x.shape[1]
        return model.stem(step, content=content)
