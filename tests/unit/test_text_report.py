"""What reports draw of texts: words as they are, hidden ones covered, predictions beside the truth, candidates."""

import html
import re

import pytest
import torch
from task_tools import SMALL
from text_data import SENTENCES

from anymask.data import infer_schema, open_source
from anymask.evaluation.inputs import raw_input
from anymask.recipe import find
from anymask.reports.renderer import Panel, contents
from anymask.reports.texts import WIDTH, Sentences, Word, lines_of
from anymask.train import history, measure, watch

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", params=["wordpiece", "bytepair"])
def model(request):
    source = open_source(SENTENCES, tokenizer=request.param)
    torch.manual_seed(0)
    made = find("bert").build(infer_schema(source), SMALL).eval()
    made.batch = measure.first_batch(source, made.schema, 3)
    return made


def words(drawing):
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)]


def test_texts_are_drawn_as_they_are(model):
    renderer = Sentences(model)
    content = contents(model, model(model.batch))[0]
    (drawing,) = renderer.draw([Panel("original", content)])
    texts = [SENTENCES[n] for n in model.batch["index"].tolist()]
    assert "".join(words(drawing)).replace("…", "") in "".join(texts).replace(" ", "") or len(content[0]) > 48
    assert drawing.alt == "original: 3 texts"


def test_hidden_and_predicted(model):
    renderer, step = Sentences(model), model(model.batch)
    content, visible, made = contents(model, step)
    _, known = made
    right = content.clone()
    right[known] = torch.where(torch.arange(known.sum()) == 0, content[known], torch.tensor(7.0))
    panels = [Panel("seen", content, visible), Panel("made", right, visible | known, None, known)]
    seen, drawn = renderer.draw(panels)
    hidden = int((~visible & ~content.isnan()).sum())
    assert seen.alt.endswith(f"{hidden} tokens hidden") and seen.svg.count('fill="var(--axis)"') == hidden
    agree = int((right[known] == content[known]).sum())
    assert drawn.alt.endswith(f"{agree} of {int(known.sum())} hidden tokens predicted right")
    truth, _ = renderer.piece(int(content[known][-1]))
    assert any(text.endswith(f"({truth})") for text in words(drawn))
    assert known.sum() > 0 and not (known & visible).any()


def test_candidates(model):
    renderer = Sentences(model)
    with torch.no_grad():
        step = model(model.batch)
    drawing = renderer.candidates(model, step)
    b, m = torch.nonzero(step.mask.ask_ok & ~step.mask.visible.gather(1, step.mask.ask))[0].tolist()
    truth, _ = renderer.piece(int(step.tokens.x["text"][b, step.mask.ask[b, m]]))
    share, best = step.pred["classes"][b, m].softmax(-1).max(0)
    guess, _ = renderer.piece(int(best))
    assert f"{truth}: {guess} {float(share):.0%}" in drawing.alt


def test_lines_fit_the_drawing():
    lines = lines_of([Word("word", False), Word("piece", True)] * 40)
    assert len(lines) > 5
    for line in lines:
        x, word = line[-1]
        assert x + len(word.text) * 6.3 <= WIDTH
    assert lines[0][1][0] == pytest.approx(4 * 6.3)  # no space within a word


def test_history_holds_numbers_of_pieces_exactly(model, tmp_path):
    """Half precision holds whole numbers up to 2,048 only."""
    kept = history.History(tmp_path / "h.npz", model.batch, steps=1, step=0)
    kept.after(model, 0)
    content = contents(model, model(model.batch))[0]
    found = torch.from_numpy(history.read(tmp_path / "h.npz")["content"])
    assert torch.equal(found.nan_to_num(-1), content[: len(found)].nan_to_num(-1))


def test_plain_input_counts_pieces(model):
    tokens = model.tokenizer(model.batch)
    counts = history.plain(model, tokens)
    for row, text in zip(counts, model.batch["text"]):
        real = text[text >= 0].long()
        assert torch.equal(row, torch.bincount(real, minlength=len(row)).float())
    assert (raw_input(open_source(SENTENCES), model.schema) >= 0).all()


def test_the_constant_to_compare_with_comes_from_the_data(model):
    """Not from the few scored tokens, to which it would be fitted."""
    step = model(model.batch)
    counts = torch.tensor(model.schema.fields["text"].more["counts"]) + 0.5
    prior = (counts / counts.sum()).log()
    goal = step.goal["classes"][step.mask.ask_ok]
    assert watch.compare(model, step).constant == pytest.approx(-prior[goal].mean().item(), rel=1e-4)
