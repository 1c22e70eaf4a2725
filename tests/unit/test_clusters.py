"""Clusters as targets: balanced assignments, and what learns from them."""

import pytest
import torch

from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.parts.clusters import sinkhorn
from anymask.recipe import RecipeError, find


def built(changes=None):
    torch.manual_seed(0)
    few = {"target.clusters": 12}
    return find("capi").but(few | (changes or {})).build(example_schema("image"), SMALL)


def test_sinkhorn_shares_clusters_alike():
    torch.manual_seed(0)
    scores = torch.randn(60, 5) + torch.tensor([8.0, 0, 0, 0, 0])  # nearly all would choose the first
    assert (scores.argmax(-1) == 0).float().mean() > 0.9
    found = sinkhorn(scores, 50)
    torch.testing.assert_close(found.sum(-1), torch.ones(60))
    torch.testing.assert_close(found.sum(0), torch.full((5,), 12.0), atol=1e-3, rtol=1e-3)
    # The ratios within a row and a column are those of the scores: it is the nearest balanced plan.
    odds = (found[0, 0] * found[1, 1] / (found[0, 1] * found[1, 0])).log()
    want = scores[0, 0] + scores[1, 1] - scores[0, 1] - scores[1, 0]
    torch.testing.assert_close(odds, want, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("balance", "axis"), [("position", 0), ("all", (0, 1))])
def test_balance_is_over_samples_at_a_place_or_over_all_tokens(balance, axis):
    model = built({"target.balance": balance, "target.rounds": 60})
    scores = 3 * torch.randn(24, 9, 12)
    share = model.target.assign(scores).sum(axis)
    torch.testing.assert_close(share, torch.full_like(share, share.sum().item() / share.numel()), atol=2e-2, rtol=1e-2)
    ok = torch.rand(24, 9) < 0.7
    without = model.target.assign(torch.where(ok[..., None], scores, 50.0), ok)
    torch.testing.assert_close(without[ok], model.target.assign(scores, ok)[ok])


def test_centres_learn_from_assignments_and_nothing_else_does():
    model = built()
    step = model.learn(model.hide(batch_of(example_schema("image"), 6)))
    step.aux["clustering"].backward()
    assert model.target.centres.grad.abs().sum() > 0
    others = [n for n, p in model.named_parameters() if p.grad is not None and n != "target.centres"]
    assert not others
    model = built()
    step = model.learn(model.hide(batch_of(example_schema("image"), 6)))
    step.error["clusters"].sum().backward()
    assert model.target.centres.grad is None and model.encoder.prefix.grad.abs().sum() > 0


def test_goals_are_of_the_asked_tokens():
    model = built({"target.balance": "none"})
    step = model.learn(model.hide(batch_of(example_schema("image"), 3)))
    z = torch.nn.functional.normalize(model.target.whole(step, model).x, dim=-1)
    centres = torch.nn.functional.normalize(model.target.centres, dim=-1)
    want = (z @ centres.T / 0.06).softmax(-1)
    torch.testing.assert_close(step.goal["clusters"][2], want[2, step.mask.ask[2]])


def test_what_makes_no_sense_is_refused():
    for changes, words in [({"target.balance": "some"}, "target.balance is"), ({"target.clusters": 1}, "2 or more")]:
        with pytest.raises(RecipeError, match=words):
            built(changes)
