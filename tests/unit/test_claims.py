"""Verdicts, budgets, the cache and the evidence file of claims."""

import dataclasses
import json
import re

import numpy as np
import pytest

from anymask.claims import (
    NOISY,
    NOT_SHOWN,
    SHOWN,
    ClaimError,
    Evidence,
    FineTune,
    Impute,
    OutOfTime,
    arms,
    judge,
    verify,
)
from anymask.claims.evidence import pack, page, unpack
from anymask.claims.levels import level
from anymask.data.kinds.table import cells_of
from anymask.recipe import catalogue, find

RECIPE = """
from anymask.claims import Claim
from anymask.parts.corruptions import Replace
from anymask.recipe import P, recipe
from anymask.recipes.image.mae import mae


@recipe(parent=mae, slug="{slug}")
def {slug}(r):
    \"\"\"A smaller ratio.\"\"\"
    return r.but(mask={{"ratio": 0.5}})


claim = Claim(text="dropping beats replacing", better_than=lambda r: r.but({comparator}), on="digits", samples=64,
              epochs=1, batch_size=32)

further_claims = {{
    "ratio": Claim(text="half beats a quarter", better_than=lambda r: r.but(mask={{"ratio": 0.25}}), on="digits",
                   samples=64, epochs=1, batch_size=32)
}}
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ANYMASK_DATA", raising=False)

    def write(slug, comparator="corruption=P(Replace)"):
        file = tmp_path / f"{slug}.py"
        file.write_text(RECIPE.format(slug=slug, comparator=comparator))
        return find(str(file))

    return write


def right(rate, seeds=5, samples=4000, seed=0):
    """Correctness of runs that share what is hard, as real ones do."""
    rng = np.random.default_rng(seed)
    hard = rng.random(samples)
    return 100.0 * ((hard + 0.1 * rng.normal(size=(seeds, samples))) < rate)


def test_the_three_verdicts():
    base = right(0.5)
    shown = judge(right(0.56, seed=0), base, 1.0)
    assert shown.verdict == SHOWN and shown.effect.low > 0 and shown.effect.mean == pytest.approx(6, abs=1.5)
    other = np.where(np.random.default_rng(1).random(base.shape) < 0.01, 100 - base, base)
    assert judge(other, base, 2.0).verdict == NOT_SHOWN
    noisy = judge(right(0.5, samples=60, seed=3), right(0.5, samples=60, seed=4), 1.0)
    assert noisy.verdict == NOISY and "--seeds" in noisy.note
    assert judge(base, right(0.56, seed=0), 1.0).note == "the comparator is better"
    small = judge(right(0.505, seeds=20, samples=40000), right(0.5, seeds=20, samples=40000), 3.0)
    assert small.verdict == SHOWN and "smaller than" in small.note


def test_the_interval_is_that_of_drawing_seeds_and_samples_one_by_one():
    ours, theirs = right(0.55, seeds=3, samples=200, seed=1), right(0.5, seeds=3, samples=200, seed=2)
    gap, rng = ours - theirs, np.random.default_rng(0)
    drawn = [gap[rng.integers(3, size=3)][:, rng.integers(200, size=200)].mean() for _ in range(4000)]
    effect = judge(ours, theirs, 1.0).effect
    assert np.allclose((effect.low, effect.high), np.quantile(drawn, (0.025, 0.975)), atol=1.0)


def test_scores_survive_packing():
    rng = np.random.default_rng(0)
    for scores in (100.0 * (rng.random(1003) < 0.5), rng.normal(size=7).astype(np.float32), np.zeros(3)):
        packed = json.loads(json.dumps(pack(scores)))
        assert np.array_equal(unpack(packed), scores)
    assert len(json.dumps(pack(np.zeros(8000)))) < 1500  # a bit a sample where scores are right or wrong


def test_judging_takes_real_scores():
    rng = np.random.default_rng(0)
    errors = rng.gamma(2.0, size=(4, 500))
    found = judge(-errors, -(errors + 0.02 + 0.05 * rng.normal(size=errors.shape)), 0.01)
    assert found.verdict == SHOWN and found.effect.mean == pytest.approx(0.02, abs=0.005)
    assert str(found.effect).startswith("0.02")  # as many digits as the smallest effect needs


def test_evidence_and_cache(make, tmp_path, monkeypatch):
    recipe = make("halves")
    evidence = verify(recipe, seeds=2, out=tmp_path / "evidence", progress=False)
    saved = json.loads((tmp_path / "evidence" / "halves.json").read_text())
    assert saved["claim"] == "dropping beats replacing" and saved["verdict"] == evidence.verdict
    assert saved["budget"]["samples seen"] == 64 and saved["budget"]["metric"] == "linear_probe (mean)"
    assert saved["difference"][0] == {"argument": "corruption", "ours": "Drop", "comparator": "Replace"}
    assert saved["data"]["name"] == "digits" and saved["data"]["test samples"] == 500
    assert saved["command"] == "anymask verify halves.py:halves --seeds 2"
    assert len(saved["context"]["untrained encoder"]) == 2 and 50 < saved["context"]["raw input"][0] < 100
    accuracy = [unpack(one["scores"]).mean() for one in saved["arms"]["ours"]]
    assert accuracy == pytest.approx([one["score"] for one in saved["arms"]["ours"]])
    assert evidence.effect.mean == pytest.approx(
        np.mean(accuracy) - np.mean([one["score"] for one in saved["arms"]["comparator"]])
    )
    assert [row[0] for row in evidence.table().rows] == ["raw input", "untrained encoder", "ours", "comparator"]
    assert Evidence.read(tmp_path / "evidence" / "halves.json") == evidence
    assert level("halves", tmp_path / "evidence") == (2 if evidence.verdict == SHOWN else 1)

    from anymask import train

    def no_training(*_, **__):
        raise AssertionError("this arm was trained before")

    monkeypatch.setattr(train, "pretrain", no_training, raising=False)
    again = verify(recipe, seeds=2, out=tmp_path / "evidence", progress=False)
    assert again.arms == evidence.arms and again.effect == evidence.effect
    with pytest.raises(AssertionError):
        verify(recipe, seeds=3, out=tmp_path / "evidence", progress=False)
    with pytest.raises(OutOfTime, match="2 of 3 seeds"):  # what is there costs no time
        verify(recipe, seeds=3, budget=0.0, out=tmp_path / "evidence", progress=False)


def test_a_further_claim_has_its_own_file_and_shares_the_first_arm(make, tmp_path):
    recipe, out = make("several"), tmp_path / "evidence"
    main = verify(recipe, seeds=2, out=out, progress=False)
    further = verify(recipe, name="ratio", seeds=2, out=out, progress=False)
    assert Evidence.read(out / "several.ratio.json") == further
    assert further.command == "anymask verify several.py:several --claim ratio --seeds 2"
    assert further.difference == [{"argument": "mask.ratio", "ours": "0.5", "comparator": "0.25"}]
    assert further.arms["ours"] == main.arms["ours"] and further.arms["comparator"] != main.arms["comparator"]
    with pytest.raises(ClaimError, match="no claim 'depth'; its further claims: 'ratio'"):
        verify(recipe, name="depth", progress=False)


def test_a_pilot_reads_no_test_sample_and_writes_nothing(make, tmp_path):
    recipe = make("piloted")
    bench = arms.open_bench(recipe.claim, None, 1.0, pilot=True)
    real = arms.open_bench(recipe.claim, None, 1.0)
    assert np.array_equal(bench.train.labels, real.train.labels)
    assert len(bench.test) == 1297 - 64 and len(real.test) == 500
    hashes = [{part.content_hash(i) for i in range(len(part))} for part in (bench.train, bench.test, real.test)]
    assert not hashes[0] & hashes[1] and not hashes[1] & hashes[2]
    found = verify(recipe, seeds=2, pilot=True, out=tmp_path / "evidence", progress=False)
    assert found.seeds == [100, 101] and not (tmp_path / "evidence").exists()
    with pytest.raises(ClaimError, match="leaves nothing for a pilot"):
        arms.open_bench(recipe.claim, None, 100.0, pilot=True)


def test_the_fingerprint_is_of_what_decides_the_result(make):
    recipe = make("prints")
    bench = arms.open_bench(recipe.claim, None, 1.0)

    def mark(recipe, data="data", seed=0):
        return bench.arm(recipe).fingerprint(data, seed)

    assert mark(recipe) == mark(find("mae").but(mask={"ratio": 0.5}))  # whatever it is called
    marks = [mark(recipe), mark(recipe.but(mask={"ratio": 0.6})), mark(recipe, data="other"), mark(recipe, seed=1)]
    assert len(set(marks)) == 4


def test_scale_takes_samples_first_and_then_epochs(make):
    claim = make("scaled").claim
    assert len(arms.open_bench(claim, None, 2.0).train) == 128
    large = arms.open_bench(claim, None, 100.0)
    assert len(large.train) == 1297 and large.epochs == round(6400 / 1297)
    whole = arms.open_bench(claim, None, 1.0)
    assert np.array_equal(whole.train.labels, arms.open_bench(claim, None, 1.0).train.labels)


def test_unequal_budgets_are_refused(make):
    recipe = make("uneven", comparator="stages=(mae,)")
    with pytest.raises(ClaimError, match="64 and 128 samples"):
        verify(recipe, seeds=2, progress=False)


def test_errors_name_the_mend(make, tmp_path):
    with pytest.raises(ClaimError, match="switch something off"):
        verify(make("same", comparator=""), progress=False)
    with pytest.raises(ClaimError, match=r"--data FOLDER.*ANYMASK_DATA"):
        verify("mae", progress=False)
    with pytest.raises(ClaimError, match=re.escape(str(tmp_path / "cifar10"))):
        verify("mae", data=tmp_path, progress=False)
    with pytest.raises(ClaimError, match="two seeds"):
        verify(make("one"), seeds=1, progress=False)
    with pytest.raises(ClaimError, match="shapes"):
        judge(np.zeros((2, 3), bool), np.zeros((2, 4), bool), 1.0)
    assert level("nothing", tmp_path) == 1


def test_the_page_lists_every_recipe_with_what_the_files_say(tmp_path):
    folder = arms.REPOSITORY / "evidence"
    text = page(folder)
    for slug in catalogue():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{slug}` |")]
        assert f"| {level(slug, folder)} |" in line
        if (folder / f"{slug}.json").is_file():
            found = Evidence.read(folder / f"{slug}.json")
            assert str(found.effect) in line and found.verdict in line
        else:
            assert line.endswith("| not run |")
        for name in find(slug).claims:
            if name and (folder / f"{slug}.{name}.json").is_file():
                assert str(Evidence.read(folder / f"{slug}.{name}.json").effect) in text
    assert page(tmp_path).count("| not run |") == sum(len(find(slug).claims) for slug in catalogue())
    assert (arms.REPOSITORY / "docs" / "evidence.md").read_text() == text, "run: anymask evidence -o docs/evidence.md"


def test_fine_tuning_is_a_metric(make, tmp_path):
    """Labels are learned from: the score on digits is far above chance, and from scratch is scored beside it."""
    from anymask.data import open_source

    metric = FineTune(labels=40, epochs=30, lr=4e-3)
    claim = dataclasses.replace(make("tuned").claim, metric=metric, epochs=2, samples=600)
    bench = arms.open_bench(claim, None, 1.0)
    arm = bench.arm(find("mae"))
    found = bench.run(arm, 0, "", False)
    scores = unpack(found["scores"])
    assert len(scores) == len(open_source("digits", split="test")) and set(scores) == {0.0, 100.0}
    assert found["score"] > 30 and bench.untrained(arm, 0) > 15
    assert claim.metric.untrained == "from scratch, equal fine-tuning" and bench.context() == {}


def test_imputation_is_a_metric(tmp_path, monkeypatch):
    """The score is minus 100 times the mean squared error over removed cells, in units of the column's range."""
    import pandas

    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    base = rng.normal(size=(80, 1))
    table = pandas.DataFrame(base * [1.0, 20.0, -3.0] + 0.1 * rng.normal(size=(80, 3)), columns=["a", "b", "c"])
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables" / "t.csv", index=False)
    claim = dataclasses.replace(
        find("remasker").claim, on="tables/t.csv", samples=80, epochs=2, metric=Impute(rate=0.25)
    )
    bench = arms.open_bench(claim, tmp_path, 1.0)
    known, truth = cells_of(bench.train), cells_of(bench.test)
    removed = np.isnan(known)
    assert np.array_equal(truth, table.to_numpy()) and 0.15 < removed.mean() < 0.35
    assert np.array_equal(known[~removed], truth[~removed])
    scale = np.ptp(truth, axis=0)
    filled = np.where(removed, np.nanmean(known, axis=0), known)
    by_hand = -100 * np.mean((((filled - truth) / scale)[removed]) ** 2)
    assert bench.context()["mean imputation"] == pytest.approx(by_hand)
    scores = unpack(bench.run(bench.arm(find("remasker")), 0, "", False)["scores"])
    assert len(scores) == 80 and (scores[removed.any(1)] < 0).all() and (scores[~removed.any(1)] == 0).all()
    with pytest.raises(ClaimError, match="is no table"):
        arms.open_bench(dataclasses.replace(claim, on="digits"), None, 1.0)
