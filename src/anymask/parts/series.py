"""Parts of time series: patches of single channels, masks and encoders that treat each channel by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.data.kind import kind_of
from anymask.engine import Head, Latent, Mask, Model, Part, Sample, Seen, Step, Tokens, split, take
from anymask.parts.encoders import ViT
from anymask.parts.layers import LayerNorm, Linear, Mlp, init_weights
from anymask.parts.losses import mean_of
from anymask.parts.masks import Scored
from anymask.parts.targets import spreads
from anymask.parts.tokenizers import grid_index
from anymask.recipe import RecipeError


class ChannelPatches(Part):
    """Time series to patches of one channel each (PatchTST, arXiv:2211.14730, section 3.1).

    (B, C, T) with NaN for a missing value -> stream `series` (B, C * N, patch), a channel's patches one after another,
    standardised by channel with the schema's mean and spread; missing values stay NaN, and are 0 to the encoder. `pos`
    is (channel, moment) of a patch's centre; `valid` is False where all values of a patch are missing, and None where
    there is no such patch. The last patch may end in missing values, so that no moment is left out.

    Args:
        patch: moments; None = the default of the kind of data.
        instance: then each channel of a sample by its own mean and spread too (RevIN, Kim et al. 2022, section 3).
        field: of the schema.
    """

    takes = "series"
    missing = True

    def __init__(self, model: Model, *, patch: int | None = None, instance: bool = True, field: str = "series"):
        super().__init__(model)
        about = model.schema.fields[field]
        self.channels, length = about.shape
        side = kind_of(about.kind).patch(about)[0] if patch is None else patch
        if side < 1 or length < side + 1:
            raise RecipeError(
                f"series of {length} moments do not make two patches of {side} or more; patches of at most "
                f"{length // 2} do (--set tokenizer.patch=...)"
            )
        self.field, self.streams, self.sides = field, {field: side}, (side,)
        self.grid, self.pitch = (self.channels, -(-length // side)), (1.0, float(side))
        self.gaps, self.instance = any(about.gaps), instance
        self.renderer = kind_of(about.kind).renderer
        if instance:
            self.shares = "a channel is scaled by its mean and spread over all moments, hidden ones too"
        for name, values in (("mean", about.mean), ("std", about.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None], persistent=False)

    mean: Tensor  # C 1
    std: Tensor
    shares: str

    def scaled(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (B, C, T) standardised by channel and, with `instance`, by sample; and the mean and spread that the
        latter took away, (B, C, 1), 0 and 1 without."""
        x = (values.float() - self.mean) / self.std
        if not self.instance:
            return x, torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])
        mean = x.nanmean(2, keepdim=True).nan_to_num()
        spread = ((x - mean).square().nanmean(2, keepdim=True).nan_to_num() + 1e-5).sqrt()
        return (x - mean) / spread, mean, spread

    def forward(self, sample: Sample) -> Tokens:
        return self.tokens(self.scaled(sample[self.field])[0])

    def tokens(self, x: Tensor) -> Tokens:
        """Scaled values (B, C, T) as tokens."""
        side = self.sides[0]
        x = F.pad(x, (0, -x.shape[2] % side), value=torch.nan)
        grid = (x.shape[1], x.shape[2] // side)
        x = x.unflatten(2, (-1, side)).flatten(1, 2)  # B C*N patch
        valid = ~x.isnan().all(-1)
        pos = (grid_index(grid, x.device) + 0.5) * x.new_tensor(self.pitch)
        some = self.gaps or not valid.all()
        return Tokens({self.field: x}, pos[None], valid if some else None, grid=grid)

    def values(self, x: Tensor) -> Tensor:
        """Patches (B, C * N, patch) as series (B, C, N * patch), as they are scaled."""
        return x.unflatten(1, (self.channels, -1)).flatten(2)


class PatchValues(Part):
    """The values of the asked patches as the tokenizer scales them, NaN where one is missing: (Q, M, patch).

    Args:
        normalise: each patch by its own mean and spread as well.
    """

    def __init__(self, model: Model, *, normalise: bool = False):
        super().__init__(model)
        (self.stream,) = model.tokenizer.streams
        self.normalise = normalise
        self.heads = {"patch": Head(model.tokenizer.streams[self.stream])}
        borrows = "each window borrows the mean and spread of the true window, hidden parts too"
        self.borrows = borrows if getattr(model.tokenizer, "instance", False) else None
        if normalise:
            self.borrows = "each hidden patch borrows the mean and spread of the true patch"

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        x = self._asked(step)
        if self.normalise:
            mean, spread = spreads(x)
            x = (x - mean) / spread
        return {"patch": x}

    def _asked(self, step: Step) -> Tensor:
        return take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of).float()

    def content(self, step: Step) -> Tensor:
        """Predictions in the units of the tokens' content: (Q, M, patch)."""
        pred = step.pred["patch"].float()
        if not self.normalise:
            return pred
        mean, spread = spreads(self._asked(step))
        return pred * spread + mean


