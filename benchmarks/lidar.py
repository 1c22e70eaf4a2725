"""Voxel-MAE on lidar sweeps: how well hidden voxels of a sweep never seen are rebuilt, and told from empty ones.

    OMP_NUM_THREADS=1 python benchmarks/lidar.py data/kitti_odometry/velodyne --out runs/lidar --epochs 20

Trains on all sweeps but the last, and measures on the last one's windows, with 70 % of the occupied voxels hidden:

* the chamfer distance of the points of hidden voxels, beside copying the nearest visible voxel (task `reconstruct`);
* the area under the ROC curve by which hidden occupied voxels are told from as many empty ones, drawn from the box
  around a window's voxels: by the model's head, by the distance of the nearest visible voxel, and by how many visible
  voxels lie within 1.5 voxels.

A run that is in --out already is measured as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anymask.data import Source, open_source
from anymask.evaluation import evaluate
from anymask.evaluation.masked import batches, frozen
from anymask.parts.voxels import EMPTY
from anymask.run import Run
from anymask.table import Table
from anymask.train import pretrain

DRAWS = 3


def parts(source: Source) -> tuple[Source, Source]:
    """All sweeps but the last, and the last."""
    groups = source.groups
    assert groups is not None
    last = groups == np.unique(groups)[-1]
    return source.subset(np.flatnonzero(~last)), source.subset(np.flatnonzero(last))


@torch.no_grad()
def occupancy(run: Run, held: Source) -> Table:
    """AUROC in % of occupied against empty, over windows that have both: mean over windows and draws of masks."""
    from sklearn.metrics import roc_auc_score

    found: dict[str, list[float]] = {}
    for name, trained in (("untrained model", False), ("pre-trained model", True)):
        model = frozen(run, trained=trained)
        model.tokenizer.train()  # empty voxels are there in training only
        model.tokenizer.empty = 1.0
        for draw in range(DRAWS):
            for sample in batches(model, run.schema, held, batch_size=16, fixed=True):
                step = model.predict(model.hide({**sample, "key": sample["key"] + draw}))
                assert step.mask.ask is not None and step.mask.ask_ok is not None and step.tokens.kind is not None
                kind = step.tokens.kind.gather(1, step.mask.ask)
                scores = {name: step.pred["occupied"][..., 0].float()}
                if trained:
                    scores |= _by_distance(step.tokens.pos, step.mask.visible, step.mask.ask, model.tokenizer.pitch[0])
                for row in range(len(kind)):
                    ok = step.mask.ask_ok[row]
                    full = (kind[row][ok] != EMPTY).numpy()
                    if full.all() or not full.any():
                        continue
                    for by, score in scores.items():
                        found.setdefault(by, []).append(roc_auc_score(full, score[row][ok].numpy()))
    rows = [(by, f"{100 * np.mean(values):.1f}") for by, values in found.items()]
    count = len(found["pre-trained model"]) // DRAWS
    return Table(("told by", "AUROC, %"), rows, title=f"hidden against empty voxels, {count} windows of the last sweep")


def _by_distance(pos: Tensor, visible: Tensor, ask: Tensor, side: float) -> dict[str, Tensor]:
    """(B, M) scores of asked places by the visible voxels around them."""
    gap = torch.cdist(pos.gather(1, ask[..., None].expand(-1, -1, pos.shape[2])), pos)  # B M N
    gap = gap.masked_fill(~visible[:, None], 1e6)
    return {"nearest visible voxel": -gap.amin(2), "visible voxels around": (gap < 1.5 * side).sum(2).float()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args()
    train, held = parts(open_source(given.source, kind="lidar"))
    if (given.out / "model.safetensors").is_file():
        run = Run.open(given.out)
    else:
        run = pretrain(train, epochs=given.epochs, batch_size=given.batch_size, probe_labels=None, out=given.out)
    print(evaluate(run, train, task="reconstruct", test=held, ratios=[0.7], draws=DRAWS, batch_size=16))
    print(occupancy(run, held))


if __name__ == "__main__":
    main()
