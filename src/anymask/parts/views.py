"""Several views of one sample: crops of an image, and what decodes one view by another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Model, Part, Sample, Step, Tokens, take
from anymask.parts.decoders import Heads, mask_token
from anymask.parts.layers import CrossBlock, LayerNorm, Linear, init_weights
from anymask.parts.masks import Scored
from anymask.parts.tokenizers import Patches
from anymask.recipe import RecipeError


class Crops(Patches):
    """Images as `Patches`, and to learn from two random crops of each, one within the other, both enlarged to the size
    of the image (CropMAE, arXiv:2403.17823, section 3.2: global to local).

    The views are tokens of kind 0 (the outer crop) and 1, each with places of its own: (B, 2 N, values * C), the views
    being the first axis of the grid.

    Args:
        patch, kind, field: see `Patches`.
        outer: smallest and largest area of the first crop, as a share of the image.
        inner: of the second one, as a share of the first, or of the image where they are not `nested`.
        nested: the second crop lies within the first; False = both are drawn alike from the image.
    """

    shares = "two crops of one image overlap"

    def __init__(
        self,
        model: Model,
        *,
        patch: int | Sequence[int] | None = None,
        kind: str | None = None,
        field: str | None = None,
        outer: tuple[float, float] = (0.5, 1.0),
        inner: tuple[float, float] = (0.3, 0.7),
        nested: bool = True,
    ):
        super().__init__(model, patch=patch, kind=kind, field=field)
        if len(self.sides) != 2:
            raise RecipeError(f"crops are made of images, and {self.field} has {len(self.sides)} axes; use P(Patches)")
        for low, high in (outer, inner):
            if not 0.0 < low <= high <= 1.0:
                raise RecipeError(
                    f"a crop's area is a share, above 0 to 1, not {low} to {high} (--set tokenizer.outer)"
                )
        self.outer, self.inner, self.nested = tuple(outer), tuple(inner), nested
        self.renderer = None  # type: ignore[assignment]  # one picture has no place for two views

    def views(self, sample: Sample) -> Tokens:
        values = sample[self.field]
        first, second = self.boxes(sample["key"])
        crops = [super(Crops, self).forward({self.field: crop(values, box)}) for box in (first, second)]
        x = torch.cat([tokens.x[self.field] for tokens in crops], 1)
        kind = torch.arange(2, device=x.device).repeat_interleave(x.shape[1] // 2)
        grid = crops[0].grid
        assert grid is not None
        return Tokens({self.field: x}, crops[0].pos.repeat(1, 2, 1), kind=kind, grid=(2, *grid))

    def boxes(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Two crops of each image: (B, 4) top, left, height, width, as shares of its sides."""
        u = keyed.uniform(key, 6, salt=41)
        one = torch.ones_like(u[:, :1])
        whole = torch.cat([0 * one, 0 * one, one, one], 1)
        first = self._within(whole, u[:, :3], self.outer)
        return first, self._within(first if self.nested else whole, u[:, 3:], self.inner)

    @staticmethod
    def _within(box: Tensor, u: Tensor, area: tuple[float, ...]) -> Tensor:
        """A box of the same shape within another one, of a share of its area."""
        side = (area[0] + u[:, 2:] * (area[1] - area[0])).sqrt()
        return torch.cat([box[:, :2] + u[:, :2] * (1 - side) * box[:, 2:], side * box[:, 2:]], 1)


def crop(values: Tensor, box: Tensor) -> Tensor:
    """Values (B, C, H, W) within boxes (B, 4) of top, left, height, width, enlarged to H x W by bilinear interpolation:
    (B, C, H, W) float32."""
    size, corner = box[:, 2:], box[:, :2]
    centre = 2 * corner + size - 1  # in coordinates from -1 to 1
    zero = torch.zeros_like(size[:, 0])
    across = torch.stack([size[:, 1], zero, centre[:, 1]], 1)
    down = torch.stack([zero, size[:, 0], centre[:, 0]], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(values.shape), align_corners=False)
    return F.grid_sample(values.float(), grid, padding_mode="border", align_corners=False)


class SecondView(Scored):
    """The first view is shown, nearly all of the second is hidden (CropMAE, arXiv:2403.17823, section 3.3).

    Args:
        ratio, ask: see `Scored`; of the second view.
        fewest: tokens of it that stay visible, whatever the ratio.
    """

    def __init__(self, model: Model, *, ratio: float = 0.985, fewest: int = 2, ask: float | None = 1.0):
        super().__init__(model, ratio=ratio, ask=ask)
        self.fewest = fewest

    def visible(self, tokens: Tokens) -> int:
        n = tokens.shape[1] // 2
        return n + min(n - 1, max(self.fewest, int(n * (1.0 - self.ratio) + 1e-4)))

    def score(self, step: Step, model: Model) -> Tensor:
        kind = step.tokens.kinds
        if kind is None:
            raise RecipeError("a mask of the second view needs two: use tokenizer=P(Crops)")
        return keyed.uniform(step.sample["key"], step.tokens.shape[1]) + kind


class CrossView(Part):
    """A transformer over the second view, codes where it is visible and mask tokens where it is asked for, that reads
    the codes of the first by cross-attention (SiamMAE, arXiv:2305.14344, section 3.3; CropMAE).

    Args:
        width, depth, heads: None = the decoder's of the size.
    """

    def __init__(self, model: Model, *, width: int | None = None, depth: int | None = None, heads: int | None = None):
        super().__init__(model)
        size, code = model.size, model.encoder.width
        width, depth, heads = width or size.decoder_width, depth or size.decoder_depth, heads or size.decoder_heads
        self.embed, self.token, self.positions = Linear(code, width), mask_token(width), model.positions(width)
        self.blocks = nn.ModuleList(
            CrossBlock(width, heads, context_width=code, self_attention=True) for _ in range(depth)
        )
        self.norm = LayerNorm(width)
        init_weights(self.embed)
        init_weights(self.blocks)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask = step.latent, step.mask
        if latent.kind is None or mask.keep is None or mask.ask is None:
            raise RecipeError(
                "this decoder reads one view to predict another that is mostly hidden: use mask=P(SecondView)"
            )
        n = step.tokens.shape[1] // 2  # the first view is kept whole, and first
        place = self.positions(step.tokens)  # 1 2N W
        seen = self.embed(latent.x[:, n:])
        seen = seen + take(place, mask.keep[:, n:]).to(seen.dtype)
        asked = (self.token + take(place, mask.ask)).to(seen.dtype)
        x = torch.cat([seen, asked], 1)
        for block in self.blocks:
            x = block(x, latent.x[:, :n])
        return self.heads(self.norm(x[:, seen.shape[1] :]))

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}, "positions": {"weight_decay": 0.0}}
