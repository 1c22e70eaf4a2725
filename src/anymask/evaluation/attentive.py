"""Attentive probe: one learned query that reads frozen tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.data import DataError, Schema, Source, ordered_loader
from anymask.engine import Model, Sample
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import encoder
from anymask.evaluation.probe import Scores
from anymask.run import Run
from anymask.train.planning import cropped

HEADS = 4
RATES = (1e-3, 1e-2)
DECAYS = (1e-2, 1.0)
FEWEST = 2  # labels a class from which on rate and decay are chosen; below, the first rate and the last decay hold
HELD = 0.2  # share of the labelled samples that they are chosen on
STEPS, EPOCHS, BATCH = 200, 10, 256  # at least so many steps and epochs


class AttentiveProbe(nn.Module):
    """One query for all classes, cross-attending over tokens, then layer normalisation and a linear layer.

    As in Chen et al. 2022 (Context Autoencoder, arXiv:2202.03026, section 4) and Bardes et al. 2024 (V-JEPA,
    arXiv:2404.08471), without the MLP of the latter. With a single query, query and key projection of a head are one
    direction, which scores the tokens; it begins at zero, so that the probe begins as mean pooling. Values are
    projected after they were averaged, which is the same and cheaper.

    Args:
        width: of a token. classes: how many. heads: of the attention.
    """

    def __init__(self, width: int, classes: int, *, heads: int = HEADS):
        super().__init__()
        self.directions = nn.Parameter(torch.zeros(width, heads))
        self.values = nn.Parameter(torch.empty(heads, width, -(-width // heads)))
        nn.init.normal_(self.values, std=width**-0.5)
        self.norm = nn.LayerNorm(heads * self.values.shape[2])
        self.head = nn.Linear(heads * self.values.shape[2], classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, ok: Tensor) -> Tensor:
        """(B, classes) logits from tokens x (B, K, D), of which those count where `ok` (B, K)."""
        share = (x @ self.directions).masked_fill(~ok[..., None], -torch.inf).softmax(1)  # B K H
        read = torch.einsum("bkh,bkd->bhd", share, x)
        return self.head(self.norm(torch.einsum("bhd,hdv->bhv", read, self.values).flatten(1)))


def attentive_probe(
    train_x: Tensor,
    train_y: np.ndarray,
    test_x: Tensor,
    test_y: np.ndarray,
    *,
    reference: Tensor | None = None,
    seed: int = 0,
) -> Scores:
    """`AttentiveProbe` trained with AdamW and a cosine on standardised tokens.

    Learning rate and weight decay are chosen by log-loss on a fifth of the labelled samples, after training on the
    others; then all are trained on. `Scores.chosen` is the rate.

    Args:
        train_x: (N, K, D), any floating type; tokens that are 0 throughout are not real and not read. test_x likewise.
        train_y: (N,) labels, integers.
        reference: (R, K, D) tokens whose mean and spread standardise all; None = train_x.

    Raises:
        EvaluateError: fewer than two classes, tokens that are not finite, a sample without tokens, or shapes that do
            not fit.
    """
    classes, number = np.unique(train_y, return_inverse=True)
    if len(classes) < 2:
        raise EvaluateError(f"all training labels are {classes[0]}; a probe needs at least two classes")
    for part, x, labels in (("training", train_x, train_y), ("test", test_x, test_y)):
        _check(part, x, labels)
    y, scale = torch.from_numpy(number.astype(np.int64)), Scale(train_x if reference is None else reference)
    rate, decay = RATES[0], DECAYS[-1]
    if int(torch.bincount(y).min()) >= FEWEST:
        inside, outside = _split(y, seed)
        losses = {}
        for rate, decay in product(RATES, DECAYS):
            probe = _trained(train_x[inside], y[inside], len(classes), scale, rate, decay, seed)
            losses[rate, decay] = float(F.cross_entropy(_logits(probe, train_x[outside], scale), y[outside]))
        rate, decay = min(losses, key=lambda key: losses[key])
    probe = _trained(train_x, y, len(classes), scale, rate, decay, seed)
    predicted = classes[_logits(probe, test_x, scale).argmax(1).numpy()]
    correct = predicted == np.asarray(test_y)
    return Scores(float(correct.mean()), correct, predicted, rate)


class Scale:
    """Standardises tokens by the mean and spread of the real tokens of `reference` (R, K, D)."""

    def __init__(self, reference: Tensor) -> None:
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for part in reference.split(1024):
            real = part[(part != 0).any(2)].double()
            count, total, squares = count + len(real), total + real.sum(0), squares + (real**2).sum(0)
        self.mean = total / max(count, 1)
        spread = (squares / max(count, 1) - self.mean**2).clamp(min=0).sqrt()
        self.factor = torch.where(spread > 1e-6 * self.mean.abs() + 1e-12, 1 / spread, 0.0).float()
        self.mean = self.mean.float()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, D) float32, and which are real (B, K)."""
        return (x.float() - self.mean) * self.factor, (x != 0).any(2)


