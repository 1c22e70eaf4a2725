"""Parts of electrocardiograms: patches of leads, masks, decoding by leads; rebuilding leads, rare beats, pictures."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from test_ecg_open import record
from train_tools import run

from anymask import keyed
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.data import few_label_draws, open_source
from anymask.engine import Step
from anymask.evaluation import EvaluateError, embed, evaluate
from anymask.evaluation.rare import few_label_precision
from anymask.parts.ecg import lead_of
from anymask.parts.targets import spreads
from anymask.recipe import find
from anymask.reports import Panel, renderer_of


def model_of(changes=None):
    torch.manual_seed(0)
    return find("st-mem").but(changes or {}).build(example_schema("ecg"), SMALL)


def test_patches_of_missing_leads_are_not_valid():
    model = model_of()
    sample = batch_of(model.schema, 4)
    tokens = model.tokenizer(sample)
    x, side = sample["ecg"], model.tokenizer.sides[0]
    assert tokens.grid == (3, -(-48 // side))
    for b in range(4):
        for n in range(tokens.shape[1]):
            lead, place = divmod(n, tokens.grid[1])
            piece = x[b, lead, side * place : side * (place + 1)]
            assert bool(tokens.valid[b, n]) == bool(piece.isfinite().any())
            assert int(lead_of(tokens.pos)[0, n]) == lead
    field = model.schema.fields["ecg"]
    back = model.tokenizer.raw(model.tokenizer.values(tokens.x["ecg"]))[..., :48]
    torch.testing.assert_close(back, x, equal_nan=True, atol=1e-5, rtol=1e-4)
    assert field.units == ("mV",) * 3


@pytest.mark.parametrize(("leads", "times"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.3, 0.3)])
def test_masks_hide_leads_or_moments(leads, times):
    model = model_of({"mask.ratio": 0.5, "mask.leads": leads, "mask.times": times})
    sample = batch_of(model.schema, 4)
    sample["ecg"] = sample["ecg"].nan_to_num()  # all leads are there
    grid = model.tokenizer.grid
    kinds = []
    for draw in range(60):
        key = keyed.keys(0, draw, torch.arange(4))
        visible = model.hide({**sample, "key": key}).mask.visible.view(4, *grid).float()
        assert (visible.sum((1, 2)) == (grid[0] * grid[1]) // 2).all()
        whole = ((visible.mean(2) == 0) | (visible.mean(2) == 1)).sum(1) >= grid[0] - 1  # but for one lead
        together = (visible.std(1) == 0).sum(1) >= grid[1] - 1
        kinds += [("leads" if w else "times" if t else "patches") for w, t in zip(whole.tolist(), together.tolist())]
    share = {name: kinds.count(name) / len(kinds) for name in ("leads", "times", "patches")}
    assert abs(share["leads"] - leads) < 0.12 and abs(share["times"] - times) < 0.12


def test_a_lead_is_decoded_from_its_own_codes_and_token():
    """Codes of another lead do not move a prediction; those of its own and its lead's token do."""
    model = model_of().eval()
    step = model.hide(batch_of(model.schema, 4))
    step = step._replace(seen=model.corruption(step, model))
    latent = model.encoder(step, model)
    lead = lead_of(step.tokens.pos)[0]
    kept, asked = lead[step.mask.keep], lead[step.mask.ask]
    predict = lambda new: model.decoder(step._replace(latent=new), model)["patch"]
    with torch.no_grad():
        before = predict(latent)
        for number in range(3):
            codes = predict(latent._replace(x=torch.where((kept == number)[..., None], latent.x + 1, latent.x)))
            tokens = predict(latent._replace(prefix=latent.prefix + (torch.arange(3) == number)[None, :, None]))
            moved = [(after - before).abs().amax(-1) > 1e-6 for after in (codes, tokens)]
            for at in moved:
                assert not at[(asked != number) & step.mask.ask_ok].any()
            assert moved[1][(asked == number) & step.mask.ask_ok].all()
        across = model_of({"decoder.across": True}).eval()
        step = across.hide(batch_of(across.schema, 4))
        step = step._replace(seen=across.corruption(step, across))
        latent = across.encoder(step, across)
        other = latent._replace(x=latent.x + 1.0 * (kept == 0)[..., None])
        gap = across.decoder(step._replace(latent=other), across)["patch"]
        gap = gap - across.decoder(step._replace(latent=latent), across)["patch"]
        assert (gap.abs().amax(-1) > 1e-6)[(asked != 0) & step.mask.ask_ok].any()


