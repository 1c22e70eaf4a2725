"""Batches of similar lengths: every sample once an epoch, the same after resuming, little padding, equal results."""

import numpy as np
import pytest
import torch
from text_data import SENTENCES

from anymask.data import infer_schema, open_source, ordered_loader, training_loader
from anymask.data.loader import aligned
from anymask.data.training import POOL, bucketed, lengths_of, order, padding_share
from anymask.recipe import SIZES, find

RNG = np.random.default_rng(0)
TEXTS = [" ".join(f"word{w}" for w in RNG.integers(0, 50, n)) for n in RNG.integers(1, 60, 501)]


@pytest.fixture(scope="module")
def data():
    source = open_source(TEXTS)
    return source, infer_schema(source)


def batches(data, **plan):
    source, schema = data
    return list(training_loader(source, schema, **{"batch_size": 16, "seed": 3, **plan}))


def test_arrangement():
    lengths = RNG.integers(1, 100, 1003)
    plain = order(0, 0, 1003)
    made = bucketed(plain, lengths, 8, 5, np.random.default_rng(1))
    assert sorted(made) == list(range(1003))
    assert made[:5].tolist() == plain[:5].tolist() and made[997:].tolist() == plain[997:].tolist()
    within = lengths[made[5:997]].reshape(-1, 8)
    pool = lengths[plain[5 : 5 + POOL * 8]]
    exact = {tuple(sorted(row)) for row in np.sort(pool).reshape(-1, 8)}
    assert sum(tuple(sorted(row)) in exact for row in within) >= POOL  # sorted by brute force
    means = within.mean(1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # long batches do not follow one another


def test_every_sample_once_an_epoch(data):
    seen = torch.cat([b["index"] for b in batches(data, steps=313)])[: 16 * 313]
    for epoch in range(9):
        part = seen[epoch * 501 : (epoch + 1) * 501]
        assert sorted(part.tolist()) == list(range(501)), epoch


def test_batches_keep_their_boundaries_in_later_epochs(data):
    """501 samples are no multiple of 16, so epochs begin within a batch."""
    later = batches(data, steps=300, start=200)
    share = sum(int((b["text"] < 0).sum()) for b in later) / sum(b["text"].numel() for b in later)
    assert share < 0.2
    source, schema = data
    lengths = lengths_of(aligned(source, schema), schema)
    here, random = padding_share(lengths, 16)
    assert here == pytest.approx(share, abs=0.06) and random > 0.4


def test_resuming_workers_and_ranks(data):
    whole = batches(data, steps=70)
    for again in (batches(data, steps=70, start=40), batches(data, steps=70, start=40, workers=2)):
        for a, b in zip(whole[40:], again, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
    ranks = [batches(data, steps=35, batch_size=8, rank=rank, world=2) for rank in (0, 1)]
    for one, *parts in zip(whole, *ranks):
        assert torch.equal(one["index"], torch.cat([part["index"] for part in parts]))


def test_lengths_are_cut_to_the_longest_of_training(data):
    source, _ = data
    short = infer_schema(source, size=24)
    assert lengths_of(aligned(source, short), short).max() == 24
    loaded = batches((source, short), steps=31)
    assert max(b["text"].shape[1] for b in loaded) == 24
    assert all(b["text"].shape[1] % 8 == 0 for b in loaded)


def test_windows_of_long_texts_are_random_in_training_and_fixed_elsewhere(data):
    source, _ = data
    short = infer_schema(source, size=8)
    longest = max(range(501), key=lambda n: len(TEXTS[n]))
    few = source.subset([longest, longest])
    seen = {tuple(row.tolist()) for b in batches((few, short), steps=20, batch_size=2) for row in b["text"]}
    assert len(seen) > 5
    ends = [next(iter(ordered_loader(few, short, batch_size=2)))["text"] for _ in range(2)]
    assert torch.equal(*ends) and torch.equal(ends[0][0], ends[0][1])


def test_data_of_one_size_are_as_before():
    source = open_source("digits")
    schema = infer_schema(source)
    assert lengths_of(source, schema) is None
    first = next(iter(training_loader(source, schema, batch_size=32, steps=1, seed=5)))
    assert first["index"].tolist() == order(5, 0, len(source))[:32].tolist()


def test_streams_are_padded_too():
    stream = open_source(TEXTS, streaming=True)
    schema = infer_schema(stream)
    for b in batches((stream, schema), steps=5):
        assert b["text"].shape[1] % 8 == 0 and (b["text"] >= 0).any(1).all()


@pytest.mark.parametrize("recipe", ["bert", "retromae"])
def test_padding_changes_no_loss(recipe):
    """The same samples in longer batches: equal masks, equal losses, equal embeddings."""
    source = open_source(SENTENCES)
    schema = infer_schema(source, size=64)
    batch = next(iter(training_loader(source, schema, batch_size=8, steps=1, seed=0)))
    more = schema.fields["text"].shape[0] - batch["text"].shape[1]
    longer = {**batch, "text": torch.nn.functional.pad(batch["text"], (0, more), value=-1)}
    assert more > 0
    torch.manual_seed(0)
    model = find(recipe).but({"encoder.dropout": 0.0}).build(schema, SIZES["nano"])
    a, b = model(batch), model(longer)
    torch.testing.assert_close(a.loss, b.loss)
    assert a.aux.keys() == b.aux.keys()
    for name in a.aux:
        torch.testing.assert_close(a.aux[name], b.aux[name])
    torch.testing.assert_close(model.embed(batch).mean(), model.embed(longer).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.embed(batch).cls(), model.embed(longer).cls(), rtol=1e-4, atol=1e-5)
