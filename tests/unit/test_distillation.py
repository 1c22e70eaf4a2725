"""Self-distillation: masks of views, targets against a plain reference, and attention that guides masks."""

import pytest
import torch
import torch.nn.functional as F

from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.parts.distillation import whole_views
from anymask.recipe import RecipeError, find

FEW = {"decoder.out": 24, "target.out": 24, "decoder.hidden": 16, "decoder.bottleneck": 8}


def built(slug="ibot", changes=None, count=12, **stages):
    torch.manual_seed(0)
    model = find(slug).but(FEW | (changes or {}), **stages).build(example_schema("image"), SMALL)
    return model, model.hide(batch_of(example_schema("image"), count))


@pytest.mark.parametrize("slug", ["ibot", "attmask"])
def test_a_row_is_a_view_of_which_half_are_whole(slug):
    _, step = built(slug, count=60)
    mask, n = step.mask, step.tokens.shape[1] // 2
    assert mask.keep_of.tolist() == [b for b in range(60) for _ in (0, 1)]
    hidden = []
    for row in range(120):
        own = range(row % 2 * n, row % 2 * n + n)
        assert mask.keep[row].tolist() == list(own)
        seen = set(mask.visible[row].nonzero()[:, 0].tolist())
        asked = set(mask.ask[row][mask.ask_ok[row]].tolist())
        assert not seen & asked and seen | asked == set(own)
        hidden.append(len(asked) / n)
    some = [share for share in hidden if share]
    assert 0.3 < len(some) / 120 < 0.7 and min(some) >= 0.1 - 1 / n and max(some) <= 0.5
    assert max(some) - min(some) > 0.2


def test_targets_are_centred_sharpened_and_of_the_other_view():
    model, step = built()
    with torch.no_grad():
        for part in (model.target.encoder, model.target.decoder):
            for value in part.parameters():
                value.add_(0.1 * torch.randn_like(value))
        model.target.centre.copy_(0.1 * torch.randn(2, 24))
    step = model.learn(step)
    codes, cls = [], []
    for row in range(24):  # the plain way: one view at a time, as a sample of its own
        b, v = row // 2, row % 2
        n = step.tokens.shape[1] // 2
        part = slice(v * n, v * n + n)
        x = model.target.stem.embed["image"](step.tokens.x["image"][b, part])
        x = (x + model.target.stem.positions(step.tokens)[0, part])[None]
        x = torch.cat([model.target.encoder.prefix[None], x], 1)
        for block in model.target.encoder.blocks:
            x = block(x)
        x = model.target.encoder.norm(x)[0]
        head = model.target.decoder
        scores = F.normalize(head.mlp(x), dim=-1) @ F.normalize(head.prototypes, dim=-1).T
        codes.append(scores[1:])
        cls.append(scores[0])
    centre = model.target.centre
    for row in range(24):
        place = step.mask.ask[row] % (step.tokens.shape[1] // 2)
        want = ((codes[row][place] - centre[0]) / 0.04).softmax(-1)
        torch.testing.assert_close(step.goal["patches"][row], want, atol=1e-5, rtol=1e-4)
    total = 0.0
    for row in range(24):
        mine = model.decoder.scores(step.latent.prefix[row, 0])
        goal = ((cls[row ^ 1] - centre[1]) / 0.04).softmax(-1)
        total += F.kl_div((mine / 0.1).log_softmax(-1), goal, reduction="sum")
    torch.testing.assert_close(step.aux["cls"], total / 24, atol=1e-5, rtol=1e-4)
    before = centre.clone()
    model.target.sharp = (0.04, 0.07)
    model.target.after_step(model, 0.5)
    want = 0.9 * before[1] + 0.1 * torch.stack(cls).mean(0)
    torch.testing.assert_close(model.target.centre[1], want, atol=1e-6, rtol=1e-5)
    assert model.target.temperature.item() == pytest.approx(0.07)


def test_the_teachers_head_follows_too():
    model, _ = built(changes={"target.decay": 0.5, "target.final": 0.5})
    before = model.target.decoder.prototypes.clone()
    with torch.no_grad():
        model.decoder.prototypes.add_(1.0)
    model.target.after_step(model, 0.1)
    torch.testing.assert_close(model.target.decoder.prototypes, before + 0.5)


def test_what_the_teacher_attends_to_is_hidden_first():
    changes = {"mask.share": 1.0, "mask.ratio": (0.3, 0.3)}
    model, step = built("attmask", changes)
    keep, of = step.mask.keep, step.mask.keep_of
    whole = step._replace(mask=whole_views(keep, of))
    attention = model.target.attention(whole, model)
    assert ((attention > 0) & (attention < 1)).all()
    asked = attention.gather(1, step.mask.ask - keep[:, :1])
    shown = attention.masked_fill(~step.mask.visible.gather(1, keep), -1).amax(1)
    assert (asked.amin(1) >= shown).all()
    low, step = built("attmask", changes | {"mask.low": True})
    asked = attention.gather(1, step.mask.ask - keep[:, :1])
    shown = attention.masked_fill(~step.mask.visible.gather(1, keep), 2).amin(1)
    assert (asked.amax(1) <= shown).all() and low.mask.low
    _, hinted = built("attmask", changes | {"mask.hint": 0.5})
    assert hinted.mask.visible.sum() == step.mask.visible.sum()


def test_attention_is_that_of_the_last_block():
    model, step = built("attmask")
    whole = step._replace(mask=whole_views(step.mask.keep, step.mask.keep_of))
    block = model.target.encoder.blocks[-1]
    inputs = []
    block.attn.register_forward_hook(lambda part, given, out: inputs.append(given[0]))
    found = model.target.attention(whole, model)
    x = inputs[0]
    q, k, _ = block.attn.qkv(x).view(*x.shape[:2], 3, block.attn.heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    torch.testing.assert_close(found, weights[:, :, 0, 1:].mean(1))


def test_features_do_not_collapse_and_teacher_and_student_part():
    model, _ = built(changes={"target.decay": 0.9, "target.final": 0.9})
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for i in range(40):
        step = model(batch_of(example_schema("image"), 12, i))
        optimiser.zero_grad()
        step.loss.backward()
        optimiser.step()
        model.target.after_step(model, (i + 1) / 40)
    z = F.normalize(model.embed(batch_of(example_schema("image"), 32)).cls(), dim=-1)
    assert (z @ z.T).mean() < 0.999
    used = step.goal["patches"][step.mask.ask_ok].mean(0)
    assert -(used * used.log()).sum() > 0.5  # several prototypes are in use


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match=r"tokenizer=P\(Crops"):
        built(tokenizer=find("mae").tokenizer)
    with pytest.raises(RecipeError, match="replaced, not dropped"):
        built(corruption=find("mae").corruption)
    for changes, words in [
        ({"target.out": 12}, "the same prototypes"),
        ({"encoder.cls": False}, "encoder.cls=true"),
        ({"mask.ratio": (0.5, 0.1)}, "a range"),
        ({"target.student": 0.0}, "temperatures"),
    ]:
        with pytest.raises(RecipeError, match=words):
            built(changes=changes)
    with pytest.raises(RecipeError, match=r"encoder\.layers=true"):
        built("attmask", {"encoder.layers": False})
