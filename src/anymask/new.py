"""`anymask new`: a recipe file to start from."""

from __future__ import annotations

import re
from pathlib import Path

from anymask.recipe import RecipeError, find
from anymask.run import write_atomically

TEMPLATE = '''"""{name}: a recipe of your own, as its difference from {parent}."""

from anymask.claims import Claim
from anymask.recipe import find, recipe


@recipe(parent=find("{parent}"), paper="unpublished", name="{name}")
def {function}(r):
    """{parent} with a lower mask ratio. Say here in one line what yours changes.

    Run: anymask pretrain SOURCE --recipe {file}
    Cost: say what a run takes.
    Expected: say what it should reach, and on which data. Not reproduced: say what you left out.
    """
    # Each stage is a part with arguments; `anymask show {parent}` prints them all. Change an argument, as here, or
    # replace the stage: mask=P(YourMask, ratio=0.5), with `P` from anymask.recipe and `class YourMask(Part)` above.
    return r.but({{"mask.ratio": {ratio}}})


claim = Claim(
    text="say what your change is good for",
    better_than=lambda r: r.but({{"mask.ratio": {other}}}),
)
'''


def write(name: str, parent: str = "mae", out: Path | None = None) -> Path:
    """Write a recipe called `name` that passes the contract. Returns its path.

    Raises:
        RecipeError: not a name, no such parent, or the file exists.
    """
    function = re.sub(r"\W", "_", name).lower()
    if not function.isidentifier():
        raise RecipeError(f"{name!r} cannot name a recipe: begin with a letter, go on with letters, digits, '-'")
    base = find(parent)
    ratio = base.mask.defaults().get("ratio") if base.mask is not None else None
    if ratio is None:
        raise RecipeError(f"the mask of {parent} has no ratio to begin with; choose another parent")
    path = out or Path(f"{function}.py")
    if path.exists():
        raise RecipeError(f"{path} exists; give another name, or --out FILE")
    ratios = {"ratio": round(0.9 * ratio, 3), "other": round(0.5 * ratio, 3)}
    text = TEMPLATE.format(name=name, parent=base.slug, function=function, file=path, **ratios)
    write_atomically(path, text.encode())
    return path
