"""The loss of every recipe's first step on made-up data, recorded: refactors keep it.

    python tests/parity/first_losses.py [RECIPE ...]

writes that of the named recipes, or of those that are not recorded yet, to first_losses.json beside this file.
"""

import json
import sys
from pathlib import Path

import torch

from anymask.contract.data import SMALL, batch_of, default_schema
from anymask.contract.subject import build
from anymask.recipe import catalogue, find

FILE = Path(__file__).with_suffix(".json")


def first_loss(slug):
    """(loss, sum of the magnitudes of all gradients), float32 on one thread."""
    recipe = find(slug)
    schema = default_schema(recipe)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe, schema, SMALL)
        torch.manual_seed(1)
        loss = model(batch_of(schema, 4, 1)).loss
    loss.backward()
    gradients = [p.grad.double().abs().sum() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), float(torch.stack(gradients).sum())


def main(names):
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    for slug in names or [slug for slug in catalogue() if slug not in known]:
        known[slug] = first_loss(slug)
        print(slug, *known[slug])
    FILE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
