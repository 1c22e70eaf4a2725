# ruff: noqa: E501
"""The engine's fitness for its future: toy versions of the systems that pull hardest at it, each at most 25 lines, on
random data. None may need a change in engine.py. Each trains a few steps and shows the one thing that makes it hard.
"""

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anymask import keyed
from anymask.engine import (
    Head,
    Latent,
    Mask,
    Part,
    Seen,
    Step,
    Tokens,
    everything,
    per_valid,
    scatter,
    split,
    take,
)  # fmt: skip
from anymask.parts.corruptions import Drop, Replace
from anymask.parts.decoders import Cross, LinearHead, Transformer
from anymask.parts.encoders import ViT, within_kind
from anymask.parts.layers import Linear
from anymask.parts.losses import cross_entropy, l1, mse
from anymask.parts.masks import Random
from anymask.parts.positions import SinCos
from anymask.parts.stems import Embed
from anymask.parts.targets import Pixels
from anymask.recipe import FromStage, P, Recipe, Size

B, N, D, CLASSES = 4, 12, 6, 7
SIZE = Size(16, 2, 2, 16, 2, 2)


class Toy(Part):
    """Random content of fixed streams; a stream of negative width holds integers."""

    pitch = (1.0,)

    def __init__(self, model, *, streams, grid=None):
        super().__init__(model)
        self.streams, self.grid, self.kinds = streams, grid, len(streams)

    def forward(self, sample):
        x = {name: sample[name] for name in self.streams}
        counts = [v.shape[1] for v in x.values()]
        kind = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        pos = torch.cat([torch.arange(n) for n in counts]).float()[None, :, None] + 0.5
        return Tokens(x, pos, sample.get("valid"), kind if len(x) > 1 else None, self.grid)