# Masks.


def even_score(step: Step) -> Tensor:
    """(B, N) scores, lowest visible, that hide the same share of the valid patches of each channel."""
    tokens = step.tokens
    if tokens.grid is None or len(tokens.grid) != 2:
        raise RecipeError("masks by channel need patches of channels on a grid; use P(Random)")
    draw = keyed.uniform(step.sample["key"], tokens.shape[1]).unflatten(1, tokens.grid)  # B C N
    count: Tensor | int = tokens.grid[1]
    if tokens.valid is not None:
        valid = tokens.valid.unflatten(1, tokens.grid)
        draw, count = torch.where(valid, draw, 1.0 + draw), valid.sum(2, keepdim=True).clamp(min=1)
    rank = draw.argsort(2).argsort(2)
    return ((rank + draw.clamp(max=0.999)) / count).flatten(1)


class ByChannel(Scored):
    """Patches drawn uniformly, the same share in each channel (PatchTST, arXiv:2211.14730, section 3.2).

    Args:
        ratio, ask: see `Scored`.
    """

    def __init__(self, model: Model, *, ratio: float = 0.4, ask: float | None = 1.0):
        super().__init__(model, ratio=ratio, ask=ask)

    def score(self, step: Step, model: Model) -> Tensor:
        return even_score(step)


class Complementary(Part):
    """Two views of each sample, rows b and B + b: what one shows the other hides (PITS, arXiv:2312.16427, section 3.2).

    Args:
        ratio: share of each channel's patches that the first view hides.
        itself: each view is asked for the patches that it shows: autoencoding of single patches; otherwise for those
            that it hides.
    """

    def __init__(self, model: Model, *, ratio: float = 0.5, itself: bool = True):
        super().__init__(model)
        if not 0.0 < ratio < 1.0:
            raise RecipeError(f"the mask ratio is the hidden share, above 0 and below 1, not {ratio}")
        self.ratio, self.itself = float(ratio), itself

    def forward(self, step: Step, model: Model) -> Mask:
        b, n = step.tokens.shape
        score, valid = even_score(step), step.tokens.valid
        whole = torch.full((b,), n, device=score.device) if valid is None else valid.sum(1)
        first = (whole * (1.0 - self.ratio) + 1e-4).floor().long()
        of = torch.arange(b, device=score.device).repeat(2)
        mask = split(
            torch.cat([score, -score]),
            torch.cat([first, whole - first]),
            keep=model.corruption.keep,
            ask=None,
            valid=None if valid is None else valid[of],
        )
        shown = mask.visible if valid is None else mask.visible & valid[of]
        hidden = ~mask.visible if valid is None else ~mask.visible & valid[of]
        return mask._replace(ask_ok=shown if self.itself else hidden, keep_of=of, ask_of=of)


# Encoders.


def same_channel(seen: Seen) -> Tensor:
    """(1 or R, K, K) attention only among patches of one channel."""
    channel = seen.pos[..., 0]
    return channel[:, :, None] == channel[:, None, :]


