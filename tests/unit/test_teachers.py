"""Slow teachers: how they follow, what they see, and that they are kept; masks of several parts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anymask import keyed
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.data import infer_schema, open_source
from anymask.engine import everything
from anymask.parts.masks import Random
from anymask.parts.teachers import cosine
from anymask.recipe import P, RecipeError, find
from anymask.run import Run
from anymask.train import pretrain


def built(changes=None, schema=None, seed=0):
    torch.manual_seed(seed)
    return find("t-jepa").but(changes or {}).build(schema or example_schema("table"), SMALL)


def weights(part):
    return {name: value.detach().clone() for name, value in part.named_parameters()}


def moved(model, by=0.5):
    with torch.no_grad():
        for part in (model.stem, model.encoder):
            for value in part.parameters():
                value.add_(by)


def test_a_teacher_begins_as_its_student_and_follows_by_the_schedule():
    model = built({"target.decay": 0.9, "target.final": 1.0, "target.ramp": 0.5})
    before = weights(model.target.encoder)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.named_parameters())
    assert not any(p.requires_grad for p in model.target.parameters())
    moved(model)
    model.target.after_step(model, 0.25)  # half way up: 0.95 stays
    for name, value in weights(model.target.encoder).items():
        torch.testing.assert_close(value, before[name] + 0.05 * 0.5)
    kept = weights(model.target.encoder)
    model.target.after_step(model, 0.5)  # at the top nothing moves any more
    assert all(torch.equal(value, kept[name]) for name, value in weights(model.target.encoder).items())


def test_schedules():
    model = built({"target.rise": cosine, "target.decay": 0.0, "target.final": 1.0})
    assert [round(model.target.kept(p), 4) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.1464, 0.5, 1.0]
    for wrong in ({"target.decay": 1.1}, {"target.decay": 0.9, "target.final": 0.5}, {"target.ramp": 0.0}):
        with pytest.raises(RecipeError, match="rises from decay to final"):
            built(wrong)


def test_a_teacher_sees_the_whole_row_without_dropping_paths():
    model = built({"encoder.drop_path": 0.5}).train()
    assert not model.target.encoder.training and not model.target.stem.training and model.encoder.training
    batch = batch_of(example_schema("table"), 16)
    step = model.hide(batch)
    goal = model.target(step, model)["codes"]
    codes = model.embed(batch).x  # in evaluation mode, with the same weights
    of, ask = step.mask.ask_of, step.mask.ask
    torch.testing.assert_close(goal, codes[of[:, None], ask])
    assert not goal.requires_grad and goal.shape[0] == 4 * 16


def test_the_mean_of_blocks_is_data2vecs():
    changes = {"target.top": 2, "encoder.layers": True}
    model = built(changes)
    batch = batch_of(example_schema("table"), 4)
    step = model.hide(batch)._replace(mask=everything(model.tokenizer(batch)))
    layers = model.target.whole(step, model).layers
    assert len(layers) == SMALL.depth + 1
    expected = sum(F.layer_norm(x[:, 1:], x.shape[-1:]) for x in layers[1:]) / 2
    step = model.hide(batch)
    goal = model.target(step, model)["codes"]
    torch.testing.assert_close(goal, expected[step.mask.ask_of[:, None], step.mask.ask])
    with pytest.raises(RecipeError, match=r"encoder\.layers=true"):
        built({"target.top": 2})


def test_one_pass_serves_several_masks():
    class Twice(Random):
        def forward(self, step, model):
            mask = super().forward(step, model)
            of = torch.arange(len(mask.visible)).repeat_interleave(2)
            fields = {name: getattr(mask, name)[of] for name in ("visible", "keep", "keep_ok", "ask", "ask_ok")}
            return mask._replace(**fields, keep_of=of, ask_of=of)

    model = built({"mask": P(Twice, ratio=0.5)})
    step = model(batch_of(example_schema("table"), 6))
    assert step.goal["codes"].shape[0] == 12 and step.loss.isfinite()
    torch.testing.assert_close(step.goal["codes"][0::2], step.goal["codes"][1::2])


def test_teachers_are_in_weights_and_state(tmp_path):
    array = np.random.default_rng(0).normal(size=(64, 5))
    how = dict(recipe="t-jepa", size=SMALL, batch_size=16, progress=False, precision="fp32")
    whole = pretrain(array, steps=6, out=tmp_path / "a", **how).model()
    names = [name for name in whole.state_dict() if name.startswith("target.encoder.")]
    held = whole.state_dict()
    assert names and any(not torch.equal(held[n], held[n.removeprefix("target.")]) for n in names)
    run = Run.open(tmp_path / "a")
    again, first = run.model(), run.model(trained=False)
    batch = {"table": torch.tensor(array[:4], dtype=torch.float32), "key": keyed.keys(0, 0, torch.arange(4))}
    assert torch.equal(again.embed(batch).x, whole.embed(batch).x)
    for name in names:
        assert torch.equal(again.state_dict()[name], whole.state_dict()[name])
        assert torch.equal(first.state_dict()[name], first.state_dict()[name.removeprefix("target.")])


def test_parts_are_disjoint_from_what_is_shown():
    array = np.where(np.random.default_rng(1).random((200, 11)) < 0.3, np.nan, 1.0) * np.arange(11)
    source = open_source(array)
    model = built(schema=infer_schema(source))
    index = torch.arange(200)
    batch = {"table": torch.tensor(array, dtype=torch.float32), "index": index, "key": keyed.keys(0, 0, index)}
    mask = model.hide(batch).mask
    there = torch.tensor(~np.isnan(array))
    shown, count = mask.visible.sum(1), there.sum(1)
    assert not (mask.visible & ~there).any()
    assert (shown >= (0.2 * count).round().clamp(min=1).minimum(count)).all()
    assert (shown <= (0.6 * count).round().clamp(min=1)).all()
    assert len(shown.unique()) > 3 and len(mask.ask_of) == 800 and torch.equal(mask.via, mask.ask_of)
    asked = torch.zeros(800, 11, dtype=torch.long).scatter_add(1, mask.ask, mask.ask_ok.long())
    assert asked.max() == 1 and not ((asked > 0) & ~(there & ~mask.visible)[mask.ask_of]).any()
    size, rest = asked.sum(1), (count - shown)[mask.ask_of]
    assert (size <= (0.6 * count).round().clamp(min=1)[mask.ask_of]).all() and (size[rest > 0] >= 1).all()
    assert not torch.equal(asked[0::4], asked[1::4])
    with pytest.raises(RecipeError, match=r"mask\.shown"):
        built({"mask.shown": (0.0, 0.5)})


def test_a_frozen_teacher_is_a_run_or_an_earlier_stage(tmp_path):
    """Goals are the codes of the run, normalised; it stays as it is whatever the student becomes."""
    taught = pretrain("digits", steps=2, size=SMALL, out=tmp_path / "teacher", probe_labels=None, progress=False)
    recipe = find("dbot").but({"target.teacher": str(taught.folder)}, stages=())
    torch.manual_seed(1)
    model = recipe.build(taught.schema, SMALL)
    batch = batch_of(taught.schema, 5)
    step = model.hide(batch)
    goal = model.target(step, model)["codes"]
    codes = F.layer_norm(taught.model().embed(batch).x, (SMALL.width,))
    torch.testing.assert_close(goal, torch.stack([codes[b, step.mask.ask[b]] for b in range(5)]))
    moved(model)
    model.target.after_step(model, 0.5)
    assert torch.equal(model.target(step, model)["codes"], goal)
    with pytest.raises(RecipeError, match="its streams are"):
        recipe.but({"tokenizer.patch": 4}).build(taught.schema, SMALL)


def test_two_stages_train_one_after_the_other(tmp_path):
    run = pretrain("digits", recipe="dbot", steps=2, size=SMALL, out=tmp_path / "r", probe_labels=None, progress=False)
    first = Run.open(run.folder / "stages" / "dbot-random").model()
    second = run.model()
    for mine, its in zip(second.target.encoder.parameters(), first.encoder.parameters(), strict=True):
        assert torch.equal(mine, its)
    fresh = first.target.encoder.blocks[0].mlp.fc1.weight  # the first teacher never moved
    begun = Run.open(run.folder / "stages" / "dbot-random").model(trained=False)
    assert torch.equal(fresh, begun.encoder.blocks[0].mlp.fc1.weight)
