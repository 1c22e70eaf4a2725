"""Codebooks: what a vector stands for, how it follows, and targets that are its number."""

import base64
import io
import re

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

from anymask.cli import main
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.evaluation import EvaluateError, evaluate
from anymask.evaluation.tasks.draw import distance
from anymask.generation import GenerateError, generate
from anymask.parts.codebooks import Codebook
from anymask.recipe import RecipeError, find
from anymask.reports import report
from anymask.run import Run
from anymask.train import pretrain

FEW = {"decoder.codes": 16, "decoder.dimensions": 4, "decoder.depth": 1}


def words():
    (stage,) = find("beit-v2").stages["stages"]
    return stage.but(FEW)


def built(seed=0):
    torch.manual_seed(seed)
    schema = example_schema("image")
    teacher = find("mae").build(schema, SMALL)
    book = words().build(schema, SMALL, earlier={"mae": teacher})
    return book, find("beit-v2").build(schema, SMALL, earlier={"beit-v2-words": book}), teacher


def test_the_nearest_vector_stands_for_a_code_and_gradients_pass_it():
    torch.manual_seed(0)
    book = Codebook(6, 3)
    z = F.normalize(torch.randn(2, 5, 3), dim=-1).requires_grad_()
    code, number = book(z)
    for b in range(2):
        for n in range(5):
            assert number[b, n] == (book.codes - z[b, n]).norm(dim=-1).argmin()
            torch.testing.assert_close(code[b, n], book.codes[number[b, n]])
    (code * torch.arange(30.0).view(2, 5, 3)).sum().backward()
    torch.testing.assert_close(z.grad, torch.arange(30.0).view(2, 5, 3))


def test_vectors_follow_the_mean_of_what_they_stand_for_and_idle_ones_begin_anew():
    torch.manual_seed(0)
    book = Codebook(4, 2, decay=0.5)
    book.use.fill_(1.0)
    book.codes.copy_(torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0], [0, -1.0]]))
    z = F.normalize(torch.tensor([[[1.0, 0.2], [1.0, -0.4], [0.1, 1.0]]]), dim=-1)
    ok = torch.tensor([[True, True, False]])
    book.train()(z, ok)
    book.follow()
    mean = F.normalize(z[0, :2].mean(0), dim=-1)
    torch.testing.assert_close(book.codes[0], F.normalize((torch.tensor([1.0, 0]) + mean) / 2, dim=-1))
    assert torch.equal(book.codes[1], torch.tensor([0.0, 1.0]))  # stands for what does not count
    for _ in range(6):
        book(z, ok)
        book.follow()
    for code in book.codes[1:]:  # idle: began at recent ones that count
        assert (z[0, :2] - code).norm(dim=-1).min() < 1e-5
    before = book.codes.clone()
    book.eval()(z)
    assert torch.equal(book.codes, before) and len(book.state_dict()) == 2


def test_words_are_the_numbers_of_the_run_and_stay():
    book, model, teacher = built()
    batch = batch_of(example_schema("image"), 4)
    step = model.hide(batch)
    goal = model.target(step, model)["codes"]
    x = book.eval().embed(batch).x
    numbers = book.decoder.book.nearest(F.normalize(book.decoder.project(x), dim=-1))
    assert torch.equal(goal, numbers.gather(1, step.mask.ask)) and goal.unique().numel() > 1
    model.train()
    assert not model.target.training and not model.target.decoder.training
    assert not any(p.requires_grad for p in model.target.parameters())
    whole = book.hide(batch)
    assert whole.mask.visible.all() and whole.mask.ask is None
    torch.testing.assert_close(book.target(whole, book)["codes"], F.layer_norm(teacher.embed(batch).x, (32,))
                               if book.target.normalise else teacher.embed(batch).x)  # fmt: skip


def test_the_branch_reads_cls_and_an_earlier_block():
    _, model, _ = built()
    step = model.learn(model.hide(batch_of(example_schema("image"), 4)))
    (branch,) = model.extras
    loss = step.aux["aggregation"]
    assert branch.layer == 1 and 0 < loss < 20
    latent = step.latent
    other = branch(step._replace(latent=latent._replace(prefix=torch.randn_like(latent.prefix))), model)["aggregation"]
    assert other != loss
    layers = (latent.layers[0], torch.randn_like(latent.layers[1]), *latent.layers[2:])
    assert branch(step._replace(latent=latent._replace(layers=layers)), model)["aggregation"] != loss
    moved = branch(step._replace(latent=latent._replace(x=torch.randn_like(latent.x))), model)["aggregation"]
    torch.testing.assert_close(moved, loss)  # not the last block's tokens


