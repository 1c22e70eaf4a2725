"""Parts for texts: what is chosen, kept and replaced; learned places; one direction; the decoder of RetroMAE."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from text_data import SENTENCES

from anymask import keyed
from anymask.contract import batch_of
from anymask.contract.data import example_schema
from anymask.data import infer_schema, open_source
from anymask.engine import Step, Tokens, everything
from anymask.parts.encoders import earlier
from anymask.recipe import RecipeError, Size, find

SMALL = Size(32, 2, 2, 32, 1, 2)


def build(recipe="bert", changes=None, schema=None):
    torch.manual_seed(0)
    return find(recipe).but({"encoder.dropout": 0.0, **(changes or {})}).build(schema or example_schema("text"), SMALL)


def wide(count=400, length=40):
    """A batch of texts of equal length."""
    numbers = torch.randint(5, 30, (count, length), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    index = torch.arange(count)
    return {"text": numbers, "index": index, "key": keyed.keys(0, 0, index)}


def long_schema():
    return infer_schema(open_source(SENTENCES), size=64)


def test_eighty_ten_ten():
    model = build(schema=long_schema())
    step = model.hide(wide())
    asked = torch.zeros(400, 40, dtype=torch.bool).scatter(1, step.mask.ask, step.mask.ask_ok)
    assert (asked.sum(1) == 6).all()  # 15 % of 40
    seen = model.corruption(step, model).content["text"]
    truth = step.tokens.x["text"]
    assert torch.equal(seen[~asked], truth[~asked]) and step.mask.visible[~asked].all()
    masked, same = seen[asked] == model.tokenizer.mask_id, step.mask.visible[asked]
    assert masked.float().mean() == pytest.approx(0.8, abs=0.03)
    assert same.float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(seen[asked][same], truth[asked][same])
    drawn = seen[asked][~masked & ~same]
    assert len(drawn.unique()) > 40 and drawn.max() < -model.tokenizer.streams["text"]
    always = build(changes={"mask.kept": 0.0, "corruption.random": 0.0}, schema=long_schema())
    step = always.hide(wide())
    asked = torch.zeros(400, 40, dtype=torch.bool).scatter(1, step.mask.ask, step.mask.ask_ok)
    assert (always.corruption(step, always).content["text"][asked] == always.tokenizer.mask_id).all()


def test_impossible_shares():
    with pytest.raises(RecipeError, match="share of the chosen tokens"):
        build(changes={"mask.kept": 0.5, "corruption.random": 0.6})
    with pytest.raises(RecipeError, match=r"mask\.kept is a share"):
        build(changes={"mask.kept": 1.0})


def test_places_are_those_of_the_tokens():
    model = build(schema=long_schema())
    tokens = model.tokenizer(wide(2, 10))
    places = model.stem.positions(tokens)
    assert torch.equal(places[0], model.stem.positions.table[:10])
    moved = model.stem.positions(tokens._replace(pos=tokens.pos.flip(1)))
    assert torch.equal(moved, places.flip(1))


def test_scores_are_tied_to_the_embedding():
    model = build()
    step = model(batch_of(example_schema("text")))
    codes = step.latent.x.gather(1, step.mask.ask[..., None].expand(-1, -1, 32))
    head = model.decoder
    by_hand = head.norm(F.gelu(head.dense(codes))) @ model.stem.embed["text"].weight.T + head.bias
    torch.testing.assert_close(step.pred["classes"], by_hand)
    assert model.target.constants["classes"].exp().sum() == pytest.approx(1, rel=1e-4)


def test_from_left_to_right():
    """Under `earlier`, a code does not depend on later words."""
    model = build(changes={"encoder.within": earlier}).eval()
    batch = batch_of(example_schema("text"))
    other = {**batch, "text": batch["text"].clone()}
    other["text"][:, 3] = torch.where(other["text"][:, 3] >= 0, 7, -1)
    a, b = model.embed(batch), model.embed(other)
    assert torch.equal(a.x[:, :3], b.x[:, :3]) and not torch.equal(a.x[:, 3:], b.x[:, 3:])
    assert not torch.equal(a.prefix, b.prefix)  # CLS reads all


# RetroMAE's decoder.


def test_what_each_word_reads():
    model = build("retromae", schema=long_schema())
    batch = wide(30, 40)
    batch["text"][:, 30:] = -1
    tokens = model.tokenizer(batch)
    sees = model.extras[0].sees(tokens, batch["key"])
    assert not sees.diagonal(dim1=1, dim2=2).any() and not sees[:, :, 30:].any()
    assert sees[:, :30, :30].float().mean() == pytest.approx(0.5 * 29 / 30, abs=0.02)
    assert len({tuple(row.tolist()) for row in sees[0, :30]}) == 30  # its own choice for each
    shorter = {**batch, "text": batch["text"][:, :32]}
    assert torch.equal(sees[:, :32, :32], model.extras[0].sees(model.tokenizer(shorter), batch["key"]))


def test_bottleneck_by_brute_force():
    """One word at a time: a layer over the CLS code and the words that it reads, cross-entropy of the word."""
    model = build("retromae")
    batch = batch_of(example_schema("text"), count=3)
    step = model(batch)
    part, tokens = model.extras[0], step.tokens
    plain = model.stem(Step(batch, tokens, everything(tokens))).x
    sees, errors = part.sees(tokens, batch["key"]), []
    for b in range(3):
        cls = step.latent.prefix[b, :1]
        for n in range(int(tokens.valid[b].sum())):
            context = torch.cat([cls, part.norm(plain[b, sees[b, n]])])[None]
            query = part.norm(cls + model.stem.positions.table[n])[None]
            code = part.block(query, None, context)
            errors.append(F.cross_entropy(model.decoder.scores(code, model)[0], tokens.x["text"][b, n][None]))
    torch.testing.assert_close(step.aux["bottleneck"], torch.stack(errors).mean())
    torch.testing.assert_close(step.loss, step.aux["bottleneck"] + step.error["classes"][step.mask.ask_ok].mean())


def test_the_predicted_word_is_not_read():
    """Gradients: the scores of a word depend on the others and on the CLS code, never on itself."""
    model = build("retromae")
    part, batch = model.extras[0], batch_of(example_schema("text"), count=2)
    step = model.hide(batch)
    content = torch.randn(*step.tokens.shape, 32, requires_grad=True)
    cls = torch.randn(2, 1, 32, requires_grad=True)
    sees = F.pad(part.sees(step.tokens, batch["key"]), (1, 0), value=True)
    codes = part.block(torch.randn(*step.tokens.shape, 32), sees, torch.cat([cls, content], 1))
    for n in range(4):
        own, squeezed = torch.autograd.grad(codes[0, n].pow(3).sum(), (content, cls), retain_graph=True)
        read = own[0].abs().sum(-1) > 0
        assert not read[n] and torch.equal(read, sees[0, n, 1:]) and (squeezed[0] != 0).any()


# Bags of pieces.


def test_bags_are_scikit_learns():
    from sklearn.feature_extraction.text import TfidfVectorizer

    from anymask.data.kinds import _vocabulary
    from anymask.evaluation.inputs import raw_input

    source = open_source(SENTENCES)
    schema = infer_schema(source)
    made = _vocabulary.loaded(schema.fields["text"].more["tokenizer"])
    cut = [" ".join(map(str, one)) for one in _vocabulary.encode(made, SENTENCES)]
    size = len(schema.fields["text"].more["counts"])
    theirs = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+", vocabulary=[str(n) for n in range(size)])
    np.testing.assert_allclose(raw_input(source, schema), theirs.fit_transform(cut).toarray(), atol=1e-5)


@pytest.mark.parametrize("ratio", [0.001, 0.15, 0.333, 0.9995])
def test_hidden_tokens_are_no_more_than_a_mask_says(ratio):
    """So many the generator of electra looks at: none of them may be left out."""
    model = find("electra").but({"mask.ratio": ratio}).build(example_schema("text"), SMALL)
    for n in (1, 2, 7, 64, 3001):
        count = torch.tensor([1, n // 2, n])
        valid = torch.arange(n) < count[:, None]
        tokens = Tokens({"text": valid.long()}, torch.zeros(1, n, 1), valid=valid)
        step = Step({"key": keyed.keys(0, 0, torch.arange(3))}, tokens)
        hidden = ~model.mask(step, model).visible & valid
        assert hidden.sum(1).max() <= model.corruption.most(model, n) <= n


def test_a_generator_draws_for_hidden_tokens_alone():
    torch.manual_seed(0)
    model = find("electra").build(example_schema("text"), SMALL)
    step = model.hide(batch_of(example_schema("text"), 8))
    step = step._replace(aux={})
    torch.manual_seed(1)
    content = model.corruption(step, model).content["text"]
    real, hidden = step.tokens.x["text"], ~step.mask.visible & step.tokens.valid
    assert hidden.sum(1).unique().numel() > 1 and (content != real)[hidden].float().mean() > 0.5
    assert torch.equal(content[~hidden], real[~hidden])
    logp = model.corruption.scores(step, model).log_softmax(-1).gather(-1, real[..., None]).squeeze(-1)
    torch.testing.assert_close(step.aux["generator"], -logp[hidden].mean())
