"""Broken recipes are caught by the item that is meant for them, with an error that says what to mend."""

import pytest
import torch
from torch import nn

from anymask.claims import Claim
from anymask.contract import ITEMS, ContractError, check_recipe, subject_of
from anymask.engine import Head, Mask, Part, Tokens, split, take
from anymask.parts.corruptions import Drop, Replace
from anymask.parts.decoders import Heads, LinearHead, Transformer
from anymask.parts.encoders import ViT
from anymask.parts.masks import Random
from anymask.parts.positions import Table
from anymask.parts.stems import Embed
from anymask.parts.targets import Pixels
from anymask.parts.tokenizers import Patches
from anymask.recipe import P, find, recipe

mae, simmim = find("mae"), find("simmim")


def caught(broken, item, what, mend=""):
    with pytest.raises(ContractError, match=what) as error:
        ITEMS[item](subject_of(broken))
    assert error.value.item == item
    assert mend in error.value.mend
    assert str(error.value).startswith(f"{item}: ")


class ShowsAll(Part):
    """Keeps hidden tokens with their content."""

    keep = 1.0

    def forward(self, step, model):
        return model.stem(step)


class MeanOfAll(ViT):
    """Adds the mean over all tokens of the sample, hidden ones too."""

    def forward(self, step, model):
        latent = super().forward(step, model)
        whole = model.stem.embed["image"](step.tokens.x["image"]).mean(1, keepdim=True)
        return latent._replace(x=latent.x + whole)


class ReadsSample(LinearHead):
    """Looks at the raw image, past tokens and mask."""

    def forward(self, step, model):
        brightness = step.sample["image"].float().mean((1, 2, 3))[:, None, None] / 255
        return {name: pred + brightness for name, pred in super().forward(step, model).items()}


class Overlapping(Patches):
    """Every patch also holds a little of its right neighbour."""

    def forward(self, sample):
        tokens = super().forward(sample)
        x = tokens.x["image"]
        return tokens._replace(x={"image": x + 0.1 * x.roll(-1, 1)})


class Declared(Overlapping):
    shares = "patches overlap by a line of pixels"


@pytest.mark.parametrize(
    ("change", "what", "mend"),
    [
        (
            {"corruption": P(ShowsAll)},
            "content of hidden tokens reaches the predictions of head 'pixels'",
            "mask.visible",
        ),
        ({"encoder": P(MeanOfAll)}, "content of hidden tokens reaches", "shares"),
        ({"decoder": P(ReadsSample)}, "raw image of hidden tokens reaches", "mask.visible"),
        ({"tokenizer": P(Overlapping)}, "of the raw image in hidden tokens also lies in visible ones", "overlap"),
    ],
    ids=["corruption", "encoder", "sample", "tokenizer"],
)
def test_leaks(change, what, mend):
    caught(simmim.but(change), "no leak", what, mend)


def test_a_declared_share_is_reported_not_refused():
    notes = ITEMS["no leak"](subject_of(simmim.but(tokenizer=P(Declared))))
    assert notes == ["shared by design, not checked: tokenizer: patches overlap by a line of pixels"]


class Deaf(Transformer):
    """Predicts from the places alone."""

    def forward(self, step, model):
        asked = self.token + take(self.positions(step.tokens), step.mask.ask, step.mask.ask_of)
        return self.heads(self.norm(self.blocks[0](asked)))


def test_input_that_never_reaches_the_prediction():
    caught(
        mae.but(decoder=P(Deaf)),
        "reach",
        "visible content does not reach any prediction from stream 'image'",
        "step.latent",
    )


class AsksForPadding(Random):
    """Forgets which tokens are real."""

    def forward(self, step, model):
        return split(self.score(step, model), 0.25, keep=model.corruption.keep)


class SeesPadding(ViT):
    """Attends to padded tokens."""

    def encode(self, seen):
        return super().encode(seen._replace(ok=None))._replace(ok=seen.ok)


def test_padding():
    caught(
        mae.but(mask=P(AsksForPadding, ratio=0.75)),
        "padding",
        r"the mask (lets in|asks for) \d+ padded tokens",
        "valid=",
    )
    caught(mae.but(encoder=P(SeesPadding)), "padding", "embeddings move by up to", "seen.ok")


