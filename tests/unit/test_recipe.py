"""Changing, comparing, finding and storing recipes."""

import importlib.metadata
import json
import sys

import pytest

from anymask.compare import diff, flatten
from anymask.contract.data import SMALL, picture_schema
from anymask.parts.losses import l1
from anymask.parts.masks import Random
from anymask.parts.targets import Pixels
from anymask.recipe import SIZES, USER_MODULE, FromStage, P, Recipe, RecipeError, catalogue, find

MINE = """
from anymask.parts.masks import Random
from anymask.recipe import P, find, recipe


class Mine(Random):
    def __init__(self, model, *, ratio=0.5, twist=1):
        super().__init__(model, ratio=ratio)


@recipe(parent=find("mae"), paper="arXiv:0000.00000")
def base(r):
    '''Another mask.'''
    return r.but(mask=P(Mine, twist=2))
"""
CHILD = """

@recipe(parent=base)
def child(r):
    '''More of it.'''
    return r.but(mask={"twist": 3})
"""


@pytest.fixture
def user_file(tmp_path):
    """Writes recipe files; what they left in sys.modules is removed."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    yield write
    for name in [n for n in sys.modules if n.startswith(USER_MODULE)]:
        del sys.modules[name]


def test_but_changes_a_copy():
    mae = find("mae")
    for changed in (mae.but(mask={"ratio": 0.5}), mae.but({"mask.ratio": 0.5}), mae.but(mask=mae.mask.but(ratio=0.5))):
        assert diff(mae, changed) == [("mask.ratio", "0.75", "0.5")]
    assert mae.mask.args["ratio"] == 0.75
    assert mae.but(loss=l1).loss is l1
    assert diff(mae, mae.but()) == []


def test_but_reaches_into_nested_parts():
    nested = find("mae").but(extras=(P(Random, ratio=0.5), P(Random)))
    assert nested.but({"extras.1.unit": 2}).extras[1].args == {"unit": 2}
    assert nested.but({"extras.0.ratio": 0.1}).extras[0].args["ratio"] == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maks": P(Random)}, r"a recipe has no stage 'maks'; did you mean 'mask'\?"),
        ({"mask.ration": 0.5}, r"mask \(Random\) takes no argument 'ration'; did you mean 'ratio'\?"),
        ({"mask": {"unti": 2}}, r"mask \(Random\) takes no argument 'unti'; did you mean 'unit'\?"),
        ({"mask.qqq": 2}, r"takes no argument 'qqq' \(there is: ratio, unit, fewest, ask\)"),
        ({"loss.eps": 1}, "stage 'loss' is mse, which has no argument 'eps'"),
    ],
)
def test_but_names_the_nearest(change, message):
    with pytest.raises(RecipeError, match=message):
        find("mae").but(change)


def test_p():
    assert P(Pixels, False).args == {"normalise": False}
    assert P(Random, ratio=0.5) == P(Random, ratio=0.5) != P(Random, ratio=0.6)
    assert hash(P(Random, ratio=0.5)) == hash(P(Random, ratio=0.5))
    assert repr(P(Random, ratio=0.5)) == "Random(ratio=0.5)"
    assert P(Random).defaults() == {"ratio": 0.75, "unit": 1, "fewest": 1, "ask": 1.0}
    with pytest.raises(RecipeError, match=r"Random takes no argument 'ratoi'; did you mean 'ratio'\?"):
        P(Random, ratoi=0.5)
    with pytest.raises(RecipeError, match=r"Pixels takes 4 arguments \(normalise, by_channel, fewest, stream\), got 5"):
        P(Pixels, 1, 2, 3, 4, 5)


def test_unknown_attribute_of_a_recipe():
    with pytest.raises(AttributeError, match=r"a recipe has no 'encodr'; did you mean 'encoder'\?"):
        _ = find("mae").encodr
    assert find("mae").extras is None


def test_diff_and_flatten():
    rows = dict((path, (a, b)) for path, a, b in diff(find("mae"), find("simmim")))
    assert rows["corruption"] == ("Drop", "Replace") and rows["mask.unit"] == ("1", "2")
    assert rows["corruption.keep"] == ("-", "1.0") and rows["loss"] == ("mse", "l1")
    flat = flatten(find("mae"))
    assert flat["mask.ask"] == "1.0" and flat["encoder.mlp_ratio"] == "4.0" and next(iter(flat)) == "tokenizer"


def test_a_recipe_that_lacks_a_stage():
    with pytest.raises(RecipeError, match="recipe 'half' lacks the stage 'tokenizer'; give it a parent or that stage"):
        Recipe(slug="half", stages={"mask": P(Random)}).build(picture_schema(), "nano")


def test_sizes_by_name():
    assert find("mae").build(picture_schema(), "nano").size == SIZES["nano"]


def test_an_earlier_stage_is_asked_for_by_name():
    recipe = find("mae").but({"target": P(Pixels, stream=FromStage("first"))})
    with pytest.raises(RecipeError, match="no earlier stage 'first' has been run"):
        recipe.build(picture_schema(), SMALL)


# Plain data in and out.


@pytest.mark.parametrize("slug", list(catalogue()))
def test_json_round_trip(slug):
    before = find(slug)
    after = Recipe.from_json(json.loads(json.dumps(before.to_json())))
    assert diff(before, after) == [] and after.slug == slug
    assert after.parent == before.parent or after.parent.slug == before.parent.slug
    assert after.to_json() == before.to_json()
    assert after.claim is before.claim


def test_json_of_stages_and_references():
    first = find("mae").but(mask={"ratio": 0.5})
    recipe = find("simmim").but(stages=(first,), target=P(Pixels, stream=FromStage("mae")))
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert diff(recipe, again) == []
    assert again.stages["stages"][0].mask.args["ratio"] == 0.5
    assert again.target.args["stream"] == FromStage("mae")


def test_what_cannot_be_stored_is_named():
    with pytest.raises(RecipeError, match=r"mae.loss is .*<lambda>, which cannot be saved; define it at the top"):
        find("mae").but(loss=lambda pred, goal: pred).to_json()
    with pytest.raises(RecipeError, match=r"mae.mask.ratio is \{.*\}, which cannot be saved"):
        find("mae").but(mask={"ratio": {1, 2}}).to_json()


@pytest.mark.parametrize("address", ["os:system", "subprocess:Popen", "builtins:eval", "torch.nn:Linear"])
def test_loading_imports_nothing_from_outside(address):
    data = find("mae").to_json()
    data["stages"]["loss"] = {"object": address}
    with pytest.raises(RecipeError, match="which is in no recipe file"):
        Recipe.from_json(data)


def test_loading_does_not_run_other_modules(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for where in ("evil", "evil.deeper"):
        data = {**find("mae").to_json(), "module": where}
        data["stages"]["loss"] = {"object": f"{where}:run"}
        with pytest.raises(RecipeError, match="which is in no recipe file"):
            Recipe.from_json(data)
    assert "evil" not in sys.modules


def test_loading_takes_only_what_a_module_defines():
    """A name that a module of anymask only imports is not one of its parts."""
    data = find("mae").to_json()
    for address in ("anymask.parts.masks:torch", "anymask.parts.masks:math.floor", "anymask.run:os.remove"):
        data["stages"]["loss"] = {"object": address}
        with pytest.raises(RecipeError, match=r"has no .* any more"):
            Recipe.from_json(data)


# Finding.


def test_find_names_the_nearest():
    with pytest.raises(RecipeError, match=r"no recipe 'simmin'; did you mean 'simmim'\?"):
        find("simmin")
    assert find(find("mae")) is find("mae")


def test_catalogue_and_claims():
    for slug in catalogue():
        found = find(slug)
        assert found.slug == slug and found.summary and found.family and found.claim is not None


def test_user_file(user_file):
    file = user_file("mine.py", MINE)
    found = find(file)
    assert found.slug == "base" and found.parent.slug == "mae" and found.summary == "Another mask."
    assert find(file) is found
    found.build(picture_schema(), SMALL)
    again = Recipe.from_json(json.loads(json.dumps(found.to_json())))
    assert diff(found, again) == []


def test_user_file_with_several_recipes(user_file):
    file = user_file("mine.py", MINE + CHILD)
    with pytest.raises(RecipeError, match=r"defines base, child; say which, as in .*mine.py:base"):
        find(file)
    child = find(f"{file}:child")
    assert child.mask.args["twist"] == 3
    again = Recipe.from_json(json.loads(json.dumps(child.to_json())))
    assert diff(child, again) == [] and again.parent.slug == "base"


def test_a_run_of_a_user_file_that_is_not_loaded(user_file):
    data = find(user_file("mine.py", MINE)).to_json()
    del sys.modules[USER_MODULE + "mine"]
    with pytest.raises(RecipeError, match=r"uses Mine from your own mine.py; name that file: --recipe path/to/mine.py"):
        Recipe.from_json(data)


def test_user_files_that_are_none(user_file, tmp_path):
    with pytest.raises(RecipeError, match=r"no file .*nothing.py; `anymask new"):
        find(str(tmp_path / "nothing.py"))
    with pytest.raises(RecipeError, match="defines no recipe: decorate"):
        find(user_file("empty.py", "x = 1\n"))
    with pytest.raises(ZeroDivisionError):
        find(user_file("broken.py", "1 / 0\n"))
    assert USER_MODULE + "broken" not in sys.modules


def test_entry_points(user_file, monkeypatch):
    found = find(user_file("mine.py", MINE))

    class Entry:
        name, module = "plugged", "plugin"

        def load(self):
            return found

    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [Entry()] if group == "anymask.recipes" else []
    )
    assert "plugged" in list(catalogue()) and find("plugged") is found


def test_a_part_of_an_installed_plugin_is_loaded(tmp_path, monkeypatch):
    """A plugin's module is imported because it is installed, not because a run names it."""
    (tmp_path / "plugged_in.py").write_text("def loss(pred, goal):\n    return (pred - goal).abs().mean(-1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = find("mae").to_json()
    data["stages"]["loss"] = {"object": "plugged_in:loss"}
    with pytest.raises(RecipeError, match="which is in no recipe file"):
        Recipe.from_json(data)
    assert "plugged_in" not in sys.modules

    class Entry:
        name, module = "plugged", "plugged_in"

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry()])
    assert Recipe.from_json(data).loss.__name__ == "loss"
    del sys.modules["plugged_in"]
