"""Samples of several parts from training to the report."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from anymask.cli import main
from anymask.data import open_source
from anymask.data.mix import only, unpaired
from anymask.engine import everything
from anymask.evaluation import EvaluateError, embed, evaluate
from anymask.evaluation.crossing import crossed, from_part, left
from anymask.reports import report
from anymask.reports.renderer import parts_of, renderer_of
from anymask.run import Run
from anymask.train import pretrain, reconstruct

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 210), "grey": (120, 120, 120)}


def made(count, seed=0):
    """Pictures of one colour with a bright square, the name of the colour, a depth that is near in the square."""
    rng = np.random.default_rng(seed)
    names = [list(COLOURS)[n % 4] for n in range(count)]
    images = np.stack([np.broadcast_to(np.array(COLOURS[name])[:, None, None], (3, 16, 16)) for name in names])
    images = (images + rng.integers(-20, 20, images.shape)).clip(0, 255).astype(np.uint8)
    depth = np.full((count, 16, 16), 3000.0, np.float32)
    for n, (y, x) in enumerate(rng.integers(0, 11, (count, 2))):
        images[n, :, y : y + 5, x : x + 5] = 250
        depth[n, y : y + 5, x : x + 5] = 1000
    depth[:, 0, 0] = 0
    maps = [None if n % 5 == 4 else one for n, one in enumerate(depth)]
    texts = [None if n % 7 == 6 else f"a {name} picture" for n, name in enumerate(names)]
    about = {
        "image": {"data": (images, [list(COLOURS).index(name) for name in names])},
        "depth": {"data": maps, "kind": "depth"},
        "text": {"data": texts},
    }
    return open_source({"fields": about})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    source = made(70)
    folder = tmp_path_factory.mktemp("mix") / "run"
    run = pretrain(source, size="pico", epochs=10, batch_size=16, out=folder, probe_labels=None, progress=False,
                   workers=0)  # fmt: skip
    return run, source


def test_training(trained):
    run, _ = trained
    assert run.recipe.slug == "multimae" and set(run.schema.fields) == {"image", "depth", "text"}
    assert run.schema.fields["depth"].missing == pytest.approx(0.2)
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    loss = [float(row.split(",")[rows[0].split(",").index("loss")]) for row in rows[1:]]
    assert loss[-1] < 0.95 * loss[0]
    pictures = sorted((run.folder / "pictures").glob("*.png"))
    with Image.open(pictures[-1]) as sheet:
        assert sheet.width > 6 * 64  # original, visible and rebuilt of image and depth, side by side
    assert Run.open(run.folder).model().tokenizer.fields == ["image", "depth", "text"]


def test_features_with_and_without_parts(trained):
    run, source = trained
    every = embed(run, source)
    alone = embed(run, only(source, ["image"]))
    assert every.shape == alone.shape == (70, 64) and np.isfinite(every).all()
    model = run.model()
    sample = {"image": torch.from_numpy(source[4]["image"])[None], "key": torch.zeros(1, dtype=torch.long)}
    sample |= {"depth": torch.full((1, 1, 16, 16), torch.nan), "depth.present": torch.tensor([False])}
    sample |= {"text": torch.full((1, 8), -1), "text.present": torch.tensor([False])}
    tokens = model.tokenizer(sample)
    assert everything(tokens).visible.sum() == tokens.x["image"].shape[1]
    np.testing.assert_allclose(model.embed(sample).mean().numpy()[0], alone[4], atol=1e-4)


def test_one_part_from_another(trained):
    run, source = trained
    errors = crossed(run.model(), run.schema, source)
    assert set(errors) == {(a, b) for a in run.schema.fields for b in run.schema.fields if a != b}
    gone = np.array([source[n]["text"] is None for n in range(70)])
    assert np.array_equal(np.isnan(errors["text", "image"].model), gone)
    shares = {pair: np.nanmean(share) for pair, share in left(errors).items()}
    assert shares["image", "text"] < shares["depth", "text"]  # the colour is seen in the picture alone
    model, batch = run.model(), _batch(source)
    with torch.no_grad():
        step = model.predict(from_part(model, batch, 0))
    assert step.mask.visible[:, : step.tokens.x["image"].shape[1]].all() and step.mask.visible.sum(1).eq(64).all()
    goal, pred = step.tokens.x["depth"], model.target.pred(step, "depth")["depth"]
    there = batch["depth.present"] if "depth.present" in batch else torch.ones(4, dtype=torch.bool)
    by_hand = ((pred - goal).nan_to_num().abs().sum(-1) / (~goal.isnan()).sum(-1)).mean(1)
    ours = errors["image", "depth"].model[batch["index"]]
    np.testing.assert_allclose(ours[there], by_hand[there], rtol=1e-3)
    table = evaluate(run, source, task="translate")
    assert table.columns == ("model", "seen", "image", "depth", "text") and len(table.rows) == 6
    assert table.rows[0][2] is None


def _batch(source):
    from anymask.data import infer_schema, training_loader

    return next(iter(training_loader(source.subset(range(4)), infer_schema(source), batch_size=4, steps=1, seed=0,
                                     workers=0)))  # fmt: skip


def test_finding_the_other_part(trained):
    run, source = trained
    table = evaluate(run, source, task="match", between="image,text")
    rows = {(row[0], row[1], row[2]): row[3:] for row in table.rows}
    assert ("pre-trained encoder", "linear map", "text by image") in rows and ("chance", None, "either way") in rows
    assert rows["raw input", "linear map", "text by image"][2].mean > 50
    with pytest.raises(EvaluateError, match="takes two of the parts"):
        evaluate(run, source, task="match", between="image,sound")


def test_other_tasks_take_several_parts(trained):
    run, source = trained
    assert evaluate(run, source, task="health", samples=16, parts=2).rows
    assert evaluate(run, source, labels=(1, 5), draws=2).rows
    with pytest.raises(EvaluateError, match="content of one stream"):
        evaluate(run, source, task="reconstruct")


def test_the_report_draws_each_part(trained, tmp_path):
    run, source = trained
    html = report(run, source, tmp_path / "report.html", samples=40).read_text()
    for name in ("image", "depth", "text"):
        assert f"Over training, {name}" in html and f"Nearest neighbours, {name}" in html
    assert "maps, " in html or "2 maps" in html or "4 maps" in html
    model = run.model()
    assert parts_of(model) == ["image", "depth", "text"]
    assert type(renderer_of(model, "depth")).__name__ == "Depths"
    path = reconstruct(run, source, tmp_path / "picture.png", n=3)
    with Image.open(path) as sheet:
        assert sheet.width > 6 * 64


def test_equal_runs_are_equal(tmp_path):
    source = unpaired(made(40), pairs=0.5)
    straight = pretrain(source, size="pico", epochs=1, batch_size=8, out=tmp_path / "a", probe_labels=None,
                        progress=False, workers=0)  # fmt: skip
    again = pretrain(unpaired(made(40), pairs=0.5), size="pico", epochs=1, batch_size=8, out=tmp_path / "b",
                     probe_labels=None, progress=False, workers=0)  # fmt: skip
    for (name, a), b in zip(straight.model().state_dict().items(), again.model().state_dict().values()):
        assert torch.equal(a, b), name


def test_from_the_command_line(tmp_path):
    for n in range(6):
        for folder, mode in (("rgb", "RGB"), ("depth", "I;16")):
            (tmp_path / folder).mkdir(exist_ok=True)
            array = np.random.default_rng(n).integers(1, 255, (32, 32, 3) if mode == "RGB" else (32, 32))
            array = array.astype(np.uint8 if mode == "RGB" else np.uint16)
            if folder == "rgb" or n != 2:
                Image.fromarray(array).save(tmp_path / folder / f"{n}.png")
    found = CliRunner().invoke(main, ["describe", str(tmp_path), "--size", "pico", "--json"], catch_exceptions=False)
    rows = {(row[1], str(row[2])) for row in json.loads(found.output)["rows"]}
    assert ("recipe", "multimae (MultiMAE, arXiv:2204.01678)") in rows
    assert ("trained at", "depth 1 x 32 x 32, rgb 3 x 32 x 32") in rows
    assert ("depth missing", "16.7% of samples") in rows
