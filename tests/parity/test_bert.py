"""`bert` against Hugging Face's BertForMaskedLM: the same weights and masked words; weights from its folder."""

import json

import numpy as np
import pytest
import torch

from anymask.data import Schema, infer_schema, open_source
from anymask.data.kinds import _vocabulary
from anymask.data.kinds.text import made_up
from anymask.engine import Step
from anymask.interop import InteropError, from_hugging_face
from anymask.train.weights import load_weights

transformers = pytest.importorskip("transformers")
TEXTS = made_up(40, seed=1)
LONGEST = 24


@pytest.fixture
def folder(tmp_path):
    """A model with random weights and its vocabulary, as transformers saves them."""
    vocabulary = _vocabulary.WordPieces().trained(TEXTS, 200)
    size = _vocabulary.loaded(vocabulary).get_vocab_size()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160,
        max_position_embeddings=LONGEST + 1,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(vocabulary)
    return tmp_path


def schema_of(folder) -> Schema:
    return infer_schema(open_source(TEXTS, tokenizer=folder), size=LONGEST)


def test_bert(folder, record):
    """Words of several lengths, [SEP] as the last, chosen ones masked, replaced and kept: logits, loss and codes."""
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    recipe, size, weights = from_hugging_face(folder)
    schema = schema_of(folder)
    ours = recipe.build(schema, size).eval()
    assert ours.load_state_dict(weights) and ours.encoder.drop.p == 0.1
    vocabulary = _vocabulary.loaded(schema.fields["text"].more["tokenizer"])
    separator = vocabulary.token_to_id("[SEP]")
    cut = [np.append(one[: LONGEST - 1], separator) for one in _vocabulary.encode(vocabulary, TEXTS[:6])]
    words = torch.full((6, LONGEST), -1, dtype=torch.int32)
    for row, one in zip(words, cut):
        row[: len(one)] = torch.from_numpy(one)
    sample = {"text": words, "index": torch.arange(6), "key": torch.arange(6) * 7}
    with torch.no_grad():
        step = ours(sample)
        seen = ours.corruption(step, ours).content["text"]
    asked = torch.zeros(6, LONGEST, dtype=torch.bool).scatter(1, step.mask.ask, step.mask.ask_ok)
    cls = torch.full((6, 1), vocabulary.token_to_id("[CLS]"))
    there = torch.cat([torch.ones(6, 1), (words >= 0).float()], 1)
    labels = torch.where(asked, words.long(), -100)
    with torch.no_grad():
        theirs = model(
            input_ids=torch.cat([cls, seen], 1), attention_mask=there,
            labels=torch.cat([torch.full((6, 1), -100), labels], 1), output_hidden_states=True,
        )  # fmt: skip
    place = step.mask.ask[..., None].expand(-1, -1, theirs.logits.shape[-1])
    logits = (step.pred["classes"] - theirs.logits[:, 1:].gather(1, place))[step.mask.ask_ok].abs().max().item()
    loss = (step.loss - theirs.loss).abs().item()
    codes = torch.cat([step.latent.prefix, step.latent.x], 1) - theirs.hidden_states[-1]
    codes = codes[there.bool()].abs().max().item()
    assert asked.sum() > 10 and (seen[asked] != words[asked]).any()
    assert max(logits, loss, codes) < 1e-5
    record("bert", "transformers BertForMaskedLM", {"logits": logits, "loss": loss, "codes": codes})


def test_beginning_with_its_weights(folder):
    recipe, size, _ = from_hugging_face(folder)
    model = recipe.build(schema_of(folder), size)
    assert "fresh" not in load_weights(model, folder)
    assert isinstance(model(batch(model)), Step)


def batch(model):
    text = torch.randint(5, 20, (2, 8), dtype=torch.int32)
    return {"text": text, "index": torch.arange(2), "key": torch.arange(2)}


def test_what_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(InteropError, match="has hidden_act 'relu'"):
        from_hugging_face(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InteropError, match=r"no tokenizer.json or vocab.txt with \[CLS\]"):
        from_hugging_face(folder)