class Counts(nn.Module):
    """Positions from the index of a token."""

    def __init__(self, model, *, width):
        super().__init__()
        self.table = nn.Embedding(512, width)

    def forward(self, tokens: Tokens):
        return self.table.weight[None, : tokens.shape[1]]


def test_order():
    caught(mae.but(positions=P(Counts)), "order", "the codes of permuted tokens differ", "needs_grid")
    notes = ITEMS["order"](subject_of(mae.but(positions=P(Table))))
    assert "a table holds one vector for each cell of a grid" in notes[0]


@pytest.mark.parametrize("item", ["padding", "gradients", "stored", "compiles"])
def test_learned_positions_pass(item):
    """No recipe of the catalogue has them."""
    ITEMS[item](subject_of(mae.but(positions=P(Table))))


class Unused(LinearHead):
    """Has a layer that nothing goes through."""

    def __init__(self, model):
        super().__init__(model)
        self.spare = nn.Linear(4, 4)


class MovesFrozen(LinearHead):
    def __init__(self, model):
        super().__init__(model)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, step, model):
        self.frozen.add_(1.0)
        return super().forward(step, model)


def careless(model, *, batch_size=1):
    """Leaves the decoder out."""
    return torch.optim.SGD(model.encoder.parameters(), lr=0.1)


def test_gradients():
    caught(
        simmim.but(decoder=P(Unused)),
        "gradients",
        "2 trainable parameters get no gradient, decoder.spare.bias",
        "requires_grad_",
    )
    caught(simmim.but(decoder=P(MovesFrozen)), "gradients", "decoder.frozen is frozen and moved")
    caught(simmim.but(optimiser=P(careless)), "gradients", "the optimiser holds .* parameters, the model trains")


class Noise(Part):
    """A goal that has nothing to do with the sample, drawn anew in every step."""

    def __init__(self, model):
        super().__init__(model)
        self.heads = {"noise": Head(8)}

    def forward(self, step, model):
        return {"noise": torch.randn(*step.mask.ask.shape, 8)}


def test_nothing_to_learn():
    caught(mae.but(target=P(Noise)), "fits", "the error of head 'noise' is .* the best constant has", "same tokens")


class Branches(Pixels):
    """Asks a tensor for its value."""

    def forward(self, step, model):
        goal = super().forward(step, model)
        return goal if goal["pixels"].mean().item() > 10 else {"pixels": goal["pixels"] * 2}


class OneLength(Transformer):
    """Counts its tokens in Python."""

    def forward(self, step, model):
        pred = super().forward(step, model)
        return {name: p * sum(1.0 for _ in range(p.shape[1])) for name, p in pred.items()}


class Draws(Pixels):
    def forward(self, step, model):
        torch.seed()
        return {"pixels": torch.rand_like(super().forward(step, model)["pixels"])}


def test_graph():
    caught(mae.but(target=P(Branches)), "compiles", "learn.. is not one graph", "tensor operations")


def test_a_graph_for_each_length():
    caught(
        mae.but(decoder=P(OneLength)), "compiles", "more compilations for 2 more lengths", "do not branch on lengths"
    )


def test_draws_of_its_own():
    caught(mae.but(target=P(Draws)), "repeats", "equal seeds give the losses", "keyed")


@recipe(parent=mae, paper="arXiv:0000.00000")
def told(r):
    """One line.

    Run: anymask pretrain IMAGES --recipe ./told.py
    Cost: as mae.
    Expected: nothing yet.
    """
    return r.but(mask={"ratio": 0.5})


@recipe(parent=mae, paper="arXiv:0000.00000")
def untold(r):
    """One line, and no more."""
    return r.but(mask={"ratio": 0.5})


@recipe(parent=mae)
def no_paper(r):
    """One line.

    Run: anymask pretrain IMAGES --recipe ./told.py
    Cost: as mae.
    Expected: nothing yet.
    """
    return r.but(mask={"ratio": 0.5})


@recipe(parent=mae, paper="arXiv:0000.00000")
def same(r):
    """One line.

    Run: anymask pretrain IMAGES --recipe ./told.py
    Cost: as mae.
    Expected: nothing yet.
    """
    return r.but(mask={"ratio": 0.75})


claim = Claim(text="half is better", better_than=lambda r: r.but(mask={"ratio": 0.75}))


