"""What reports draw of proteins and molecules: letters side by side, hidden ones covered, guesses over the truth."""

import html
import re

import pytest
import torch
from task_tools import SMALL

from anymask.data import infer_schema, open_source
from anymask.data.kind import kind_of
from anymask.recipe import find
from anymask.reports.renderer import Panel, contents, renderer_of
from anymask.reports.texts import WIDTH
from anymask.train import measure

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", params=["protein", "molecule"])
def made(request):
    texts = kind_of(request.param).made_up(40, 5)
    source = open_source(texts, kind=request.param)
    torch.manual_seed(0)
    model = find("bert").build(infer_schema(source), SMALL).eval()
    batch = measure.first_batch(source, model.schema, 3)
    return model, batch, [texts[n] for n in batch["index"].tolist()]


def test_sequences_are_drawn_as_they_are(made):
    model, batch, texts = made
    renderer = renderer_of(model)
    with torch.no_grad():
        step = model(batch)
    content, visible, (_, known) = contents(model, step)
    plain, seen = renderer.draw([Panel("original", content), Panel("seen", content, visible)])
    assert "".join(html.unescape(t) for t in re.findall(r"<text[^>]*>([^<]*)</text>", plain.svg)) == "".join(texts)
    hidden = int((~visible & ~content.isnan()).sum())
    assert seen.svg.count('fill="var(--axis)"') == hidden and seen.alt.endswith(f"{hidden} tokens hidden")
    wrong = content.clone()
    wrong[known] = torch.where(content[known] == 6, 7.0, 6.0)
    _, drawn = renderer.draw([Panel("original", content), Panel("made", wrong, visible | known, None, known)])
    assert drawn.svg.count('font-size="7.5"') == drawn.svg.count('stroke="var(--c2)"') == int(known.sum())
    rights = [float(x) + float(w) for x, w in re.findall(r'<text x="([\d.]+)"[^>]*textLength="([\d.]+)"', plain.svg)]
    assert max(rights) <= WIDTH + 1
    assert renderer.candidates(model, step).alt.startswith(f"Likeliest {renderer.pieces}")
