"""Trajectories: scenes from files, tokens of pasts and futures, masks, forecasts, pictures."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_tools import run

from anymask import keyed
from anymask.data import DataError, SchemaError, infer_schema, open_source
from anymask.data.kinds.trajectory import crowds
from anymask.engine import Step
from anymask.evaluation import evaluate
from anymask.evaluation.trajectories import (
    Forecaster,
    constant_velocity,
    displacement,
    forecast,
    past_only,
    paths_of,
    seen_pasts,
)
from anymask.parts.agents import PastAndFuture
from anymask.recipe import find
from anymask.reports import Panel, renderer_of
from anymask.sizes import Size

DATA = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
SMALL = Size(32, 2, 2, 32, 2, 2)


def written(path, agents=6, frames=40, seed=0, apart=10, head="", cut=()):
    """A scene of agents that walk on lines, the n-th from frame n on; and its positions by (agent, step)."""
    rng = np.random.default_rng(seed)
    known, lines = {}, [head] * bool(head)
    for t in range(frames):
        for agent in range(agents):
            if agent <= t < frames - agent and (agent, t) not in cut:
                place = np.array([agent + 0.3 * t * (1 + agent / 9), 2.0 * agent - 0.05 * t])
                place += rng.normal(0, 0.01, 2)
                known[agent, t] = place
                lines.append(f"{apart * t}.0\t{agent + 1}.0\t{place[0]:.6f}\t{place[1]:.6f}")
    path.write_text("\n".join(lines) + "\n")
    return known


def test_scenes_are_cut_into_windows_of_one_agent_and_its_neighbours(tmp_path):
    known = {name: written(tmp_path / f"{name}.txt", seed=n) for n, name in enumerate("ab")}
    source = open_source(tmp_path)
    assert list(source.kinds) == ["trajectory"] and sorted(set(source.groups)) == ["a", "b"]
    lengths = [40 - 2 * agent for agent in range(6)]
    assert len(source) == 2 * sum(n - 19 for n in lengths)
    for n in range(0, len(source), 17):
        scene, agent, start = source.columns["trajectory"].at[n].tolist()
        truth, value = known["ab"[scene]], source[n]["trajectory"]
        now = {a: truth[a, start + 7] for a in range(6) if (a, start + 7) in truth}
        order = sorted(now, key=lambda a: (a != agent, np.linalg.norm(now[a] - now[agent])))
        assert value.shape == (2, 20, len(order))
        for place, other in enumerate(order):
            for t in range(20):
                true = truth.get((other, start + t), [np.nan, np.nan])
                np.testing.assert_allclose(value[:, t, place], true, atol=1e-4)
        assert source.id_of(n) == f"{'ab'[scene]}, agent {agent + 1}, step {start}"
    field = infer_schema(source).fields["trajectory"]
    assert field.shape == (2, 20, 6) and field.more["past"] == 8
    assert sorted(set(open_source(tmp_path, ignore="a").groups)) == ["b"]
    assert len(open_source(tmp_path / "a.txt", window=30, stride=5)) == sum(-(-max(0, n - 29) // 5) for n in lengths)


def test_headings_commas_gaps_and_other_rates(tmp_path):
    written(tmp_path / "a.csv", apart=6, cut={(1, 20)}, head="frame,id,x,y")
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace("\t", ","))
    source = open_source(tmp_path)
    assert source.columns["trajectory"].scenes[0].step == 6 and "1 steps are missing" in source.notes[0]
    values = [source[n]["trajectory"] for n in range(len(source))]
    assert all(np.isfinite(value[..., 0]).all() for value in values)  # no window of an agent over its own gap
    assert any(np.isnan(value[0, :, 1:]).sum() == 1 for value in values)  # but over a neighbour's
    table = tmp_path / "table.csv"
    table.write_text("a,b,c,d\n" + "".join(f"{n},{n % 3},{n / 7},{n / 3}\n" for n in range(40)))
    assert list(open_source(table).kinds) == ["table"]
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("frame by frame we read\nno numbers at all\n")
    (text / "b.txt").write_text("nor here\n")
    assert list(open_source(text).kinds) == ["text"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 1 2 3\n10 1 2\n", "line 2 is not frame"),
        ("0 1 2 3\n0 2 4 4\n", "in one frame"),
        ("0 1 2 3\n10 1 2 3\n10 1 2 4\n", "two positions"),
        ("0 1 2 3\n10 1 2 3\n20 1 2 4\n", "20 steps one after another"),
        ("0 1 2 nan\n10 1 2 3\n20 1 2 4\n", "line 1|no scene"),
        ("", "no positions|no scene"),
    ],
)
def test_bad_scenes_say_why(tmp_path, text, words):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        open_source(tmp_path, kind="trajectory")


def test_what_does_not_fit_is_said(tmp_path):
    written(tmp_path / "a.txt")
    wrong = [({"label": "x"}, "no labels"), ({"ignore": "b"}, "no scene 'b'"), ({"window": 3}, "4 or more"),
             ({"stride": 0}, "from 1"), ({"ignore": "a"}, "ignored")]  # fmt: skip
    for options, words in wrong:
        with pytest.raises(DataError, match=words):
            open_source(tmp_path, kind="trajectory", **options)
    one, other = (infer_schema(open_source(tmp_path, window=n)) for n in (20, 16))
    with pytest.raises(SchemaError, match="--window 20"):
        one.check(other)
    gone = crowds(4, (2, 12, 2), 0).transpose(0, 3, 2, 1).copy()
    gone[0, 0, 3] = np.nan
    with pytest.raises(DataError, match="not seen in every step"):
        infer_schema(open_source(gone, kind="trajectory"))


def arrays(n=12, steps=12, agents=3):
    return crowds(n, (2, steps, agents), 3).transpose(0, 3, 2, 1)  # N A T 2


def batch(x):
    value = torch.from_numpy(x.transpose(0, 3, 2, 1).copy())
    return {"trajectory": value, "key": keyed.keys(0, 0, torch.arange(len(x)))}


def test_tokens_are_pasts_and_futures_in_the_agents_frame():
    x = arrays()
    schema = infer_schema(open_source(x, kind="trajectory"))
    part = PastAndFuture(SimpleNamespace(schema=schema))
    past = part.past
    tokens = part(batch(x))
    assert past == 5 and tokens.shape == (12, 6) and tokens.kinds.tolist() == [[0, 0, 0, 1, 1, 1]]
    for b in range(12):
        step = x[b, 0, past - 1] - x[b, 0, past - 2]
        angle = -np.arctan2(step[1], step[0])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = (x[b] - x[b, 0, past - 1]) @ turn.T  # A T 2
        for a in range(3):
            seen = np.isfinite(moved[a]).all(1)
            known = seen[past - 1] and seen[past - 2]
            assert bool(tokens.valid[b, a]) == known
            assert bool(tokens.valid[b, 3 + a]) == (known and seen[past:].any())
            if not known:
                continue
            for token, mine in ((a, np.arange(12) < past), (3 + a, np.arange(12) >= past)):
                if tokens.valid[b, token]:
                    true = np.where(mine[:, None], moved[a], np.nan)
                    np.testing.assert_allclose(part.paths(tokens.x["trajectory"])[b, token], true, atol=1e-4)
                    np.testing.assert_allclose(tokens.pos[b, token, :2], moved[a, past - 1], atol=1e-4)
            way = moved[a, past - 1] - moved[a, past - 2]
            np.testing.assert_allclose(tokens.pos[b, a, 2:4], way / np.linalg.norm(way), atol=1e-3)
    np.testing.assert_allclose(tokens.pos[:, 0], [[0, 0, 1, 0, 0]] * 12, atol=1e-5)
    turn = np.array([[0, -1], [1, 0]])
    again = part(batch((x @ turn.T + 50).astype("f4")))  # wherever the scene is, and however it lies
    torch.testing.assert_close(again.x["trajectory"], tokens.x["trajectory"], equal_nan=True, atol=2e-3, rtol=1e-3)


def test_of_each_agent_one_of_the_two_is_hidden():
    model = find("forecast-mae").build(infer_schema(open_source(arrays(), kind="trajectory")), SMALL)
    shown = np.zeros(2)
    for draw in range(50):
        sample = {**batch(arrays()), "key": keyed.keys(0, draw, torch.arange(12))}
        step = model.hide(sample)
        valid, visible = step.tokens.valid, step.mask.visible
        both = valid[:, :3] & valid[:, 3:]
        assert torch.equal((visible[:, :3] ^ visible[:, 3:])[both], torch.ones(int(both.sum()), dtype=torch.bool))
        assert visible[:, :3][valid[:, :3] & ~valid[:, 3:]].all() and not (visible & ~valid).any()
        count = both.sum(1)
        assert torch.equal((visible[:, 3:] & both).sum(1), count // 2)
        asked = torch.zeros_like(valid).scatter(1, step.mask.ask, step.mask.ask_ok)
        assert torch.equal(asked, valid & ~visible)
        shown += [int((visible[:, 0] & both[:, 0]).sum()), int((visible[:, 3] & both[:, 0]).sum())]
    assert 0.25 < shown[1] / shown.sum() < 0.5  # also of the agent that the sample is about


def test_content_of_true_steps_is_the_truth():
    model = find("forecast-mae").build(infer_schema(open_source(arrays(), kind="trajectory")), SMALL)
    step = model.hide(batch(arrays()))
    truth = torch.gather(step.tokens.x["trajectory"], 1, step.mask.ask[..., None].expand(-1, -1, 26))
    made = model.target.content(step._replace(pred={"steps": truth[..., :-2].nan_to_num()}))
    known = ~truth.isnan()
    torch.testing.assert_close(made[known], truth[known])
    own = made.isnan()[..., :24]
    assert set(own.sum(-1)[step.mask.ask_ok].tolist()) <= {10, 14}  # steps of the other token are none


def test_forecasts_by_hand():
    past = np.array([[[-2.0, 0], [-1, 1], [0, 0]]])
    guess = constant_velocity(past, np.zeros((1, 2, 2)))
    assert guess.tolist() == [[[1, -1], [2, -2]]]
    ade, fde = displacement(guess, np.array([[[1.0, 2], [2, 2]]]))
    assert ade.tolist() == [3.5] and fde.tolist() == [4.0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for n, name in enumerate("abc"):
        written(root / f"{name}.txt", agents=3, frames=30, seed=n)
    made = run(root / "run", str(root), recipe="forecast-mae", steps=4, batch_size=4, ignore=("c",), window=12)
    return made, root


def test_futures_never_reach_a_forecast(trained):
    made, root = trained
    model = made.model().eval()
    source = open_source(root, window=12)
    sample = next(iter_batches(source, made))
    other = {**sample, "trajectory": sample["trajectory"].clone()}
    other["trajectory"][:, :, 5:] = torch.where(other["trajectory"][:, :, 5:].isnan(), torch.nan, 7.0)
    one, two = (Forecaster(model).eval()(given)[0] for given in (sample, other))
    assert torch.equal(one, two)
    step = past_only(model, sample)
    assert not step.mask.visible[:, step.tokens.kinds[0] == 1].any()


def iter_batches(source, made):
    from anymask.evaluation.masked import batches

    return batches(made.model(), made.schema, source, batch_size=8, fixed=True)


def test_a_scene_is_held_back(trained):
    made, root = trained
    source = open_source(root, window=12)
    held = source.subset(np.flatnonzero(source.groups == "c"))
    table = evaluate(made, source, task="trajectory", scene="c", epochs=1, batch_size=8)
    names = [row[0] for row in table.rows]
    assert names == ["constant velocity", "linear, own past", "untrained encoder, linear head",
                     "pre-trained model itself", "pre-trained encoder, linear head", "fine-tuned, from scratch",
                     "fine-tuned, pre-trained"]  # fmt: skip
    past, future = paths_of(held, made.schema)
    ade, fde = displacement(constant_velocity(past, future), future)
    assert table.rows[0][1].mean == pytest.approx(ade.mean(), rel=1e-4)
    assert table.rows[0][2].mean == pytest.approx(fde.mean(), rel=1e-4)
    assert not any("may have been pre-trained" in note for note in table.notes)
    assert any("may have been" in n for n in evaluate(made, source, task="trajectory", scene="a").notes)
    pasts = seen_pasts(made.model().eval(), held)
    assert pasts.past.shape == (len(held), 5, 2) and pasts.future.shape == (len(held), 7, 2)
    guess, truth = forecast(Forecaster(made.model()).eval(), held)
    np.testing.assert_allclose(guess, constant_velocity(pasts.past, pasts.future), atol=1e-4)  # the head starts at 0
    np.testing.assert_allclose(truth, pasts.future, atol=1e-5)


def test_pictures_from_above(trained):
    made, root = trained
    model = made.model()
    sample = next(iter_batches(open_source(root, window=12), made))
    step = Step(sample, model.tokenizer(sample), aux={})
    step = step._replace(mask=past_only(model, sample).mask)
    x, seen = step.tokens.x["trajectory"][:2], step.mask.visible[:2]
    first, second, third = renderer_of(model).draw([
        Panel("original", x), Panel("visible", x, seen), Panel("rebuilt", x, torch.ones_like(seen), predicted=~seen)
    ])  # fmt: skip
    assert "hidden" in second.alt and "predicted" in third.alt and "nan" not in first.svg + second.svg + third.svg
    assert first.svg.count("var(--c2)") == 0 < third.svg.count("var(--c2)") and "var(--axis)" in second.svg
    assert first.svg.count('stroke="var(--c1)"') == int(step.tokens.valid[:2].sum())


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
def test_eth_and_ucy():
    source = open_source(DATA / "eth_ucy")
    assert len(set(source.groups)) == 8 and sum(len(s.tracks) for s in source.columns["trajectory"].scenes) == 2205
    total = sum(int(np.isfinite(t[:, 0]).sum()) for s in source.columns["trajectory"].scenes for t in s.tracks)
    assert total == 74_428
    assert infer_schema(source).fields["trajectory"].shape == (2, 20, 12)
    assert len(open_source(DATA / "eth_ucy" / "biwi_eth.txt")) == 364  # as others count them
