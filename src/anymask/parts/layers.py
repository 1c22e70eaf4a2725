"""Transformer layers: everything a masked encoder or decoder is stacked from. torch only.

Attribute names are timm's (`norm1`, `attn.qkv`, `mlp.fc1`, ...), so that its ViT weights load without a rename.

    Linear, LayerNorm            drop-in replacements of torch's, same parameters; Linear is in linear.py
    split_heads, merge_heads     what a fused projection holds
    attend                       softmax attention that stays finite when a row has nothing to attend to
    Attention, CrossAttention    fused projections around `attend`
    Mlp, LayerScale, DropPath
    Block, CrossBlock            pre-norm residual blocks
    PostBlock                    post-norm, as BERT's
    init_weights                 the initialisation of MAE (He et al., arXiv:2111.06377)

Masks are positive everywhere: `ok` is True where a token is real and may be attended to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.parts.linear import Linear, linear

__all__ = [
    "Attention",
    "Block",
    "CrossAttention",
    "CrossBlock",
    "DropPath",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "Mlp",
    "PostBlock",
    "attend",
    "init_weights",
    "linear",
    "merge_heads",
    "split_heads",
]

# Largest CPU attention that materialises its probabilities, in scores; beyond it memory matters more than speed.
_MAX_SCORES = 2**26
_FEWEST, _MOST = 33, 128  # keys of unmasked float32 attention that is faster step by step

class LayerNorm(nn.LayerNorm):
    """Layer normalisation with float32 statistics that returns its input's dtype: (..., D) -> (..., D).

    The parameters stay float32 for bfloat16 inputs.
    """

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__(width, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" or input.dtype == self.weight.dtype:
            # The CPU kernel takes bfloat16 inputs with float32 parameters and accumulates in float32.
            return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps).to(input.dtype)
        out = F.layer_norm(input.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return out.to(input.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention: q (B, H, Nq, d), k and v (B, H, Nk, d) -> (B, H, Nq, d).

    mask: None, (B, Nk) or (B, Nq, Nk), boolean, True where a key may be attended to. A query that may attend to
    nothing gets zeros, and passes no gradient.
    """
    ok = some = None
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"attention mask must be boolean (True = may be attended to), not {mask.dtype}")
        ok = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]  # B 1 (1|Nq) Nk
        some = ok.any(dim=-1, keepdim=True)  # B 1 (1|Nq) 1
        ok = ok | ~some  # a softmax over nothing is NaN: let it be over everything, zero it below
    if _materialise(q, k, masked=ok is not None):
        out = _attend_in_steps(q, k, v, ok, dropout)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=ok, dropout_p=dropout)
    return out if some is None else out * some.to(out.dtype)


def _materialise(q: Tensor, k: Tensor, *, masked: bool) -> bool:
    """Whether products and softmax one by one beat torch's fused CPU kernel, forward and backward.

    They do in bfloat16, where the fused backward pass is 2 to 10 times slower. In float32 the fused kernel takes half
    of the time for up to 16 keys and two thirds for masked scores, and as much or more for some tens of keys.
    """
    if q.device.type != "cpu" or q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] > _MAX_SCORES:
        return False
    if q.dtype == torch.bfloat16:
        return True
    # A compiled graph does not ask, so that it serves all lengths.
    return not masked and not torch.compiler.is_compiling() and _FEWEST <= k.shape[2] <= _MOST


