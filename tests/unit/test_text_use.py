"""Runs on texts: from data to a run and on again, features, few labels, fine-tuning, and data that do not fit."""

import json

import numpy as np
import pytest
import torch
from task_tools import SMALL, made
from text_data import SENTENCES
from train_tools import QUIET, At
from train_tools import run as start

from anymask.data import SchemaError, open_source
from anymask.evaluation import embed, evaluate, finetune, predict
from anymask.train import Interrupted, plan, pretrain

TOPIC = [int("snow" in t or "rain" in t or "dust" in t or "storm" in t) for t in SENTENCES]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made((SENTENCES, TOPIC), tmp_path_factory.mktemp("run"), recipe="bert")


def test_what_will_be_done():
    made = plan(SENTENCES, size=SMALL, writes=False)
    rows = dict(made.rows())
    assert made.recipe.slug == "bert" and "positions, in batches of similar lengths" in rows["padding"]
    assert made.settings()["padding"] == made.padding and 0 <= made.padding[0] <= made.padding[1] < 1
    assert plan("digits", size=SMALL, writes=False).padding is None
    assert plan(SENTENCES, writes=False).size_name == "nano"


def test_interrupted_and_gone_on_with(tmp_path):
    """Bit for bit as without the interruption, over the end of an epoch; the vocabulary is in the run's JSON."""
    options = dict(recipe="retromae", steps=14, batch_size=8, seed=2, precision="fp32")
    whole = start(tmp_path / "whole", SENTENCES, **options)
    with pytest.raises(Interrupted):
        start(tmp_path / "cut", SENTENCES, **options, loggers=(At(6),))
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["schema"]["fields"]["text"]["more"]["tokenizer"]
    cut = pretrain(SENTENCES, out=tmp_path / "cut", resume=True, **QUIET)
    assert cut.schema == whole.schema
    for (name, a), b in zip(whole.model().state_dict().items(), cut.model().state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_features_do_not_depend_on_what_is_beside(run):
    together = embed(run, SENTENCES)
    alone = np.concatenate([embed(run, [text, text], batch_size=2)[:1] for text in SENTENCES[:5]])
    np.testing.assert_allclose(together[:5], alone, rtol=1e-4, atol=1e-5)
    assert embed(run, SENTENCES, pool="cls").shape == (80, 32)


def test_few_labels_and_fine_tuning(run, tmp_path):
    table = evaluate(run, (SENTENCES, TOPIC), labels=(5,), draws=3)
    rows = {(row[0], row[1]): row[2].mean for row in table.rows}
    assert rows["raw input", "linear probe"] > 80  # topics have words of their own
    assert any("bags of word pieces" in note for note in table.notes)
    folder = finetune(run, (SENTENCES, TOPIC), epochs=15, lr=3e-3, out=tmp_path / "tuned", progress=False)
    guessed = predict(folder, SENTENCES[:20])
    assert len(guessed.rows) == 20


def test_other_data_are_refused(run):
    with pytest.raises(SchemaError, match="has no part 'text'"):
        embed(run, "digits")
    with pytest.raises(SchemaError, match="give data of kind image"):
        embed(made("digits", run.folder.parent / "digits"), SENTENCES)
    assert open_source(SENTENCES).kinds["text"].augmentable(None) != ""