class ChannelViT(ViT):
    """A transformer over the patches of each channel by itself, its weights shared by all channels (PatchTST,
    arXiv:2211.14730, section 3.1). Without a CLS token.

    Args:
        across: attention over the patches of all channels instead.
        depth, heads, mlp_ratio, drop_path: see `ViT`.
    """

    def __init__(
        self,
        model: Model,
        *,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        across: bool = False,
    ):
        super().__init__(model, depth=depth, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path, cls=False)
        self.across = across

    def forward(self, step: Step, model: Model) -> Latent:
        seen, grid = step.seen, step.tokens.grid
        if self.across or grid is None or step.mask.keep is not None:
            return self.encode(seen)
        rows = folded(seen, grid[0])  # channels as rows: the same, without computing attention that is thrown away
        layers = [x.unflatten(0, (-1, grid[0])).flatten(1, 2) for x in self._layers(rows.x, rows.ok)]
        return self._latent(layers, seen)

    def encode(self, seen: Seen) -> Latent:
        ok = seen.ok
        if not self.across:
            ok = same_channel(seen) if ok is None else same_channel(seen) & ok[:, None]
        return self._latent(self._layers(seen.x, ok), seen)

    def _layers(self, x: Tensor, ok: Tensor | None) -> list[Tensor]:
        """What enters the first block and leaves each one, the last one normalised."""
        layers = [x]
        for block in self.blocks:
            layers.append(block(layers[-1], ok))
        layers[-1] = self.norm(layers[-1])
        return layers

    def _latent(self, layers: list[Tensor], seen: Seen) -> Latent:
        return Latent(layers[-1], seen.pos, seen.ok, seen.kind, layers=tuple(layers) if self.layers else ())


def folded(seen: Seen, channels: int) -> Seen:
    """What is seen (R, C * N) with the channels as rows (R * C, N)."""
    rows = lambda x: x.unflatten(1, (channels, -1)).flatten(0, 1)
    pos = seen.pos.expand(seen.x.shape[0], -1, -1)
    return Seen(rows(seen.x), rows(pos), None if seen.ok is None else rows(seen.ok))


class Gate(nn.Module):
    """Values weighed by a softmax over themselves: gated attention (TSMixer, arXiv:2306.09364, section 3.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.weigh = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x).softmax(-1)


class MixerBlock(nn.Module):
    """Mixes the patches of a channel, then the features of a patch, each by an MLP with a gate."""

    def __init__(self, patches: int, width: int, *, expansion: int, gated: bool):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width, eps=1e-5), LayerNorm(width, eps=1e-5)
        self.patches, self.features = Mlp(patches, expansion * patches), Mlp(width, expansion * width)
        self.gate1, self.gate2 = (Gate(n) if gated else nn.Identity() for n in (patches, width))

    def forward(self, x: Tensor, ok: Tensor | None = None) -> Tensor:
        """x (R, N, D), ok (R, N) -> (R, N, D)."""
        y = self.norm1(x)
        y = y if ok is None else y * ok[..., None]
        x = x + self.gate1(self.patches(y.transpose(1, 2))).transpose(1, 2)
        return x + self.gate2(self.features(self.norm2(x)))


class Mixer(Part):
    """MLP-Mixer over the patches of each channel by itself (TSMixer, arXiv:2306.09364, section 3.2).

    Series shorter than in training are padded to its length; longer ones are refused.

    Args:
        depth: blocks; None = of the size.
        expansion: width of the hidden layer of an MLP, in widths.
        gated: gated attention after each MLP.
    """

    needs_grid = "patches are mixed by their place in time"

    def __init__(self, model: Model, *, depth: int | None = None, expansion: int = 2, gated: bool = True):
        super().__init__(model)
        self.width, self.patches = model.size.width, model.tokenizer.grid[1]
        self.blocks = nn.ModuleList(
            MixerBlock(self.patches, self.width, expansion=expansion, gated=gated)
            for _ in range(depth or model.size.depth)
        )
        init_weights(self)

    def forward(self, step: Step, model: Model) -> Latent:
        seen, grid = step.seen, step.tokens.grid
        if grid is None or step.mask.keep is not None:
            raise ValueError("a mixer reads every place: the corruption has to keep all tokens, on their grid")
        rows, lack = folded(seen, grid[0]), self.patches - grid[1]
        x, ok = rows.x, rows.ok
        if lack < 0:
            raise ValueError(
                f"a mixer made for {self.patches} patches cannot read {grid[1]}; give series no longer than in training"
            )
        if lack:
            ok = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if ok is None else ok
            x, ok = F.pad(x, (0, 0, 0, lack)), F.pad(ok, (0, lack))
        for block in self.blocks:
            x = block(x, ok)
        x = x[:, : grid[1]].unflatten(0, (-1, grid[0])).flatten(1, 2)
        return Latent(x, seen.pos, seen.ok, seen.kind)


class PatchMlp(Part):
    """The second layer of an MLP on each patch by itself, the stem being the first: no patch sees another (PITS,
    arXiv:2312.16427, section 3.1)."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.width = model.size.width
        self.layer = Linear(self.width, self.width)
        init_weights(self.layer)

    def forward(self, step: Step, model: Model) -> Latent:
        seen = step.seen
        return Latent(self.layer(seen.x.relu()), seen.pos, seen.ok, seen.kind)


