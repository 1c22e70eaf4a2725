"""Two crops of one image, and decoding one by the other."""

import pytest
import torch

from anymask import keyed
from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.parts.views import crop
from anymask.recipe import RecipeError, find


def built(changes=None):
    torch.manual_seed(0)
    return find("cropmae").but(changes or {}).build(example_schema("image"), SMALL).eval()


def test_a_crop_holds_what_its_box_holds():
    """A ramp: enlarged, it is a ramp from one edge of the box to the other."""
    ramp = (torch.arange(16.0) + 0.5).expand(1, 1, 8, 16)
    box = torch.tensor([[0.25, 0.5, 0.5, 0.25]])  # columns 8 to 12
    found = crop(ramp, box)[0, 0]
    want = 8 + 4 * (torch.arange(16.0) + 0.5) / 16
    torch.testing.assert_close(found, want.expand(8, 16))
    whole = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(crop(whole, torch.tensor([[0.0, 0, 1, 1]] * 2)), whole, atol=1e-5, rtol=0)


def test_the_second_crop_lies_within_the_first():
    model = built()
    first, second = model.tokenizer.boxes(keyed.keys(0, 0, torch.arange(500)))
    for box in (first, second):
        assert (box[:, :2] >= 0).all() and (box[:, :2] + box[:, 2:] <= 1 + 1e-6).all()
    assert (second[:, :2] >= first[:, :2] - 1e-6).all()
    assert (second[:, :2] + second[:, 2:] <= first[:, :2] + first[:, 2:] + 1e-6).all()
    area = first[:, 2] * first[:, 3]
    assert 0.5 <= area.min() < 0.55 and 0.95 < area.max() <= 1.0
    share = second[:, 2] * second[:, 3] / area
    assert 0.3 - 1e-4 <= share.min() < 0.33 and 0.67 < share.max() <= 0.7 + 1e-4


def test_a_view_is_encoded_without_the_other_and_the_hidden_one_is_read_by_both():
    model = built()
    step = model.predict(model.hide(batch_of(example_schema("image"), 4)))
    n = step.tokens.shape[1] // 2
    assert (step.mask.visible[:, :n]).all() and (step.mask.visible[:, n:].sum(1) == 2).all()
    assert (step.mask.ask >= n).all() and step.mask.ask.shape[1] == n - 2

    def again(view):
        x = step.tokens.x["image"].clone()
        x[:, view * n : (view + 1) * n] += 1.0
        return model.predict(step._replace(tokens=step.tokens._replace(x={"image": x}), aux={}))

    other = again(1)
    assert torch.equal(other.latent.x[:, :n], step.latent.x[:, :n])  # the first knows nothing of the second
    moved = again(0)
    assert torch.equal(moved.latent.x[:, n:], step.latent.x[:, n:])
    assert not torch.allclose(moved.pred["pixels"], step.pred["pixels"])  # but its decoder reads the first
    assert not torch.allclose(other.pred["pixels"], step.pred["pixels"])


def test_features_are_of_the_whole_image():
    model = built()
    batch = batch_of(example_schema("image"), 3)
    latent = model.embed(batch)
    assert latent.x.shape[1] == model.tokenizer(batch).shape[1] and latent.kind is None


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(RecipeError, match="area is a share"):
        built({"tokenizer.outer": (0.5, 1.5)})
    with pytest.raises(RecipeError, match="needs two: use tokenizer"):
        model = find("mae").but(mask=find("cropmae").mask).build(example_schema("image"), SMALL)
        model.hide(batch_of(example_schema("image"), 2))
