"""Masked diffusion of texts: the bound, its parts, and samplers."""

import html
import json
import math
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import anymask
from anymask import keyed
from anymask.cli import main
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.data import open_source
from anymask.engine import Step
from anymask.evaluation import EvaluateError, evaluate
from anymask.evaluation.likelihood import check_likelihood, nats
from anymask.evaluation.masked import batches, redrawn
from anymask.evaluation.tasks.likelihood import _bits
from anymask.generation import GenerateError, Progress, ancestral, confidence, generate
from anymask.recipe import RecipeError, find
from anymask.recipes.text.mdlm import autoregressive
from anymask.reports import report
from anymask.train import pretrain

TEXTS = ["to be or not to be", "all the world is a stage", "now is the winter of it"]


@pytest.fixture(scope="module")
def source():
    return open_source(TEXTS * 20, kind="text", tokenizer="characters")


@pytest.fixture(scope="module")
def drawn(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("mdlm") / "run"
    return pretrain(
        source, recipe="mdlm", size=SMALL._replace(width=32), steps=350, batch_size=30, out=out, probe_labels=None,
        progress=False, changes={"optimiser.lr_width": 32, "optimiser.lr": 1e-2},
    )  # fmt: skip


def built(recipe, seed=0):
    torch.manual_seed(seed)
    return recipe.build(example_schema("text"), SMALL).eval()


def test_a_model_that_knows_nothing_pays_the_entropy_of_its_guess():
    """Equal scores for all pieces but the mask: log(pieces - 1) nats a token, whatever is hidden."""
    model = built(find("mdlm"))
    for value in (model.stem.embed["text"].weight, model.decoder.bias):
        torch.nn.init.zeros_(value)
    sample = batch_of(example_schema("text"), 400)
    step = model(sample)
    pieces = -model.tokenizer.streams["text"] - 1
    assert step.loss.item() == pytest.approx(math.log(pieces), rel=0.05)
    assert (step.pred["classes"][..., model.tokenizer.mask_id] < -1e8).all()


def test_levels_fill_the_range_and_weigh_by_their_inverse():
    model = built(find("mdlm"))
    step = model.hide(batch_of(example_schema("text"), 50))
    t = step.mask.t
    assert (t.sort().values - (torch.arange(50) + 0.5) / 50).abs().max() < 0.5 / 50 + 1e-3
    torch.testing.assert_close(step.mask.weight[:, 0], 1 / t)
    share = (~step.mask.visible & step.tokens.valid).sum() / step.tokens.valid.sum()
    assert abs(share.item() - 0.5) < 0.05
    whole = model.mask.at(step, torch.ones(50), model)
    assert not whole.visible.any() and torch.equal(whole.ask_ok.sum(1), step.tokens.valid.sum(1))


def test_an_autoregressive_model_reads_what_came_before_only():
    model = built(autoregressive(find("mdlm")))
    step = model.predict(model.hide(batch_of(example_schema("text"), 4)))
    ids = step.tokens.x["text"].clone()
    ids[:, 2] = (ids[:, 2] + 1) % 5
    moved = model.predict(step._replace(tokens=step.tokens._replace(x={"text": ids}), aux={}))
    order = step.mask.ask  # asked in the order of places
    assert torch.equal(order[0], torch.arange(order.shape[1]))
    same = (moved.pred["classes"] == step.pred["classes"]).all(-1)
    assert same[:, :3].all() and not same[:, 3].any()


def test_the_bound_is_the_mean_over_levels_of_errors_over_the_level(source, drawn):
    model = drawn.model().eval()
    few = source.subset([0, 1, 2])
    found, count = nats(model, drawn.schema, few, draws=2, seed=3)
    assert count.tolist() == [len(text) for text in TEXTS]
    (sample,) = batches(model, drawn.schema, few)
    expected = np.zeros(3)
    for n in range(2):
        step = Step(redrawn(sample, 3, n), model.tokenizer(sample), aux={})
        t = (n + keyed.uniform(step.sample["key"], 1, salt=9)[:, 0]) / 2  # the n-th half of the range
        step = model.predict(step._replace(mask=model.mask.at(step, t, model)))
        logp = step.pred["classes"].log_softmax(-1)
        for b in range(3):
            place = {int(token): k for k, token in enumerate(step.mask.ask[b])}
            hidden = (~step.mask.visible[b] & step.tokens.valid[b]).nonzero()[:, 0].tolist()
            errors = [-logp[b, place[i], step.tokens.x["text"][b, i]].item() for i in hidden]
            expected[b] += sum(errors) / t[b].item() / 2
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_autoregressive_likelihood_is_exact(source, drawn):
    model = autoregressive(find("mdlm")).build(drawn.schema, SMALL).eval()
    few = source.subset([0, 1, 2])
    found, count = nats(model, drawn.schema, few, draws=5)
    (sample,) = batches(model, drawn.schema, few)
    step = model.predict(model.hide(sample))
    logp = step.pred["classes"].log_softmax(-1).gather(-1, step.tokens.x["text"][..., None]).squeeze(-1)
    assert torch.equal(step.mask.ask[0], torch.arange(logp.shape[1]))
    assert found == pytest.approx(-(logp * step.tokens.valid).sum(1).detach().numpy(), rel=1e-4)
    assert count.tolist() == [len(text) for text in TEXTS]


def test_the_interval_of_bits_is_that_of_a_ratio():
    """Samples that all need the same bits a token leave no doubt, however long they are."""
    count = np.array([5, 10, 40])
    same = _bits(2 * math.log(2) * count, count)
    assert (same.mean, same.low, same.high) == pytest.approx((2, 2, 2))
    other = _bits(math.log(2) * np.array([5.0, 30, np.nan]), np.array([5, 10, 0]))
    assert other.mean == pytest.approx(35 / 15) and other.low < other.mean < other.high


def test_bits_a_token_beside_frequencies(drawn, source):
    table = evaluate(drawn, source, task="likelihood", draws=4)
    names = [row[0] for row in table.rows]
    bits = {row[0]: row[1].mean for row in table.rows}
    assert names == ["frequencies in training", "untrained model", "pre-trained model"]
    letters = [c for text in TEXTS for c in text]
    share = {c: letters.count(c) / len(letters) for c in set(letters)}
    entropy = -sum(p * math.log2(p) for p in share.values())
    assert bits["frequencies in training"] == pytest.approx(entropy, abs=0.3)  # counted by texts, not by places
    assert bits["pre-trained model"] < 0.5 * bits["frequencies in training"]
    assert bits["untrained model"] > bits["pre-trained model"]


@pytest.mark.parametrize("sampler", ["ancestral", "confidence", "semi-autoregressive"])
def test_drawn_texts_are_like_those_of_training(drawn, sampler):
    lengths = {len(text) for text in TEXTS}
    texts = generate(drawn, n=12, sampler=sampler, length=max(lengths), seed=1)
    pairs = {text[i : i + 3] for text in TEXTS for i in range(len(text) - 2)}
    known = [text[i : i + 3] in pairs for text in texts for i in range(len(text) - 2)]
    assert len(texts) == 12 and all(len(text) == max(lengths) for text in texts)
    assert np.mean(known) > 0.75  # by chance less than a hundredth
    assert generate(drawn, n=12, sampler=sampler, length=max(lengths), seed=1) == texts
    hot = [generate(drawn, n=12, sampler=sampler, length=24, temperature=3.0, seed=seed) for seed in (1, 2)]
    assert hot[0] != hot[1]


def test_a_prompt_stays_and_is_followed(drawn):
    texts = generate(drawn, n=8, prompt="all the w", length=24, temperature=0.5, guidance=1.0)
    assert all(text.startswith("all the w") for text in texts)
    assert sum("stage" in text for text in texts) >= 6


def test_samplers_step_by_step():
    class Sure:
        """Draws the number of the place; the later the place, the surer."""

        temperature = 0.0

        def uniform(self, shape):
            return torch.full(shape, 0.4)

        def __call__(self, ids, hidden):
            place = torch.arange(ids.shape[1]).expand(ids.shape)
            return place, place.float()

    ids, hidden = torch.full((2, 8), -1), torch.ones(2, 8, dtype=torch.bool)
    for step, left in enumerate([7, 5, 3, 0]):  # 8 * cos(pi / 2 * done)
        ids = confidence(Sure(), ids, ids == -1, Progress(step, 4, 8))
        assert (ids == -1).sum(1).tolist() == [left, left]
        assert (ids[:, :left] == -1).all()  # the surest appear first
    assert torch.equal(ids[0], torch.arange(8))
    ids = torch.full((2, 8), -1)
    assert (ancestral(Sure(), ids, hidden, Progress(0, 4, 8)) == -1).all()  # 0.4 is not below 1 / 4
    assert (ancestral(Sure(), ids, hidden, Progress(2, 4, 8)) >= 0).all()  # but below 1 / 2


def test_what_cannot_be_drawn_is_refused(drawn, tmp_path):
    for options, words in [
        ({"sampler": "beam"}, "no sampler 'beam'; there is: ancestral"),
        ({"n": 0}, "n and steps are numbers from 1 on"),
        ({"length": 10_000}, "at most"),
        ({"prompt": "all the world", "length": 5}, "the prompt has 13"),
        ({"guidance": 1.0}, "follows a prompt"),
        ({"block": 4}, "semi-autoregressive"),
        ({"out": "x.csv"}, r"\.txt or \.jsonl"),
    ]:
        with pytest.raises(GenerateError, match=words):
            generate(drawn, **options)
    run = pretrain("digits", steps=1, size=SMALL, out=tmp_path / "mae", probe_labels=None, progress=False)
    with pytest.raises(GenerateError, match="--recipe mdlm"):
        anymask.generate(run)
    one = autoregressive(find("mdlm"))
    ordered = pretrain(TEXTS, recipe=one, steps=1, size=SMALL, out=tmp_path / "ar", probe_labels=None, progress=False)
    with pytest.raises(GenerateError, match="at hidden places"):
        generate(ordered)
    with pytest.raises(EvaluateError, match="no bound of the likelihood"):
        evaluate(run, "digits", task="likelihood")
    leaky = one.but({"encoder.within": None}).build(drawn.schema, SMALL)
    with pytest.raises(EvaluateError, match="no bound of the likelihood"):
        check_likelihood(leaky)  # a token is read at the next place
    for wrong in ({"mask.least": 0.0}, {"mask.level": 2.0}):
        with pytest.raises(RecipeError, match="noise levels"):
            built(find("mdlm").but(wrong))


def test_a_report_shows_drawn_texts(drawn, source, tmp_path):
    page = report(drawn, source, tmp_path / "r.html", samples=40).read_text()
    texts = re.findall(r"<pre>([^<]+)</pre>", page[page.index("New samples</h2>") :])
    assert len(texts) == 4 and texts == [html.escape(text) for text in generate(drawn, n=4, steps=64)]


def test_the_command_prints_or_writes(drawn, tmp_path):
    said = CliRunner().invoke(main, ["generate", str(drawn.folder), "-n", "2", "--seed", "4", "--prompt", "now"])
    assert said.exit_code == 0 and said.output.count("now") >= 2
    out = tmp_path / "deep" / "texts.jsonl"
    said = CliRunner().invoke(main, ["generate", str(drawn.folder), "-n", "3", "-o", str(out)])
    assert said.exit_code == 0 and len([json.loads(line)["text"] for line in out.read_text().splitlines()]) == 3


def test_characters_are_pieces_spaces_and_line_ends_too():
    source = open_source(["a b\nA"], kind="text", tokenizer="characters", cased=True)
    model = find("mdlm").build(anymask.infer_schema(source, fewest=1), SMALL)
    assert -model.tokenizer.streams["text"] == 5 + 5
    step = Step({"text": torch.zeros(1, 1)}, model.tokenizer({"text": torch.zeros(1, 5, dtype=torch.int32)}))
    assert step.tokens.shape == (1, 5)