# Contrastive learning.


class TemporalContrast(Part):
    """Patches of two complementary views (`Complementary`): the first layer's code of a patch in one view is to be
    nearer to that of the same patch in the other than to those of the channel's other patches, at several scales, each
    the maximum over pairs of the one before (PITS, arXiv:2312.16427, section 3.3, and the authors' code).

    Args:
        weight: of the loss.
    """

    def __init__(self, model: Model, *, weight: float = 1.0):
        super().__init__(model)
        self.weight = weight

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        grid = step.tokens.grid
        assert grid is not None
        z = folded(step.seen, grid[0]).x.float()  # 2*B*C N D, what is hidden at the bias of the first layer
        valid = step.tokens.valid
        ok = None if valid is None else valid.unflatten(1, grid).flatten(0, 1)  # B*C N
        with torch.autocast(z.device.type, enabled=False):
            first, second = z.chunk(2)
            return {"contrast": self.weight * hierarchical(first, second, ok)}


def hierarchical(a: Tensor, b: Tensor, ok: Tensor | None = None) -> Tensor:
    """Mean over scales of half the contrastive loss of two views (R, N, D); the scale of one patch, which has nothing
    to be told from, counts as 0.

    Args:
        ok: (R, N) patches that are there.
    """
    losses = []
    while a.shape[1] > 1:
        losses.append(0.5 * contrast(a, b, ok))
        if ok is not None:
            low = torch.finfo(a.dtype).min
            a, b = (x.masked_fill(~ok[..., None], low) for x in (a, b))
            ok = F.max_pool1d(ok[:, None].to(a.dtype), 2)[:, 0] > 0
        a, b = (F.max_pool1d(x.transpose(1, 2), 2).transpose(1, 2) for x in (a, b))
        if ok is not None:
            a, b = (x.masked_fill(~ok[..., None], 0.0) for x in (a, b))
    return torch.stack(losses).sum() / (len(losses) + 1)


def contrast(a: Tensor, b: Tensor, ok: Tensor | None = None) -> Tensor:
    """Cross-entropy of finding a patch of one view (R, N, D) among all other patches of both, by the dot product."""
    n = a.shape[1]
    z = torch.cat([a, b], 1)  # R 2N D
    logits = z @ z.transpose(1, 2)
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    goal = torch.arange(2 * n, device=z.device).roll(n).expand(len(z), -1)
    if ok is None:
        return F.cross_entropy(logits.flatten(0, 1), goal.flatten())
    both = torch.cat([ok, ok], 1)
    logits = logits.masked_fill(~both[:, None] & both[..., None], -torch.inf)
    loss = F.cross_entropy(logits.flatten(0, 1), goal.flatten(), reduction="none").view_as(both)
    return mean_of(loss, both)