def test_normalised_patches_and_their_way_back():
    model = model_of()
    step = model.hide(batch_of(model.schema, 4))
    truth = torch.gather(step.tokens.x["ecg"], 1, step.mask.ask[..., None].expand(-1, -1, model.tokenizer.sides[0]))
    goal = model.target(step, model)["patch"]
    mean, spread = spreads(truth)
    torch.testing.assert_close(goal, (truth - mean) / spread, equal_nan=True)
    back = model.target.content(step._replace(pred={"patch": goal}))
    torch.testing.assert_close(back, truth, equal_nan=True, atol=1e-4, rtol=1e-4)


def test_precision_of_few_labels_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, test_y = rng.random(200) < 0.3, rng.random(300) < 0.1
    x, test_x = (rng.normal(size=(len(z), 6)).astype("f4") + 0.8 * z[:, None] for z in (y, test_y))
    ours = few_label_precision(x, y, test_x, test_y, labels=4, draws=3, seed=0)  # 4 labels: C is 0.1
    scale = StandardScaler().fit(x)
    for n, draw in enumerate(few_label_draws(y.astype(int), 4, 3, 0)):
        probe = LogisticRegression(C=0.2)  # ours has two opposite weights, which share the penalty of one
        probe.fit(scale.transform(x[draw]), y[draw])
        theirs = average_precision_score(test_y, probe.decision_function(scale.transform(test_x)))
        assert ours[n] == pytest.approx(theirs, abs=0.01)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("ecg")
    path, _ = record(root, seconds=120, leads=("I", "II", "V1"), symbols="NNA", rate=100)
    options = dict(label="beat", parts="0.5,0.1,0.4")
    made = run(root / "run", str(path), recipe="st-mem", steps=3, batch_size=8, changes={"target.normalise": False},
               **options)  # fmt: skip
    return made, open_source(path, **options)


def test_rare_beats_are_looked_for(trained):
    made, source = trained
    table = evaluate(made, source, task="rare", labels=5, draws=4)
    assert "'A' against 'N'" in table.title and table.rows[0][0] == "raw input"
    assert table.rows[0][1].mean > 30 and len(embed(made, source)) == len(source)
    with pytest.raises(EvaluateError, match="fewer than 500"):
        evaluate(made, source, task="rare", labels=500)
    with pytest.raises(EvaluateError, match="no samples of class 'V'"):
        evaluate(made, source, task="rare", positive="V")


def test_hidden_leads_are_rebuilt_beside_a_regression(trained):
    made, source = trained
    table = evaluate(made, source, task="leads", hidden="V1")
    (row, mean) = table.records()
    assert row["lead"] == "V1" and mean["lead"] == "mean" and row["linear regression, r"].mean > 0.99
    known = np.concatenate([source[n]["ecg"] for n in range(len(source))], 1)
    new = np.concatenate([source.split("test")[n]["ecg"] for n in range(len(source.split("test")))], 1)
    line = LinearRegression().fit(known[:2].T, known[2])
    rmse = np.sqrt(np.mean((line.predict(new[:2].T) - new[2]) ** 2))
    assert row["linear regression, RMSE"].mean == pytest.approx(float(rmse), rel=1e-3)
    flat = np.sqrt(np.mean((known[2].mean() - new[2]) ** 2))
    assert row["mean of the lead, RMSE"].mean == pytest.approx(float(flat), rel=1e-3)
    assert not any("borrows" in note for note in table.notes)
    assert [r["lead"] for r in evaluate(made, source, task="leads").records()] == ["I", "II", "V1", "mean"]
    for hidden, words in (("V7", "no lead 'V7'"), ("I,II,V1", "no lead is left")):
        with pytest.raises(EvaluateError, match=words):
            evaluate(made, source, task="leads", hidden=hidden)


def test_leads_are_drawn_one_below_another_on_one_scale(trained):
    made, source = trained
    model = made.model()
    x = np.stack([source[n]["ecg"] for n in range(2)])
    x[:, 1] = np.nan
    sample = {"ecg": torch.from_numpy(x), "key": keyed.keys(0, 0, torch.arange(2))}
    step = Step(sample, model.tokenizer(sample), aux={})
    step = step._replace(mask=model.mask(step, model))
    content, seen = step.tokens.x["ecg"][:1], step.mask.visible[:1]
    first, second, third = renderer_of(model).draw([
        Panel("original", content), Panel("visible", content, seen),
        Panel("rebuilt", content, torch.ones_like(seen), predicted=~seen),
    ])  # fmt: skip
    assert ">I<" in first.svg and ">V1<" in first.svg and ">II<" not in first.svg
    assert "leads missing or not drawn: 1" in first.svg
    spans = {part.split("<")[0] for part in first.svg.split('fill="var(--muted)">')[1:] if " to " in part}
    assert len(spans) == 1 and "mV" in spans.pop()
    assert "hidden" in second.alt and "predicted" in third.alt
