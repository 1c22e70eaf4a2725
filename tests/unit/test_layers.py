"""Layers against torch's own, with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anymask.parts import layers, linear
from anymask.parts.layers import (
    Attention,
    Block,
    CrossAttention,
    CrossBlock,
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    attend,
    init_weights,
)


def clear(x):
    return x.detach().clone().requires_grad_()


def gradients(module, x, g):
    """Output, and gradients of x and of the parameters."""
    x = clear(x)
    module.zero_grad()
    out = module(x)
    out.backward(g.to(out.dtype))
    return [out.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


def close(a, b, tolerance=1e-5):
    scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@pytest.fixture(params=[True, False], ids=["conv", "gemm"], autouse=True)
def kernels(request, monkeypatch):
    """Every test runs with convolutions and without, whatever this machine prefers."""
    both = frozenset({torch.float32, torch.bfloat16}) if torch.backends.mkldnn.is_available() else frozenset()
    monkeypatch.setattr(linear, "CONV_IS_FASTER", both if request.param else frozenset())
    return request.param


SHAPES = [
    ((5, 17, 192), 576, True),
    ((64, 65, 192), 768, True),
    ((200, 768), 192, True),
    ((1, 384), 1536, True),  # one row
    ((192,), 100, True),  # one vector
    ((3, 7, 129), 33, True),  # no multiple of anything
    ((2, 3, 5, 256), 64, False),
    ((0, 192), 64, True),  # no row
    ((4, 0, 192), 64, False),
    ((10, 3), 2, True),
]


@pytest.mark.parametrize("shape, out, bias", SHAPES)
def test_linear_is_torchs(shape, out, bias):
    torch.manual_seed(0)
    theirs = nn.Linear(shape[-1], out, bias=bias)
    ours = Linear(shape[-1], out, bias=bias)
    ours.load_state_dict(theirs.state_dict())
    x, g = torch.randn(shape), torch.randn(*shape[:-1], out)
    for a, b in zip(gradients(ours, x, g), gradients(theirs, x, g)):
        assert a.shape == b.shape and a.dtype == b.dtype
        close(a, b)


def test_linear_of_strided_input():
    torch.manual_seed(0)
    ours = Linear(96, 64)
    wide = torch.randn(4, 96, 20, 2)
    views = [wide[..., 0].transpose(1, 2), wide[:, :, 3, 0], torch.randn(1, 96).expand(7, 96)]
    for x in views:
        assert not x.is_contiguous()
        g = torch.randn(*x.shape[:-1], 64)
        for a, b in zip(gradients(ours, x, g), gradients(ours, x.contiguous(), g)):
            close(a, b)
        close(ours(x), F.linear(x, ours.weight, ours.bias))


def test_linear_is_true_float32_and_repeats():
    torch.manual_seed(0)
    ours, x = Linear(768, 192), torch.randn(1000, 768)
    exact = x.double() @ ours.weight.double().T + ours.bias.double()
    assert (ours(x) - exact).abs().max() < 1e-5
    g = torch.randn(1000, 192)
    first, second = gradients(ours, x, g), gradients(ours, x, g)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_linear_in_other_types():
    ours = Linear(96, 64)
    assert ours.double()(torch.randn(3, 96).double()).dtype == torch.float64
    assert ours.bfloat16()(torch.randn(3, 96).bfloat16()).dtype == torch.bfloat16


def test_linear_second_derivative():
    ours, x = Linear(96, 64), torch.randn(3, 96, requires_grad=True)
    (g,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    g.square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_under_autocast(dtype):
    torch.manual_seed(0)
    theirs, ours = nn.Linear(192, 576), Linear(192, 576)
    ours.load_state_dict(theirs.state_dict())
    x, g = torch.randn(5, 17, 192, dtype=dtype), torch.randn(5, 17, 576)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = gradients(ours, x, g), gradients(theirs, x, g)
    assert [t.dtype for t in a] == [t.dtype for t in b] == [torch.bfloat16, dtype, torch.float32, torch.float32]
    for one, other in zip(a, b):
        close(one.float(), other.float(), 1e-2)


def test_frozen_linear_gets_no_gradient():
    ours, x = Linear(96, 64).requires_grad_(False), torch.randn(3, 96, requires_grad=True)
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            ours(x).sum().backward()
    assert ours.weight.grad is None and x.grad is not None


def torchs_attention(ours, width, heads):
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    if isinstance(ours, CrossAttention):
        weight, bias = torch.cat([ours.q.weight, ours.kv.weight]), torch.cat([ours.q.bias, ours.kv.bias])
    else:
        weight, bias = ours.qkv.weight, ours.qkv.bias
    theirs.in_proj_weight.data.copy_(weight)
    theirs.in_proj_bias.data.copy_(bias)
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    return theirs


@pytest.mark.parametrize("n", [1, 17, 150])  # short: step by step; long: torch's fused kernel
def test_self_attention_is_torchs(n):
    torch.manual_seed(0)
    ours = Attention(96, 3)
    nn.init.normal_(ours.qkv.bias)
    theirs = torchs_attention(ours, 96, 3)
    x, g = torch.randn(4, n, 96), torch.randn(4, n, 96)
    ok = torch.rand(4, n) < 0.7
    ok[:, 0] = True
    pairs = torch.rand(4, n, n) < 0.7
    pairs[:, :, 0] = True
    each_head = (~pairs).repeat_interleave(3, 0)
    for mask, hide in [(None, {}), (ok, {"key_padding_mask": ~ok}), (pairs, {"attn_mask": each_head})]:
        a, b = clear(x), clear(x)
        (out := ours(a, mask)).backward(g)
        (expected := theirs(b, b, b, need_weights=False, **hide)[0]).backward(g)
        close(out, expected)
        close(a.grad, b.grad)


def test_cross_attention_is_torchs():
    torch.manual_seed(0)
    ours = CrossAttention(96, 3)
    theirs = torchs_attention(ours, 96, 3)
    x, context, ok = torch.randn(2, 5, 96), torch.randn(2, 9, 96), torch.rand(2, 9) < 0.6
    ok[:, 0] = True
    close(ours(x, context), theirs(x, context, context)[0])
    close(ours(x, context, ok), theirs(x, context, context, key_padding_mask=~ok)[0])
    assert CrossAttention(96, 3, context_width=40)(x, torch.randn(2, 9, 40)).shape == x.shape


def test_self_attention_over_a_context_is_torchs():
    torch.manual_seed(0)
    ours, x, context = Attention(96, 3), torch.randn(2, 5, 96), torch.randn(2, 9, 96)
    theirs = torchs_attention(ours, 96, 3)
    close(ours(x, context=context), theirs(x, context, context)[0])
    close(ours(x, context=context, queries=slice(2)), theirs(x[:, :2], context, context)[0])


@pytest.mark.parametrize("n", [9, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_with_nothing_to_attend_to(n, dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    ok = torch.ones(3, n, dtype=torch.bool)
    ok[1] = False
    pairs = ok[:, None, :].repeat(1, n, 1)
    pairs[0, 4] = False
    for mask in (ok, pairs):
        out = attend(q, k, v, mask)
        out.float().square().sum().backward()
        assert out.isfinite().all() and (out[1] == 0).all() and (out[2] != 0).any()
        assert all(t.grad.isfinite().all() for t in (q, k, v))
        assert all((t.grad[1] == 0).all() for t in (q, k, v))
    assert (out[0, :, 4] == 0).all()


def test_attention_mask_must_be_boolean():
    q = torch.randn(1, 1, 3, 8)
    with pytest.raises(TypeError, match="boolean"):
        attend(q, q, q, torch.ones(1, 3))


@pytest.mark.parametrize("n", [9, 150])
def test_padding_changes_nothing(n):
    torch.manual_seed(0)
    block, cross = Block(96, 3), CrossBlock(96, 3, context_width=64, self_attention=True)
    x, context = torch.randn(2, n, 96), torch.randn(2, n, 64)
    ok = torch.ones(2, n + 6, dtype=torch.bool)
    ok[:, n:] = False
    noise = 100 * torch.randn(2, 6, 96)
    padded = torch.cat([x, noise], 1)
    close(block(padded, ok)[:, :n], block(x))
    close(cross(padded, torch.cat([context, noise[..., :64]], 1), ok, ok)[:, :n], cross(x, context))


@pytest.mark.parametrize("queries", [slice(-4, None), slice(2, 5), slice(0, 1), slice(None)])
@pytest.mark.parametrize("bias", [True, False])
def test_queries_slice_the_output(queries, bias):
    torch.manual_seed(0)
    block = Block(96, 3, qkv_bias=bias, layer_scale=0.1)
    x, pairs = torch.randn(2, 9, 96), torch.rand(2, 9, 9) < 0.7
    for mask in (None, pairs[:, 0], pairs):
        a, b = clear(x), clear(x)
        some, full = block(a, mask, queries=queries), block(b, mask)[:, queries]
        close(some, full)
        some.square().sum().backward()
        full.square().sum().backward()
        close(a.grad, b.grad)


def test_block_is_written_out():
    torch.manual_seed(0)
    block, x = Block(96, 3, layer_scale=0.5), torch.randn(2, 9, 96)
    y = x + 0.5 * block.attn(block.norm1(x))
    y = y + 0.5 * block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
    close(block(x), y)


def test_block_names_are_timms():
    names = set(Block(96, 3, layer_scale=1e-5).state_dict())
    linears = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
    assert names == {f"{m}.{p}" for m in linears for p in ("weight", "bias")} | {"ls1.gamma", "ls2.gamma"}


def test_bfloat16_stays_close_and_stays_bfloat16():
    torch.manual_seed(0)
    blocks = nn.ModuleList([Block(96, 3), Block(96, 3)])
    cross = CrossBlock(96, 3, self_attention=True)
    init_weights(blocks)
    x = torch.randn(4, 150, 96)
    ok = torch.rand(4, 150) < 0.9
    g = torch.randn(4, 150, 96)

    def run(z):
        for block in blocks:
            z = block(z, ok)
        return cross(z, z, ok)

    a, b = clear(x), clear(x.bfloat16())
    exact = run(a)
    exact.backward(g)
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(b)
    rough.backward(g.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() / exact.norm() < 0.02
    assert (b.grad.float() - a.grad).norm() / a.grad.norm() < 0.02


def test_layer_norm_keeps_the_type_and_accumulates_in_float32():
    torch.manual_seed(0)
    norm = LayerNorm(4096)
    x = (100 + torch.randn(8, 4096)).bfloat16()
    out = norm(x)
    assert out.dtype == torch.bfloat16
    close(out.float(), F.layer_norm(x.float(), (4096,), eps=1e-6), 2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16 and norm(x.float()).dtype == torch.float32


def test_drop_path():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 3, 2)
    out = drop(x)
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()  # whole samples
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(out.mean().item() - 1) < 0.03
    assert torch.equal(drop.eval()(x), x)
    with pytest.raises(ValueError, match="below 1"):
        DropPath(1.0)


def test_heads_must_divide_the_width():
    for make in (Attention, CrossAttention, Block):
        with pytest.raises(ValueError, match="multiple of heads"):
            make(96, 5)


def test_init_weights():
    block = Block(96, 3)
    init_weights(block)
    limit = (6 / (96 + 3 * 96)) ** 0.5
    assert 0.95 * limit < block.attn.qkv.weight.abs().max() <= limit
    assert (block.attn.qkv.bias == 0).all() and (block.norm1.weight == 1).all() and (block.norm1.bias == 0).all()


def test_long_attention_does_not_materialise():
    q = torch.empty(1, 1, 10_000, 1, dtype=torch.bfloat16)
    assert layers._materialise(q[:, :, :100], q[:, :, :100], masked=True)
    assert not layers._materialise(q, q, masked=False)


@pytest.mark.parametrize("keys", [9, 40, 200])
@pytest.mark.parametrize("masked", [False, True])
def test_both_ways_to_attend_agree(monkeypatch, keys, masked):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, keys, 8, requires_grad=True) for _ in range(3))
    ok = torch.rand(2, keys) < 0.7 if masked else None
    found = []
    for steps in (True, False):
        monkeypatch.setattr(layers, "_materialise", lambda q, k, masked, steps=steps: steps)
        out = layers.attend(q, k, v, ok)
        found.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.cross = Block(96, 3, drop_path=0.0), CrossBlock(96, 3, self_attention=True)
        self.mlp = Mlp(96, 192)

    def forward(self, x, ok):
        return self.mlp(self.cross(self.block(x, ok, queries=slice(-4, None)), x, ok))


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_to_one_graph(kernels, autocast):
    if not kernels:
        pytest.skip("slow, and nothing but F.linear is different")
    torch.manual_seed(0)
    torch._dynamo.reset()
    stack = Stack()
    compiled = torch.compile(stack, fullgraph=True, backend="aot_eager")
    for n in (9, 12):
        x, ok = torch.randn(2, n, 96), torch.rand(2, n) < 0.8
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            a, b = clear(x), clear(x)
            out, expected = compiled(a, ok), stack(b, ok)
        close(out.float(), expected.float(), 2e-2 if autocast else 1e-5)
        out.float().sum().backward()
        expected.float().sum().backward()
        close(a.grad, b.grad, 2e-2 if autocast else 1e-5)
