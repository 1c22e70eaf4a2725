"""Linear layers that use the faster of the two matrix libraries in torch's CPU build.

torch sends float32 matrix products to MKL and convolutions to oneDNN. MKL runs AVX2 code on processors that are not
Intel's; oneDNN asks the processor what it can do, and with AVX-512 is about twice as fast there. A linear layer is a
1x1 convolution over an image whose pixels are the rows, channels last, so going through `conv2d` costs no copy and
stays in public API. The arithmetic is the same: float32 is float32, bfloat16 accumulates in float32.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Linear", "linear"]


def _conv_is_faster() -> frozenset[torch.dtype]:
    """Types in which convolutions beat `F.linear` on this machine.

    Follows from the kind of processor alone, never from a measurement, so that equal runs stay equal.
    """
    if not torch.backends.mkldnn.is_available() or platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    try:
        cpu = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return frozenset()  # not Linux: nothing was measured
    if "GenuineIntel" in cpu or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return frozenset()
    return frozenset({torch.float32, torch.bfloat16} if "avx512_bf16" in cpu else {torch.float32})


CONV_IS_FASTER = _conv_is_faster()
_MIN_WEIGHT = 64 * 64
_MIN_PRODUCTS = 2**25  # multiplications; below, the fixed cost of a convolution outweighs its faster kernel


def _image(x: Tensor) -> Tensor:
    """(..., K) -> (1, K, 1, R), K innermost in memory: a view if x is contiguous.

    One pixel high, not wide: oneDNN's weight gradient is up to 1.5 times slower for an image that is one pixel wide.
    """
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


def _rows(image: Tensor) -> Tensor:
    """(1, M, 1, R) -> (R, M)"""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


class _Bf16Linear(torch.autograd.Function):
    """Autocast's linear layer: float32 parameters, bfloat16 products.

    Output and input gradient are convolutions; the weight gradient is a matrix product, which torch sends to oneDNN
    for this type, and which is faster there than the convolution's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, w = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rows, w)
        ctx.x, ctx.dtypes = x.shape, (x.dtype, weight.dtype)
        out = F.conv2d(_image(rows), w[:, :, None, None], None if bias is None else bias.bfloat16())
        return _rows(out).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, w = ctx.saved_tensors
        of_x, of_weight = ctx.dtypes
        g = grad.reshape(-1, w.shape[0])
        gx = gw = gb = None
        if ctx.needs_input_grad[0]:
            gx, _, _ = torch.ops.aten.convolution_backward(
                _image(g), _image(rows), w[:, :, None, None], None,
                [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False],
            )  # fmt: skip
            gx = _rows(gx).view(ctx.x).to(of_x)
        if ctx.needs_input_grad[1]:
            gw = (g.t() @ rows).to(of_weight)
        if ctx.needs_input_grad[2]:
            gb = g.sum(0).to(of_weight)
        return gx, gw, gb


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` over the last axis: x (..., K), weight (M, K), bias (M,) -> (..., M).

    As `F.linear`, autocast included; under bfloat16 autocast on such a CPU it can be differentiated once only.
    """
    kernel = _kernel(x, weight)
    if kernel is None:
        return F.linear(x, weight, bias)
    if kernel is torch.bfloat16:
        return _Bf16Linear.apply(x, weight, bias)
    out = F.conv2d(_image(x), weight[:, :, None, None], bias)
    return _rows(out).view(*x.shape[:-1], weight.shape[0])


def _kernel(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Type in which this layer runs as a convolution; None = as `F.linear`."""
    if x.device.type != "cpu" or weight.dtype != torch.float32 or weight.numel() < _MIN_WEIGHT or x.numel() == 0:
        return None
    # A compiled graph does not ask these two, so that it serves all lengths. With one thread, torch runs a 1x1
    # convolution of one image without oneDNN.
    small = not torch.compiler.is_compiling() and x.numel() * weight.shape[0] < _MIN_PRODUCTS
    if small or (not torch.compiler.is_compiling() and torch.get_num_threads() == 1):
        return None
    if torch.is_autocast_enabled("cpu"):
        if torch.compiler.is_compiling() or torch.get_autocast_dtype("cpu") is not torch.bfloat16:
            return None
        kernel = torch.bfloat16
    else:
        kernel = x.dtype
        if kernel is not torch.float32:
            return None
    return kernel if kernel in CONV_IS_FASTER and torch.backends.mkldnn.enabled else None


class Linear(nn.Linear):
    """`nn.Linear` through `linear`: (..., in_features) -> (..., out_features). Same parameters and state_dict."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
