"""Defaults for toy-sized images, judged on a validation part of the digits' training part; the test part is not read.

    OMP_NUM_THREADS=1 python benchmarks/digits_defaults.py [VARIANT ...]
"""

from __future__ import annotations

import sys
import tempfile

VARIANTS = {
    "defaults": {},
    "ratio as for large images": {"mask.fewest": 1},
    "normalised as large patches": {"target.fewest": 1},
    "both as for large images": {"mask.fewest": 1, "target.fewest": 1},
}


def main(names: list[str]) -> None:
    import anymask
    from anymask.data import split_source

    train, validation = split_source(anymask.open_source("digits"), fraction=0.25, seed=0)
    for name in names or VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            run = anymask.pretrain(
                train, epochs=120, changes=VARIANTS[name], out=f"{folder}/run", probe_labels=None, progress=False
            )
            table = anymask.evaluate(run, train, labels=(1, 5, 10), test=validation)
        for row in table.rows:
            if row[1] == "linear probe" and (row[0] == "pre-trained encoder" or name == "defaults"):
                print(f"{name:28}  {row[0]:20}  {'   '.join(map(str, row[2:]))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
