"""Two masks of each cloud, and features that agree where both hide."""

import pytest
import torch

from anymask.contract.data import SMALL, batch_of, default_schema
from anymask.parts.masks import Random
from anymask.recipe import P, RecipeError, find


def built(changes=None, **stages):
    torch.manual_seed(0)
    recipe = find("point-cmae").but(changes or {}, **stages)
    schema = default_schema(recipe)
    model = recipe.build(schema, SMALL).eval()
    return model, model.hide(batch_of(schema, 5))


def test_two_masks_of_each_sample_differ():
    _, step = built()
    mask = step.mask
    assert mask.keep_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] and torch.equal(mask.keep_of, mask.ask_of)
    assert len(mask.visible.sum(1).unique()) == 1
    assert not (mask.visible[::2] == mask.visible[1::2]).all(1).any()


def test_agreement_by_hand():
    model, step = built()
    step = model.predict(step)
    features = model.decoder.features(step)
    total, count = 0.0, 0
    for b in range(5):
        one, two = step.mask.ask[2 * b].tolist(), step.mask.ask[2 * b + 1].tolist()
        for n in set(one) & set(two):
            f, g = features[2 * b, one.index(n)], features[2 * b + 1, two.index(n)]
            total += 1 - (f @ g / (f.norm() * g.norm())).item()
            count += 1
    assert count > 5 and step.aux["agreement"].item() == pytest.approx(total / count, rel=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="0 or more"):
        built({"decoder.weight": -1.0})
    model, step = built(mask=P(Random, ratio=0.6))
    with pytest.raises(RecipeError, match=r"use mask=P\(Twice\)"):
        model.predict(step)