def values(b=B, n=N, d=D, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def codes(b=B, n=N, seed=0):
    return torch.randint(0, CLASSES, (b, n), generator=torch.Generator().manual_seed(seed))


def batch(**fields):
    b = len(next(iter(fields.values())))
    return fields | {"key": keyed.keys(0, 0, torch.arange(b))}


def mae(streams=None, **stages):
    base = dict(
        tokenizer=P(Toy, streams=streams or {"x": D}), mask=P(Random, ratio=0.5), corruption=P(Drop), stem=P(Embed),
        positions=P(SinCos), encoder=P(ViT), decoder=P(Transformer), target=P(Pixels, normalise=False), loss=mse,
    )  # fmt: skip
    return Recipe(stages=base).but(**stages)


def train(recipe, sample, steps=3, lr=1e-3, **build):
    """The model after a few steps, and its last step; every trainable parameter had a gradient."""
    torch.manual_seed(0)
    model = recipe.build(SimpleNamespace(fields={}), SIZE, **build)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for i in range(steps):
        step = model({**sample, "key": keyed.fold(sample["key"], i)})
        optimiser.zero_grad()
        step.loss.backward()
        optimiser.step()
        for part in model.parts():
            part.after_step(model, i / steps)
        losses.append(step.loss.item())
    assert torch.isfinite(torch.tensor(losses)).all()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    with torch.no_grad():  # again with the final weights, so that tests may compare with it
        again = model.predict(step._replace(aux={}))
        return model, step._replace(seen=again.seen, latent=again.latent, pred=again.pred)


def stay_equal_without_hidden(model, step, scramble):
    """Predictions are bit-equal when `scramble(tokens, hidden)` changes hidden content and the mask stays."""
    with torch.no_grad():
        model.eval()
        before = model.predict(step._replace(aux={})).pred
        after = model.predict(step._replace(tokens=scramble(step.tokens, ~step.mask.visible), aux={})).pred
    assert all(torch.equal(before[head], after[head]) for head in before)


# --- multimae: three streams of different width and type, three heads and losses, a joint budget of visible tokens


class Dirichlet(Random):
    def score(self, step, model):  # the share of each kind of the visible tokens is Dirichlet(1)
        key, kind = step.sample["key"], step.tokens.kind
        shares = -torch.log1p(-keyed.uniform(key, int(kind.max()) + 1, salt=1))  # exponential, as good as normalised
        noise = keyed.uniform(key, len(kind))
        rank = ((noise[:, :, None] > noise[:, None]) & (kind[:, None] == kind)).sum(-1)
        return (rank + 0.5) / shares[:, kind]


class Streams(Part):
    def __init__(self, model):
        super().__init__(model)
        self.heads = {s: Head(abs(d), kinds=(k,)) for k, (s, d) in enumerate(model.tokenizer.streams.items())}

    def forward(self, step, model):
        return {s: take(self.spread(step.tokens, s), step.mask.ask, step.mask.ask_of) for s in self.heads}

    def spread(self, tokens, stream):  # a stream at its places among all tokens, zeros elsewhere
        parts = [v if s == stream else torch.zeros_like(tokens.x[stream][:, :1]).expand(-1, v.shape[1], *tokens.x[stream].shape[2:])
                 for s, v in tokens.x.items()]  # fmt: skip
        return torch.cat(parts, 1)


def test_multimae():
    streams = {"rgb": D, "depth": 2, "classes": -CLASSES}
    losses = {"rgb": mse, "depth": l1, "classes": cross_entropy}
    recipe = mae(streams, mask=P(Dirichlet, ratio=5 / 6), target=P(Streams), loss=losses)
    _, step = train(recipe, batch(rgb=values(), depth=values(d=2), classes=codes()))
    assert step.mask.visible.sum(1).tolist() == [N // 2] * B  # one budget for all three
    assert {h: e.shape for h, e in step.error.items()} == dict.fromkeys(streams, (B, 3 * N - N // 2))
    per_kind = step.mask.visible.unflatten(1, (3, N)).sum(2)
    assert per_kind.float().std(0).max() > 0.5  # divided differently in each sample


# --- labrador: an unordered bag of (code, value) pairs with missing ones; two heads on one token


class CodeValue(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.code, self.value = nn.Embedding(CLASSES, width), nn.Linear(1, width)

    def forward(self, x):
        return self.code(x[..., 0].long()) + self.value(x[..., 1:])


class LabStem(Embed):
    def __init__(self, model):
        super().__init__(model, positions=False)
        self.embed["lab"] = CodeValue(model.size.width)


class CodeAndValue(Part):
    heads = {"code": Head(CLASSES), "value": Head(1, weight=2.0)}

    def forward(self, step, model):
        lab = take(step.tokens.x["lab"], step.mask.ask)
        return {"code": lab[..., 0].long(), "value": lab[..., 1:]}


def test_labrador():
    lab = torch.cat([codes()[..., None].float(), values(d=1)], -1)
    valid = torch.arange(N) < torch.tensor([12, 7, 5, 1])[:, None]
    recipe = mae({"lab": 2}, stem=P(LabStem), corruption=P(Replace), decoder=P(LinearHead), target=P(CodeAndValue),
                 loss={"code": cross_entropy, "value": mse})  # fmt: skip
    model, step = train(recipe, batch(lab=lab, valid=valid))
    assert not (step.mask.visible & ~valid).any() and (step.mask.ask_ok.sum(1) == (valid.sum(1) - step.mask.visible.sum(1))).all()
    order = torch.randperm(7)  # a bag: order changes nothing, nor does padding
    one = {"lab": lab[1:2, :7], "key": step.sample["key"][1:2]}
    shuffled = one | {"lab": one["lab"][:, order]}
    padded = model.embed(batch(lab=lab, valid=valid)).mean()[1:2]
    torch.testing.assert_close(model.embed(one).mean(), padded)
    torch.testing.assert_close(model.embed(shuffled).mean(), padded)


# --- data2vec 2: one pass of an EMA teacher for K masks of each sample


class Repeated(Random):
    masks = 3

    def forward(self, step, model):
        of = torch.arange(len(step.sample["key"])).repeat_interleave(self.masks)
        key = keyed.fold(step.sample["key"][of], torch.arange(len(of)) % self.masks)
        return split(keyed.uniform(key, step.tokens.shape[1]), 0.5, keep_of=of, ask_of=of)


class Teacher(Part):
    def __init__(self, model):
        super().__init__(model)
        self.heads, self.passes = {"codes": Head(model.size.width)}, 0

    def attach(self, model):
        self.stem, self.encoder = copy.deepcopy(model.stem), copy.deepcopy(model.encoder)
        self.requires_grad_(False)

    def after_step(self, model, progress):
        for mine, its in zip(self.parameters(), [*model.stem.parameters(), *model.encoder.parameters()]):
            mine.lerp_(its.detach(), 0.1)

    @torch.no_grad()
    def forward(self, step, model):
        whole = step._replace(mask=everything(step.tokens))
        latent = self.encoder(whole._replace(seen=self.stem(whole)), model)
        self.passes += len(latent.x)
        layers = [F.layer_norm(layer[:, 1:], layer.shape[-1:]) for layer in latent.layers[1:]]
        return {"codes": take(torch.stack(layers).mean(0), step.mask.ask, step.mask.ask_of)}


def test_data2vec_2():
    model, step = train(mae(mask=P(Repeated), encoder={"layers": True}, target=P(Teacher)), batch(x=values()))
    assert len(step.latent.x) == 3 * B and model.target.passes == 3 * B  # 3 steps, one pass of B samples each
    assert not torch.equal(step.mask.keep[0], step.mask.keep[1])
    assert not torch.equal(model.target.stem.embed["x"].weight, model.stem.embed["x"].weight)
    torch.testing.assert_close(step.goal["codes"].mean(-1), torch.zeros(3 * B, N // 2), atol=1e-5, rtol=0)
    stay_equal_without_hidden(model, step, lambda t, hidden: t._replace(x={"x": t.x["x"] + 9 * hidden.unflatten(0, (B, 3)).all(1)[..., None]}))


# --- adamae: a network that draws the mask, trained by the error that its choice leaves


class Policy(Random):
    def __init__(self, model, *, ratio):
        super().__init__(model, ratio=ratio)
        self.net = nn.Sequential(Linear(D, 8), nn.Tanh(), Linear(8, 1))

    def forward(self, step, model):
        logp = self.net(step.tokens.x["x"]).squeeze(-1).log_softmax(1)
        gumbel = -torch.log(-torch.log(keyed.uniform(step.sample["key"], N).clamp(1e-6, 1 - 1e-6)))
        return split(-(logp + gumbel), 1 - self.ratio, logp=logp)


class Reinforce(Part):
    def forward(self, step, model):
        logp = take(step.mask.logp[..., None], step.mask.ask).squeeze(-1)
        return {"policy": -(logp * step.error["pixels"].detach()).mean()}


def test_adamae():
    recipe = mae(mask=P(Policy, ratio=0.75), extras=(P(Reinforce),))
    x = values() * torch.where(torch.arange(N) < 3, 3.0, 0.1)[:, None]  # three tokens carry nearly all
    model, _ = train(recipe, batch(x=x), steps=150, lr=5e-3)
    chosen = model.mask.net(x).squeeze(-1).softmax(1)
    assert chosen[:, :3].mean() > 2 * chosen[:, 3:].mean()  # the policy looks where the error is


# --- spark: a convolutional hierarchy that never mixes holes in, and a decoder over all its scales


class Raw(Part):
    def forward(self, step, content=None, fill=None):
        return Seen(take(step.tokens.x["x"], step.mask.keep), take(step.tokens.pos, step.mask.keep), step.mask.keep_ok)


class Sparse(Part):
    def __init__(self, model):  # tokens are 2x2 patches of a grid of 3x4, in the order of the rows of a patch
        super().__init__(model)
        self.width, self.fine, self.coarse = 16, nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 2, stride=2)

    def forward(self, step, model):
        on = step.mask.visible.unflatten(1, (3, 4))[:, None].float()
        image = scatter(step.seen.x, step.mask, torch.zeros(4)).unflatten(1, (3, 4)).unflatten(3, (2, 2)).permute(0, 1, 3, 2, 4)
        wide = on.repeat_interleave(2, 2).repeat_interleave(2, 3)
        fine = F.relu(self.fine(image.flatten(3).flatten(1, 2)[:, None])) * wide
        coarse = self.coarse(fine) * on
        return Latent(take(coarse.flatten(2).transpose(1, 2), step.mask.keep), step.seen.pos, step.seen.ok, maps=(fine, coarse))


class UNet(Part):
    def __init__(self, model):
        super().__init__(model)
        self.fill = nn.ParameterList([torch.randn(8, 1, 1), torch.randn(16, 1, 1)])
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(8, 4, 2, stride=2)

    def forward(self, step, model):
        on = step.mask.visible.unflatten(1, step.tokens.grid)[:, None]
        fine, coarse = step.latent.maps
        coarse = torch.where(on, coarse, self.fill[1])
        fine = torch.where(F.interpolate(on.float(), scale_factor=2) > 0, fine, self.fill[0]) + self.up(coarse)
        return {"pixels": take(self.out(fine).flatten(2).transpose(1, 2), step.mask.ask)}


def test_spark():
    tokenizer = P(Toy, streams={"x": 4}, grid=(3, 4))
    model, step = train(mae(tokenizer=tokenizer, stem=P(Raw), encoder=P(Sparse), decoder=P(UNet)), batch(x=values(d=4)))
    fine, coarse = step.latent.maps
    holes = ~step.mask.visible.unflatten(1, (3, 4))[:, None]
    assert (coarse * holes == 0).all() and (fine * holes.repeat_interleave(2, 2).repeat_interleave(2, 3) == 0).all()
    stay_equal_without_hidden(model, step, lambda t, hidden: t._replace(x={"x": t.x["x"] + 9 * hidden[..., None]}))


# --- electra: a small generator fills the holes, the encoder tells its tokens from real ones


class Generator(Part):
    keep = 1.0

    def __init__(self, model):
        super().__init__(model)
        self.stem, self.token = Embed(model), nn.Parameter(torch.zeros(model.size.width))
        self.encoder, self.head = ViT(model, depth=1), Linear(model.size.width, CLASSES)

    def forward(self, step, model):
        logits = self.head(self.encoder.encode(self.stem(step, fill=self.token)).x)  # B N CLASSES
        real, hidden = step.tokens.x["ids"], ~step.mask.visible
        step.aux["generator"] = F.cross_entropy(logits[hidden], real[hidden])
        drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
        return model.stem(step, content={"ids": torch.where(hidden, drawn, real)})


class Replaced(Part):
    heads = {"replaced": Head(1, weight=50.0)}

    def forward(self, step, model):
        return {"replaced": (step.seen.content["ids"] != step.tokens.x["ids"]).float()[..., None]}


def binary(pred, goal):
    return F.binary_cross_entropy_with_logits(pred, goal, reduction="none").mean(-1)


def test_electra():
    recipe = mae({"ids": -CLASSES}, mask=P(Random, ratio=0.25, ask=None), corruption=P(Generator),
                 decoder=P(LinearHead), target=P(Replaced), loss=binary)  # fmt: skip
    _, step = train(recipe, batch(ids=codes()))
    assert step.error["replaced"].shape == (B, N)  # every token is scored
    assert (step.goal["replaced"][step.mask.visible] == 0).all() and step.aux["generator"] > 0


# --- mage: some hidden tokens are dropped, some replaced; the ratio varies; samples are drawn by unmasking step by step


class Varying(Random):
    def visible(self, tokens):
        return 1 - (0.5 + 0.5 * torch.rand(()).item())


class Ids(Part):
    heads = {"ids": Head(CLASSES)}

    def forward(self, step, model):
        return {"ids": take(step.tokens.x["ids"][..., None], step.mask.ask).squeeze(-1)}


@torch.no_grad()
def unmask(model, sample, rounds=4):
    tokens = model.tokenizer(sample)
    confidence = keyed.uniform(sample["key"], N)
    for known in range(0, N, N // rounds):
        mask = split(confidence, known, keep=0.5)
        logits = model.predict(Step(sample, tokens, mask)).pred["ids"]
        best = logits.softmax(-1).max(-1)
        ids = torch.where(mask.visible, tokens.x["ids"], 0).scatter(1, mask.ask, best.indices)
        confidence = torch.where(mask.visible, -torch.inf, 0.0).scatter(1, mask.ask, -best.values)
        tokens = tokens._replace(x={"ids": ids})
    return tokens.x["ids"]


def test_mage():
    recipe = mae({"ids": -CLASSES}, mask=P(Varying), corruption=P(Replace, keep=0.5), target=P(Ids), loss=cross_entropy)
    sample = batch(ids=torch.arange(N).remainder(CLASSES).expand(B, -1))  # one sequence, so that it can be learned
    model, step = train(recipe, sample, steps=120)
    assert step.mask.visible.sum(1)[0] < step.mask.keep.shape[1] < N
    drawn = unmask(model, sample | {"ids": torch.zeros_like(sample["ids"])})
    assert (drawn == sample["ids"]).float().mean() > 0.9


# --- graphmae: message passing over edges, hidden codes masked again before the decoder


class Nodes(Toy):
    def forward(self, sample):
        return super().forward(sample)._replace(edges=sample["edges"])


class Messages(Part):
    def __init__(self, model):
        super().__init__(model)
        self.width, self.linear = model.size.width, Linear(model.size.width, model.size.width)

    def gather(self, x, edges):  # the mean over a node's neighbours, added to itself
        source, goal = edges
        flat = x.flatten(0, 1)
        sums = torch.zeros_like(flat).index_add(0, goal, flat[source])
        degree = torch.zeros(len(flat)).index_add(0, goal, torch.ones(len(goal))).clamp(min=1)
        return self.linear(flat + sums / degree[:, None]).view_as(x)

    def forward(self, step, model):
        return Latent(self.gather(step.seen.x, step.tokens.edges).relu(), step.seen.pos, step.seen.ok)


class ReMasked(Messages):
    def __init__(self, model):
        super().__init__(model)
        self.again, self.head = nn.Parameter(torch.zeros(self.width)), Linear(self.width, D)

    def forward(self, step, model):
        x = torch.where(step.mask.visible[..., None], step.latent.x, self.again)
        return {"pixels": take(self.head(self.gather(x, step.tokens.edges)), step.mask.ask)}


def test_graphmae():
    edges = torch.cat([torch.stack([torch.arange(N - 1), torch.arange(1, N)]) + i * N for i in range(B)], 1)
    recipe = mae(tokenizer=P(Nodes, streams={"x": D}), stem=P(Embed, positions=False), corruption=P(Replace),
                 encoder=P(Messages), decoder=P(ReMasked))  # fmt: skip
    model, step = train(recipe, batch(x=values(), edges=edges) | {"key": keyed.keys(0, 0, torch.arange(B))})
    cut = model.predict(step._replace(tokens=step.tokens._replace(edges=edges[:, :0]), aux={})).pred["pixels"]
    assert not torch.allclose(cut, step.pred["pixels"])  # edges carry messages
    stay_equal_without_hidden(model, step, lambda t, hidden: t._replace(x={"x": t.x["x"] + 9 * hidden[..., None]}))


# --- cropmae: two views, a Siamese encoder, the nearly hidden view decoded from the other one


class OneView(Random):
    def score(self, step, model):  # the first view is all visible, two tokens of the second are
        return super().score(step, model) + step.tokens.kind

    def visible(self, tokens):
        return N + 2


def test_cropmae():
    streams = {"first": D, "second": D}
    recipe = mae(streams, mask=P(OneView), encoder={"within": within_kind}, decoder=P(Cross, mix=False), target=P(Second))
    model, step = train(recipe, batch(first=values(), second=values(seed=1)))
    assert (take(step.tokens.kinds, step.mask.ask) == 1).all() and step.mask.ask.shape[1] == N - 2
    other = model.predict(step._replace(tokens=step.tokens._replace(x=step.tokens.x | {"second": values(seed=2)}), aux={}))
    first = step.mask.keep < N
    assert torch.equal(other.latent.x[first], step.latent.x[first])  # Siamese: a view's codes know nothing of the other
    moved = model.predict(step._replace(tokens=step.tokens._replace(x=step.tokens.x | {"first": values(seed=2)}), aux={}))
    assert not torch.allclose(moved.pred["second"], step.pred["second"])


class Second(Streams):
    def __init__(self, model):
        super().__init__(model)
        self.heads = {"second": self.heads["second"]}


# --- mixedae: an encoder row is made of two samples, each rebuilt from its own share of it


class Mixing(Part):
    def forward(self, step, model):
        b, n = step.tokens.shape
        mine = keyed.uniform(step.sample["key"][::2], n).argsort(1).argsort(1) % 2  # R N: 0 or 1, half each
        of = 2 * torch.arange(b // 2)[:, None] + mine
        lacks = torch.stack([1 - mine, mine], 1).flatten(0, 1)  # B N: 0 where the row lacks this sample
        ask = lacks.argsort(dim=1, stable=True)[:, : n // 2]
        place = torch.arange(n).expand(b // 2, -1)
        return Mask(torch.ones(b // 2, n, dtype=torch.bool), keep=place, keep_of=of, ask=ask, via=torch.arange(b) // 2)


def test_mixedae():
    _, step = train(mae(mask=P(Mixing)), batch(x=values()))
    assert step.latent.x.shape[:2] == (B // 2, N) and step.pred["pixels"].shape == (B, N // 2, D)
    for b in range(B):
        asked = set(step.mask.ask[b].tolist())
        kept = {n for n in range(N) if step.mask.keep_of[b // 2, n] == b}
        assert asked | kept == set(range(N)) and not asked & kept
    torch.testing.assert_close(step.goal["pixels"][3], step.tokens.x["x"][3, step.mask.ask[3]])


# --- beit v2: a first stage learns a tokenizer, the second predicts its codes


class Codes(Part):
    def __init__(self, model, *, tokenizer, count=5):
        super().__init__(model)
        self.tokenizer = tokenizer.requires_grad_(False)
        self.register_buffer("book", F.normalize(torch.randn(count, model.size.width), dim=-1))
        self.heads = {"codes": Head(count)}

    def forward(self, step, model):
        features = self.tokenizer.embed(step.sample).x
        nearest = (F.normalize(features, dim=-1) @ self.book.T).argmax(-1)
        return {"codes": take(nearest[..., None], step.mask.ask).squeeze(-1)}


def test_beit_v2():
    first = mae()
    second = mae(corruption=P(Replace), decoder=P(LinearHead), target=P(Codes, tokenizer=FromStage("first")),
                 loss=cross_entropy, stages=(first,))  # fmt: skip
    earlier, _ = train(first, batch(x=values()))
    before = copy.deepcopy(earlier.state_dict())
    model, step = train(second, batch(x=values()), earlier={"first": earlier})
    assert step.goal["codes"].max() < 5
    after = model.target.tokenizer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # the first stage stays as it was
    assert "target.tokenizer.encoder.norm.weight" in model.state_dict()  # and is saved with the second


# --- mdlm: a noise level for each row, a weighted loss that bounds the likelihood


class Diffusion(Part):
    def forward(self, step, model):
        key = step.sample["key"]
        t = keyed.uniform(key, 1, salt=1)[:, 0].clamp(min=0.05)  # log-linear schedule: hidden with probability t
        noise = 1 - keyed.uniform(key, step.tokens.shape[1])
        shown = (noise > t[:, None]).sum(1)
        return split(-noise, shown, keep=model.corruption.keep, t=t, weight=1 / t[:, None])


class Bound(Ids):
    heads = {"ids": Head(CLASSES, per=per_valid)}


def test_mdlm():
    recipe = mae({"ids": -CLASSES}, mask=P(Diffusion), corruption=P(Replace), decoder=P(LinearHead), target=P(Bound),
                 loss=cross_entropy)  # fmt: skip
    model, step = train(recipe, batch(ids=codes()))
    hidden = (~step.mask.visible).sum(1)
    assert hidden.unique().numel() > 1 and (step.mask.ask_ok.sum(1) == hidden).all()
    ok = step.mask.ask_ok
    by_hand = sum((step.error["ids"][b][ok[b]] / step.mask.t[b]).sum() for b in range(B)) / (B * N)
    torch.testing.assert_close(step.loss, by_hand)
    flat = torch.zeros(1000, N, CLASSES)  # a model that knows nothing pays log(classes) a token, in expectation
    many = batch(ids=codes(1000))
    even = Step(many, model.tokenizer(many), None)
    even = even._replace(mask=model.mask(even, model))
    asked = flat[:, : even.mask.ask.shape[1]]
    even = even._replace(pred={"ids": asked}, goal=model.target(even, model), aux={})
    bound = model.total(even._replace(error=model.errors(even)))
    assert bound.item() == pytest.approx(torch.tensor(float(CLASSES)).log().item(), rel=0.03)


def test_toys_are_short():
    """The parts of each toy together, without its test."""
    source = inspect.getsource(inspect.getmodule(test_toys_are_short))
    for toy in source.split("\n# --- ")[1:]:
        code, _, _ = toy.partition("\ndef test_")
        lines = [line for line in code.split("\n")[1:] if line.strip()]
        assert len(lines) <= 25, f"{toy.split(':')[0]} takes {len(lines)} lines"