def test_facts(monkeypatch):
    assert ITEMS["facts"](subject_of(told)) == []
    caught(untold, "facts", "recipe 'untold' has no line 'Run:' in its docstring", "the command that trains it")
    caught(no_paper, "facts", "recipe 'no-paper' names no paper", "arXiv")
    caught(same, "facts", "recipe 'same' is the same as its parent 'mae'", "change a stage")
    monkeypatch.setitem(globals(), "claim", Claim(text="nothing", better_than=lambda r: r))
    caught(told, "facts", "the two arms of a claim of recipe 'told' are the same", "better_than")
    monkeypatch.delitem(globals(), "claim")
    caught(told, "facts", "recipe 'told' makes no claim", "Claim")


def test_stored(tmp_path):
    file = tmp_path / "forgets.py"
    file.write_text(
        "import torch\n"
        "from anymask.parts.encoders import ViT\n"
        "from anymask.recipe import P, find, recipe\n\n\n"
        "class Forgets(ViT):\n"
        "    def forward(self, step, model):\n"
        "        self.calls = getattr(self, 'calls', 0) + 1\n"
        "        latent = super().forward(step, model)\n"
        "        return latent._replace(x=latent.x + id(self) % 1000003)\n\n\n"
        "@recipe(parent=find('mae'))\n"
        "def forgets(r):\n"
        "    return r.but(encoder=P(Forgets))\n"
    )
    caught(str(file), "stored", "embeddings differ by up to .* after saving and loading", "persistent buffers")


def test_stages():
    class Infinite(Pixels):
        def forward(self, step, model):
            return {"pixels": super().forward(step, model)["pixels"] / 0}

    first = mae.but(target=P(Infinite))
    caught(mae.but(stages=(first,)), "stages", "the loss of stage 'mae' is (inf|nan)", "target")


def test_check_recipe_tells_what_passed():
    lines = check_recipe("mae", items=["facts", "no leak", "order"])
    assert lines == ["facts: passed", "no leak: passed", "order: passed"]
    with pytest.raises(ContractError, match="no leak"):
        check_recipe(simmim.but(corruption=P(ShowsAll)), items=["facts", "no leak"])


# Masks in which rows are not samples: the sight items follow `via`, `ask_of` and `keep_of`.


class Twice(Random):
    """Two masks for each sample."""

    def forward(self, step, model):
        b = step.tokens.shape[0]
        score = torch.cat([self.score(step, model), self.score(step, model).flip(1)])
        of = torch.arange(b).repeat(2)
        return split(score, 0.25, keep=model.corruption.keep, keep_of=of, ask_of=of)


class Mixed(Random):
    """Rows that hold the visible tokens of one sample and, between them, those of the next."""

    def forward(self, step, model):
        b, n = step.tokens.shape
        mine = self.score(step, model)[:1] < 0.5  # 1 N
        row = torch.arange(b)[:, None]
        owner = torch.where(mine, row, (row + 1) % b)
        every = torch.arange(n).expand(b, -1)
        ask = (~mine).nonzero()[:, 1].expand(b, -1)
        return Mask(torch.ones(b, n, dtype=torch.bool), keep=every, ask=ask, keep_of=owner)


class Reads(Part):
    """A light decoder over codes that stand for other samples too."""

    def __init__(self, model):
        super().__init__(model)
        self.heads = Heads(model, model.encoder.width)

    def forward(self, step, model):
        return self.heads(take(step.latent.x, step.mask.ask))


class Cheats(Reads):
    """Reads the row of the next sample, which holds what is hidden in its own."""

    def forward(self, step, model):
        return self.heads(take(step.latent.x.roll(1, 0), step.mask.ask))


def test_several_masks_a_sample():
    twice = mae.but(mask=P(Twice, ratio=0.75))
    for item in ("no leak", "reach", "gradients"):
        ITEMS[item](subject_of(twice))
    caught(twice.but(corruption=P(ShowsAll), decoder=P(Reads)), "no leak", "content of hidden tokens")


def test_several_samples_a_row():
    mixed = mae.but(mask=P(Mixed, ratio=0.5), corruption=P(Drop), stem=P(Embed), decoder=P(Reads))
    for item in ("no leak", "reach"):
        ITEMS[item](subject_of(mixed))
    caught(mixed.but(decoder=P(Cheats)), "no leak", "content of hidden tokens")


def test_replaced_tokens_are_hidden():
    assert ITEMS["no leak"](subject_of(mae.but(corruption=P(Replace, keep=0.5)))) == []