def _trained(x: Tensor, y: Tensor, classes: int, scale: Scale, rate: float, decay: float, seed: int) -> AttentiveProbe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = AttentiveProbe(x.shape[2], classes)
    batch = min(BATCH, len(x))
    steps = max(STEPS, EPOCHS * len(x) // batch)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng, order = np.random.default_rng(seed), np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(x))])
        taken, order = torch.from_numpy(order[:batch]), order[batch:]
        loss = F.cross_entropy(probe(*scale(x[taken])), y[taken])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def _logits(probe: AttentiveProbe, x: Tensor, scale: Scale) -> Tensor:
    return torch.cat([probe(*scale(part)) for part in x.split(1024)])


def _split(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Sample numbers to train on and to choose on: of every class a fifth, one at least, is chosen on."""
    rng = np.random.default_rng(seed)
    outside = []
    for c in y.unique():
        members = rng.permutation(torch.nonzero(y == c)[:, 0].numpy())
        outside += members[: max(1, round(HELD * len(members)))].tolist()
    held = torch.zeros(len(y), dtype=torch.bool)
    held[outside] = True
    return torch.nonzero(~held)[:, 0], torch.nonzero(held)[:, 0]


def _check(part: str, x: Tensor, labels: np.ndarray) -> None:
    if x.ndim != 3 or len(x) != len(labels) or not len(x):
        raise EvaluateError(f"the {part} part has tokens {tuple(x.shape)} and {len(labels)} labels; give one a row")
    finite = torch.cat([p.isfinite().flatten(1).all(1) for p in x.split(1024)])
    if not finite.all():
        raise EvaluateError(
            f"the {part} features are not finite (first: row {int(finite.int().argmin())}); leave out samples that "
            "could not be read"
        )
    some = torch.cat([(p != 0).flatten(1).any(1) for p in x.split(1024)])
    if not some.all():
        raise EvaluateError(f"row {int(some.int().argmin())} of the {part} part has no tokens; leave it out")


# Tokens of a source.


def tokens_of(run: Run, train: Source, held: Source, batch_size: int) -> Iterator[list[Tensor]]:
    """Tokens (N, K, D) bfloat16 of both parts: raw ones with their positions, of the untrained and of the pre-trained
    encoder. The row of a sample that cannot be read is NaN."""
    model = run.model(trained=False)
    schema = cropped(run.schema, model)
    precision = run.settings.get("precision", "fp32")
    yield [_collected(lambda batch: raw_tokens(model, batch), schema, part, batch_size) for part in (train, held)]
    for trained in (False, True):
        encode = encoder(run, pool="tokens", precision=precision, trained=trained)
        yield [_collected(encode.__call__, schema, part, batch_size) for part in (train, held)]


@torch.no_grad()
def raw_tokens(model: Model, batch: Sample) -> Tensor:
    """(B, N, D) what the tokenizer makes, with the coordinates of each token; narrower streams are filled with 0, and
    integer streams are indicators. Tokens that are not real are 0."""
    tokens = model.tokenizer(batch)
    b, n = tokens.shape
    parts = [
        F.one_hot(x, -model.tokenizer.streams[name]).float() if not x.is_floating_point() else x.float()
        for name, x in tokens.x.items()
    ]
    widest = max(x.shape[2] for x in parts)
    x = torch.cat([F.pad(part, (0, widest - part.shape[2])) for part in parts], 1)
    x = torch.cat([x, tokens.pos.float().expand(b, n, -1)], 2)
    return x if tokens.valid is None else x * tokens.valid[..., None]


def _collected(encode: Callable[[Sample], Tensor], schema: Schema, source: Source, batch_size: int) -> Tensor:
    out: Tensor | None = None
    for batch in ordered_loader(source, schema, batch_size=batch_size, fixed=True):
        x = encode(batch)
        if out is None:
            out = torch.full((len(source), *x.shape[1:]), torch.nan, dtype=torch.bfloat16)
        if x.shape[1:] != out.shape[1:]:
            raise DataError(
                f"samples of {source.name} differ in their tokens: {tuple(x.shape[1:])} and {tuple(out.shape[1:])}; "
                "leave out the attentive probe"
            )
        out[batch["index"]] = x.bfloat16()
    if out is None:
        raise DataError(f"no sample of {source.name} could be read")
    return out
