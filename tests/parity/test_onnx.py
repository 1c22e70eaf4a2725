"""An encoder in an ONNX file gives, under onnxruntime, what it gives here, for any number of samples."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from anymask.contract.data import batch_of, default_schema, picture_schema
from anymask.interop import InteropError, export
from anymask.interop import onnx as own
from anymask.parts.positions import Table
from anymask.recipe import P, Size, catalogue, find
from anymask.run import Run

SIZE = Size(96, 1, 4, 32, 1, 2)  # tracing takes seconds, more for each block


def made(folder, recipe="mae", shape=(3, 32, 32), schema=None):
    """A run with weights that no fresh model has."""
    run = Run(folder / "run", find(recipe), SIZE, schema or picture_schema(shape), settings={"seed": 1})
    run.save()
    model = run.build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    run.save_weights(model)
    return run


def session(file):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def graph(file):
    return pytest.importorskip("onnx").load(file)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run, and its file with tokens: 144 of them, more than `attend` multiplies out."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    run = made(folder, shape=(3, 48, 48))
    return run, export(run, "onnx", folder / "out", tokens=True)


@pytest.mark.parametrize("count", [1, 3, 17, 64])
def test_any_number_of_samples_gives_the_same(exported, count):
    run, file = exported
    batch = batch_of(run.schema, count, seed=5)
    latent = run.model().embed(batch)
    features, tokens = session(file).run(["features", "tokens"], {"image": batch["image"].numpy()})
    assert features.shape == (count, 96) and tokens.shape == (count, 144, 96)
    assert features.dtype == np.float32
    gaps = np.abs(features - latent.mean().numpy()).max(), np.abs(tokens - latent.x.numpy()).max()
    print(f"onnxruntime, {count} samples: {max(gaps):.1e}")
    assert max(gaps) < 1e-5


@pytest.mark.parametrize(
    "dtype, shape, kind",
    [("float32", (1, 24, 40), "tensor(float)"), ("uint16", (5, 30, 24), "tensor(int32)")],
)
def test_raw_values_of_other_schemas(tmp_path, dtype, shape, kind):
    """Another size, number of channels and type: values in the units of the data go in, as they are in a batch."""
    field = picture_schema(shape).fields["image"]
    scale = {"uint16": 257, "float32": 1e-2}[dtype]
    values = {name: tuple(scale * v for v in getattr(field, name)) for name in ("mean", "std")}
    field = type(field)(**{**vars(field), **values, "dtype": dtype, "high": 255.0 * scale})
    schema = picture_schema(shape)
    schema = type(schema)(**{**vars(schema), "fields": {"image": field}})
    run = made(tmp_path, schema=schema)
    opened = session(export(run, "onnx", tmp_path / "out"))
    (given,) = opened.get_inputs()
    height, width = (side // 4 * 4 for side in shape[1:])
    assert given.type == kind and given.shape == ["batch", shape[0], height, width]
    images = batch_of(schema, 3)["image"][:, :, :height, :width].contiguous()
    (features,) = opened.run(None, {"image": images.numpy()})
    assert np.abs(features - run.model().embed({"image": images}).mean().numpy()).max() < 1e-5


def test_cls_and_learned_positions_of_a_model_that_is_left_as_it_was(tmp_path):
    model = made(tmp_path, find("simmim").but(positions=P(Table))).model().train()
    file = export(model, "onnx", tmp_path / "mine.onnx", pool="cls")
    assert file == tmp_path / "mine.onnx"
    assert model.training and type(model.stem.positions) is Table
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()
    batch = batch_of(model.schema, 5)
    (features,) = session(file).run(None, {"image": batch["image"].numpy()})
    assert np.abs(features - model.embed(batch).cls().numpy()).max() < 1e-5


@pytest.mark.skipif("remasker" not in catalogue(), reason="there is no recipe of tables")
def test_missing_cells_go_in_as_nan(tmp_path):
    """Also where the training data lacked none: the encoder leaves them out, as here."""
    schema = default_schema(find("remasker"))
    whole = replace(schema.fields["table"], gaps=tuple(0.0 for _ in schema.fields["table"].gaps))
    run = made(tmp_path, "remasker", schema=replace(schema, fields={"table": whole}))
    cells = batch_of(schema, 7, seed=2)["table"].clone()
    cells[0, :2], cells[1] = torch.nan, torch.nan
    features, tokens = session(export(run, "onnx", tmp_path / "out", tokens=True)).run(None, {"table": cells.numpy()})
    latent = run.model().embed({"table": cells})
    assert np.abs(features - latent.mean().numpy()).max() < 1e-5
    assert np.abs(tokens - (latent.x * latent.ok[..., None]).numpy()).max() < 1e-5
    assert not tokens[1].any()


def test_linear_layers_are_matrix_products(exported):
    """Whatever the processor of the machine that exports: `parts.linear` may compute them as convolutions there."""
    kinds = {node.op_type for node in graph(exported[1]).graph.node}
    assert "MatMul" in kinds or "Gemm" in kinds
    assert "Conv" not in kinds


def test_nothing_is_computed_in_float64(exported):
    onnx = pytest.importorskip("onnx")
    found = graph(exported[1]).graph
    held = {tensor.data_type for tensor in found.initializer} | {v.type.tensor_type.elem_type for v in found.value_info}
    assert onnx.TensorProto.DOUBLE not in held


def test_metadata(exported):
    run, file = exported
    about = session(file).get_modelmeta().custom_metadata_map
    assert about["recipe"] == "mae" and about["paper"] == "arXiv:2111.06377" and about["pool"] == "mean"
    assert json.loads(about["schema"])["fields"]["image"]["shape"] == [3, 48, 48]
    assert json.loads(about["recipe_json"]) == run.recipe.to_json()
    assert float(about["largest_difference"]) < 1e-4
    assert [p.name for p in file.parent.iterdir()] == ["encoder.onnx"]


def test_a_file_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    """Here: that of another model."""
    run, file = exported

    class Program:
        class model:
            metadata_props: dict = {}

        def save(self, path, external_data):
            shutil.copy(file, path)

    monkeypatch.setattr(own, "_trace", lambda *_: Program())
    with pytest.raises(InteropError, match=r"features of 1 samples differ from the model's by .* not written"):
        export(run.model(trained=False), "onnx", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_said_before_anything(tmp_path, monkeypatch, package):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if name != package:
            monkeypatch.setitem(sys.modules, name, object())
    monkeypatch.setitem(sys.modules, package, None)
    run = made(tmp_path)
    with pytest.raises(InteropError, match=rf"ONNX needs {package}, .*pip install anymask\[onnx\]"):
        export(run, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_fit(tmp_path):
    pytest.importorskip("onnxruntime")
    run = made(tmp_path, find("mae").but({"encoder.cls": False}))
    with pytest.raises(InteropError, match="no CLS token; export it with pool='mean'"):
        export(run, "onnx", tmp_path / "out", pool="cls")
    with pytest.raises(InteropError, match="no pooling 'tokens' in ONNX; there is: mean, cls"):
        export(run, "onnx", tmp_path / "out", pool="tokens")
    with pytest.raises(InteropError, match="onnx has no option 'layer'; it has: pool, tokens"):
        export(run, "onnx", tmp_path / "out", layer=1)
    assert not (tmp_path / "out").exists()