def _attend_in_steps(q: Tensor, k: Tensor, v: Tensor, ok: Tensor | None, dropout: float) -> Tensor:
    # Batched products copy operands that are not contiguous; scaling q is such a copy already.
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))  # B H Nq Nk
    if ok is not None:
        scores = scores.masked_fill(~ok, -torch.inf)
    probs = scores.softmax(-1)
    return torch.matmul(F.dropout(probs, dropout) if dropout else probs, v)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, N, parts * D) -> `parts` tensors (B, heads, N, D / heads), all views."""
    B, N, _ = x.shape
    return x.view(B, N, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")


class Attention(nn.Module):
    """Multi-head self-attention with one `qkv` projection of shape (3D, D), as in timm."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        _check_heads(width, heads)
        self.heads = heads
        self.dropout = dropout
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.proj = Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        queries: slice | None = None,
    ) -> Tensor:
        """x (B, N, D) -> (B, N, D), or (B, M, D) for the M tokens that `queries` selects.

        mask: (B, N) or (B, N, N), True where a token may be attended to; with `context` (B, C, D), keys and values
        come from it and the mask is (B, C) or (B, N, C). `queries` always selects rows of the mask together with
        the tokens.
        """
        some = isinstance(queries, slice)  # `is None` would fix the slice's length in a compiled graph
        if context is None and not some:
            q, k, v = split_heads(self.qkv(x), 3, self.heads)
        else:
            D = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            kv = linear(x if context is None else context, weight[D:], None if bias is None else bias[D:])
            k, v = split_heads(kv, 2, self.heads)
            if some:
                x = x[:, queries]
                mask = mask[:, queries] if mask is not None and mask.dim() == 3 else mask
            (q,) = split_heads(linear(x, weight[:D], None if bias is None else bias[:D]), 1, self.heads)
        return self.proj(merge_heads(attend(q, k, v, mask, self.dropout if self.training else 0.0)))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to a context of another width: `q` (D, D), `kv` (2D, C), `proj` (D, D)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_heads(width, heads)
        self.heads = heads
        self.dropout = dropout
        self.q = Linear(width, width, bias=qkv_bias)
        self.kv = Linear(context_width or width, 2 * width, bias=qkv_bias)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, D), context (B, M, C), mask (B, M) or (B, N, M), True = may be attended to -> (B, N, D)."""
        (q,) = split_heads(self.q(x), 1, self.heads)
        k, v = split_heads(self.kv(context), 2, self.heads)
        return self.proj(merge_heads(attend(q, k, v, mask, self.dropout if self.training else 0.0)))


class Mlp(nn.Module):
    """Two linear layers around an activation (default: exact, erf-based GELU): (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden: int, *, act: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = nn.GELU() if act is None else act
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """Learned scale per channel, started small (Touvron et al., arXiv:2103.17239): (..., D) -> (..., D)."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.to(x.dtype)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv:1603.09382): zeroes whole samples of a residual branch in training.

    The surviving samples are divided by the survival rate, so that the expectation stays.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop_path is a probability below 1, not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1.0 - self.rate)
        return x * keep.div_(1.0 - self.rate)


def _branch_end(width: int, layer_scale: float | None) -> nn.Module:
    return nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)


class Block(nn.Module):
    """Pre-norm transformer block: x + attn(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, qkv_bias=qkv_bias)
        self.ls1 = _branch_end(width, layer_scale)
        self.norm2 = LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.ls2 = _branch_end(width, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None = None, queries: slice | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D); with `queries`, only the outputs of the tokens that it selects.

        Equal to slicing the full output, without computing the rest: for a decoder's last block.
        """
        y = self.attn(self.norm1(x), mask, queries=queries)
        x = x[:, queries] if isinstance(queries, slice) else x
        x = x + self.drop_path(self.ls1(y))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class PostBlock(nn.Module):
    """Post-norm transformer block (Vaswani et al. 2017, arXiv:1706.03762; BERT): norm1(x + attn(x)), then
    norm2(x + mlp(x))."""

    def __init__(
        self, width: int, heads: int, *, mlp_ratio: float = 4.0, dropout: float = 0.0, norm_eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout=dropout)
        self.norm1 = LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.norm2 = LayerNorm(width, eps=norm_eps)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D); mask and context (B, C, D) as in `Attention`."""
        x = self.norm1(x + self.drop(self.attn(x, mask, context)))
        return self.norm2(x + self.drop(self.mlp(x)))


class CrossBlock(nn.Module):
    """Pre-norm block that reads a context: optional self-attention, cross-attention, MLP.

    The context is read as it is: normalise it once before the blocks, not once in each. Used by CrossMAE
    (arXiv:2401.14391) without, by a classical decoder with `self_attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        self_attention: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if self_attention:
            self.norm0 = LayerNorm(width, eps=norm_eps)
            self.attn = Attention(width, heads, qkv_bias=qkv_bias)
            self.ls0 = _branch_end(width, layer_scale)
        self.self_attention = self_attention
        self.norm1 = LayerNorm(width, eps=norm_eps)
        self.cross = CrossAttention(width, heads, context_width=context_width, qkv_bias=qkv_bias)
        self.ls1 = _branch_end(width, layer_scale)
        self.norm2 = LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.ls2 = _branch_end(width, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, context: Tensor, mask: Tensor | None = None, self_mask: Tensor | None = None
    ) -> Tensor:
        """x (B, N, D), context (B, M, C), mask (B, M) or (B, N, M) of the context, self_mask (B, N) -> (B, N, D)."""
        if self.self_attention:
            x = x + self.drop_path(self.ls0(self.attn(self.norm0(x), self_mask)))
        x = x + self.drop_path(self.ls1(self.cross(self.norm1(x), context, mask)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def init_weights(module: nn.Module) -> None:
    """Initialise a module and everything in it as MAE does: linear weights Xavier uniform, biases 0, norms 1 and 0.

    `qkv` and `kv` count as one matrix each. Other parameters are left alone.
    """
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.LayerNorm):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
