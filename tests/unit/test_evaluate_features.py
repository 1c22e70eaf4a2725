"""`embed`: in memory, in files, interrupted, padded, of a layer."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from anymask.data import DataError, SchemaError, infer_schema, open_source
from anymask.evaluation import EvaluateError, embed, features
from anymask.recipe import SIZES, find
from anymask.run import Run

SMALL = SIZES["nano"]._replace(width=32, depth=2, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2)


@pytest.fixture(scope="module")
def digits():
    return open_source("digits").subset(np.arange(100))


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run"), find("mae"), SMALL, infer_schema(digits), {"seed": 1})
    run.save()
    model = run.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    run.save_weights(model)
    return run


def test_run_folder_and_model_agree(run, digits):
    z = embed(run, digits, batch_size=32)
    assert z.shape == (100, 32) and z.dtype == np.float32 and np.isfinite(z).all()
    assert np.array_equal(z, embed(run.folder, digits, batch_size=32))
    assert np.array_equal(z, embed(run.model(), digits, batch_size=32))
    assert not np.allclose(z, embed(run, digits, trained=False))
    assert np.allclose(z, embed(run, digits, batch_size=7), atol=1e-5)


def test_pooling_and_layers(run, digits):
    tokens = embed(run, digits, pool="tokens")
    assert tokens.shape == (100, 16, 32)
    assert np.allclose(tokens.mean(1), embed(run, digits), atol=1e-5)
    assert np.array_equal(tokens, embed(run, digits, pool="tokens", layer=2))
    assert np.array_equal(embed(run, digits, layer=-2), embed(run, digits, layer=1))
    assert not np.allclose(embed(run, digits, layer=0), embed(run, digits, layer=1))
    assert embed(run, digits, pool="cls").shape == (100, 32)
    assert np.array_equal(embed(run, digits, pool=lambda latent: latent.x[:, 3]), tokens[:, 3])


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_files_hold_what_the_call_returns(run, digits, tmp_path, ending):
    path = embed(run, digits, out=tmp_path / f"z.{ending}", batch_size=32)
    assert [p.name for p in tmp_path.iterdir()] == [f"z.{ending}"]
    z = embed(run, digits, batch_size=32)
    if ending == "npy":
        assert np.array_equal(np.load(path), z)
        return
    table = pq.read_table(path)
    assert table.column_names == ["id", "label", "features"]
    assert np.array_equal(np.stack(table["features"].to_numpy()), z)
    assert table["label"].to_pylist() == digits.labels.tolist() and table["id"].to_pylist() == digits.ids


class Stop(Exception):
    pass


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_an_interrupted_file_goes_on(run, digits, tmp_path, monkeypatch, ending):
    calls = []
    whole = features.Encoder.__call__

    def failing(self, batch):
        calls.append(batch["index"].tolist())
        if len(calls) == 3:
            raise Stop
        return whole(self, batch)

    out = tmp_path / f"z.{ending}"
    monkeypatch.setattr(features.Encoder, "__call__", failing)
    with pytest.raises(Stop):
        embed(run, digits, out=out, batch_size=16)
    assert not out.exists()
    embed(run, digits, out=out, batch_size=16)
    assert len(calls) == 3 + 5  # two of seven batches were there
    z = np.load(out) if ending == "npy" else np.stack(pq.read_table(out)["features"].to_numpy())
    assert np.array_equal(z, embed(run, digits, batch_size=16))
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_begun_with_other_weights_is_begun_again(run, digits, tmp_path, monkeypatch):
    part, note = tmp_path / "z.npy.part.npy", tmp_path / "z.npy.part.json"
    np.save(part, np.zeros((100, 32), np.float32))
    note.write_text('{"mark": "of another run", "done": 96}')
    assert np.array_equal(np.load(embed(run, digits, out=tmp_path / "z.npy")), embed(run, digits))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Images of two sizes, and one broken file."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(32, 32), (48, 40), (32, 32), (64, 32)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_padding_does_not_change_features(mixed, tmp_path):
    source = open_source(mixed)
    model = find("mae").build(infer_schema(source, size=32), SMALL)
    together = embed(model, source, batch_size=4)
    alone = np.concatenate([embed(model, source.subset([i, i]), batch_size=1)[:1] for i in range(4)])
    assert np.allclose(together, alone, atol=1e-5)
    with pytest.raises(DataError, match="size="):
        embed(model, source, pool="tokens", batch_size=1)
    assert embed(model, source, pool="tokens", size=32, batch_size=1).shape == (4, 64, 32)


def test_a_single_file_is_embedded(mixed):
    source = open_source(mixed)
    model = find("mae").build(infer_schema(source, size=32), SMALL)
    np.testing.assert_allclose(embed(model, mixed / "1.png"), embed(model, source)[1:2], atol=1e-5)


def test_an_unreadable_sample_is_nan(mixed):
    source = open_source(mixed)
    model = find("mae").build(infer_schema(source, size=32), SMALL)
    source.mark_bad = lambda row, reason: source._bad.update({row: reason})  # as found while reading
    source._bad[1] = "broken"
    z = embed(model, source, batch_size=2)
    assert np.isnan(z[1]).all() and np.isfinite(z[[0, 2, 3]]).all()


def test_errors_name_the_mend(run, digits, tmp_path):
    with pytest.raises(EvaluateError, match="mean, cls, sum, max, tokens"):
        embed(run, digits, pool="median")
    with pytest.raises(EvaluateError, match="fp32, bf16"):
        embed(run, digits, precision="fp16")
    with pytest.raises(EvaluateError, match=r"\.npy or \.parquet"):
        embed(run, digits, out=tmp_path / "z.csv")
    with pytest.raises(EvaluateError, match="layers 0 to 2"):
        embed(run, digits, layer=7)
    with pytest.raises(EvaluateError, match=r"encoder\.layers"):
        embed(run.model(), digits, layer=1)
    with pytest.raises(SchemaError):
        embed(run, open_source(np.zeros((4, 3, 8, 8), np.uint8)))
    with pytest.raises(DataError, match="streaming"):
        embed(run, open_source("digits", streaming=True))