def test_three_stages_train_and_the_codebook_is_used(tmp_path):
    recipe = find("beit-v2")
    run = pretrain(
        "digits", recipe=recipe.but(stages=(words(),)), steps=6, size=SMALL, out=tmp_path / "r", probe_labels=None,
        progress=False,
    )  # fmt: skip
    first = Run.open(run.folder / "stages" / "beit-v2-words")
    teacher = Run.open(first.folder / "stages" / "mae").model()
    for mine, its in zip(first.model().target.encoder.parameters(), teacher.encoder.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert torch.equal(run.model().target.decoder.book.codes, first.model().decoder.book.codes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    (stage,) = find("mage").stages["stages"]
    return pretrain(
        "digits", recipe=find("mage").but(stages=(stage.but({"decoder.codes": 32, "decoder.dimensions": 8}),)),
        steps=60, size=SMALL, out=tmp_path_factory.mktemp("mage") / "run", probe_labels=None, progress=False,
        changes={"optimiser.lr": 2e-2},
    )  # fmt: skip


def test_images_are_numbers_that_pixels_come_back_from(drawn):
    model = drawn.model()
    batch = batch_of(drawn.schema, 6)
    tokens = model.tokenizer(batch)
    ((_, number),) = tokens.x.items()
    assert number.dtype == torch.int64 and number.max() < 32 and model.tokenizer.streams == {"image": -32}
    first = Run.open(drawn.folder / "stages" / "mage-words").model()
    step = first.predict(first.hide(batch))
    want = first.tokenizer.raw(first.tokenizer.whole(step.pred["pixels"], step.tokens.grid))
    torch.testing.assert_close(model.tokenizer.pixels(number), want, atol=1e-4, rtol=1e-4)


def test_shares_vary_within_their_limits_and_half_is_dropped(drawn):
    model = drawn.model()
    shares, n = [], 16
    for i in range(60):
        mask = model.hide(batch_of(drawn.schema, 4, i)).mask
        hidden = (~mask.visible).sum(1)
        assert (hidden == hidden[0]).all() and mask.ask.shape[1] == hidden[0]
        assert abs(mask.keep.shape[1] - n // 2) <= 1  # what is shown, and hidden tokens beside
        shares.append(hidden[0].item() / n)
    assert 0.5 <= min(shares) < 0.6 and 0.85 < max(shares) <= 1.0 and 0.6 < sum(shares) / 60 < 0.75


@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_images_are_drawn_and_written(drawn, tmp_path, sampler):
    found = generate(drawn, n=9, sampler=sampler, steps=4, seed=1, out=tmp_path / "x.png")
    assert found.shape == (9, 1, 8, 8) and np.isfinite(found).all()
    assert np.array_equal(found, generate(drawn, n=9, sampler=sampler, steps=4, seed=1, out=tmp_path / "x.npy"))
    assert np.array_equal(np.load(tmp_path / "x.npy"), found)
    assert Image.open(tmp_path / "x.png").size == (8 * 10 * 8, 2 * 10 * 8)
    assert found.std(0).max() > 0  # not all alike
    real = np.asarray(load_digits().images)
    assert abs(found.mean() - real.mean()) < 2.0 and found.min() > -8 and found.max() < 24


def test_drawn_images_are_compared_with_real_ones(drawn):
    table = evaluate(drawn, "digits", task="draw", n=300, steps=4)
    distances = {row[0]: row[1] for row in table.rows}
    assert list(distances) == ["drawn", "training images", "pixels of training images, shuffled"]
    assert 0 < distances["training images"] < distances["pixels of training images, shuffled"]
    assert distances["training images"] < distances["drawn"]
    assert table.rows == evaluate(drawn, "digits", task="draw", n=300, steps=4).rows
    with pytest.raises(EvaluateError, match="too few for the covariance"):
        evaluate(drawn, "digits", task="draw", n=8)


def test_the_distance_is_that_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 3)) * [1.0, 2.0, 3.0], rng.normal([1.0, 0.0, 2.0], size=(300, 3))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert distance(a, b) == pytest.approx(want, abs=1e-3)
    assert distance(a, a) == pytest.approx(0, abs=1e-3)


def test_a_report_shows_drawn_images(drawn, tmp_path):
    page = report(drawn, "digits", tmp_path / "r.html", samples=40).read_text()
    shown = page[page.index("New samples</h2>") :]
    pictures = re.findall(r'<img alt="drawn image \d of 8" src="data:image/png;base64,([^"]+)"', shown)
    assert len(set(pictures)) > 1 and len(pictures) == 8
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (80, 80)


def test_what_cannot_be_drawn_as_images_is_refused(drawn, tmp_path):
    for options in ({"prompt": "a"}, {"length": 3}, {"sampler": "semi-autoregressive"}):
        with pytest.raises(GenerateError, match="are for texts"):
            generate(drawn, **options)
    with pytest.raises(GenerateError, match=r"\.png or \.npy"):
        generate(drawn, out=tmp_path / "x.txt")
    said = CliRunner().invoke(main, ["generate", str(drawn.folder)])
    assert said.exit_code != 0 and "-o images.png" in said.output


def test_what_does_not_fit_is_refused(tmp_path):
    book, _, teacher = built()
    with pytest.raises(RecipeError, match="has a codebook"):
        find("beit-v2").build(example_schema("image"), SMALL, earlier={"beit-v2-words": teacher})
    with pytest.raises(RecipeError, match="patches of the same form"):
        other = find("beit-v2").but({"tokenizer.patch": 2})
        other.build(example_schema("image"), SMALL, earlier={"beit-v2-words": book})
    with pytest.raises(RecipeError, match=r"encoder\.layers=true"):
        find("beit-v2").but({"encoder.layers": False}).build(
            example_schema("image"), SMALL, earlier={"beit-v2-words": book}
        )
    with pytest.raises(RecipeError, match="2 codes of 2 dimensions"):
        words().but({"decoder.codes": 1}).build(example_schema("image"), SMALL, earlier={"mae": teacher})


def test_all_vectors_begin_at_tokens_of_the_first_batch():
    torch.manual_seed(0)
    book = Codebook(6, 3).train()
    z = F.normalize(torch.randn(2, 40, 3), dim=-1)
    book(z)
    book.follow()
    assert ((book.codes[:, None] - z.flatten(0, 1)).norm(dim=-1).amin(1) < 1e-6).all()
    assert len(book.codes.unique(dim=0)) > 3 and (book.use == 1).all()
