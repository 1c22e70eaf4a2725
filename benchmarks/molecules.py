"""Molecules: probes on frozen features against Morgan fingerprints with a random forest, on sets of MoleculeNet.

    OMP_NUM_THREADS=1 python benchmarks/molecules.py --data data/molecules --out runs/molecules.jsonl --page table.md

Classes are told apart by scaffold (shares 0.8, 0.1, 0.1; the largest scaffolds train; ROC-AUC, mean over tasks),
numbers predicted after a random division of the same shares (RMSE). An encoder is trained by masking on the training
part of its set alone, with the defaults of `anymask pretrain` but --epochs. Regularisation is chosen by
cross-validation in the training part; the validation part is not used. Every line of --out is one figure; what is there
is not computed again. Without RDKit there is neither a scaffold division nor a fingerprint.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHARES = (0.8, 0.1, 0.1)
BITS, RADIUS, TREES = 2048, 2, 500


@dataclass(frozen=True)
class Set:
    """A file; the column of numbers to predict, None = all others hold classes; columns that hold neither."""

    file: str
    target: str | None = None
    apart: tuple[str, ...] = ()


SETS = {
    "BBBP": Set("BBBP.csv"),
    "tox21": Set("tox21.csv", apart=("mol_id",)),
    "ESOL": Set("delaney-processed.csv", "measured log solubility in mols per litre"),
    "lipophilicity": Set("Lipophilicity.csv", "exp"),
}


def opened(path: Path, one: Set, label: str, seed: int) -> tuple[Any, Any]:
    """Training and test part."""
    from anymask.data import open_source, split_source

    if one.target is None:
        train = open_source(path, label=label, group="scaffold", parts=SHARES, kind="molecule")
        return train, train.split("test")
    whole = open_source(path, label=label, kind="molecule")
    rest, test = split_source(whole, fraction=SHARES[2], seed=seed, stratify=False)
    return split_source(rest, fraction=SHARES[1] / (1 - SHARES[2]), seed=seed, stratify=False)[0], test


def tasks(path: Path, one: Set) -> list[str]:
    """The columns that are predicted."""
    if one.target is not None:
        return [one.target]
    head = path.open().readline().strip().split(",")
    return [name for name in head if name.lower() != "smiles" and name not in one.apart]


def texts(source: Any) -> list[str]:
    from anymask.data.kinds.text import as_text

    return [as_text(sample["molecule"]) for sample in source.fetch(range(len(source)))]


def fingerprints(smiles: list[str]) -> np.ndarray:
    """(N, 2048) Morgan fingerprints; of what RDKit cannot read, NaN."""
    from rdkit import Chem, RDLogger
    from rdkit.Chem import rdFingerprintGenerator

    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    made = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    found = np.full((len(smiles), BITS), np.nan, dtype=np.float32)
    for row, text in zip(found, smiles):
        molecule = Chem.MolFromSmiles(text)
        if molecule is not None:
            row[:] = made.GetFingerprintAsNumPy(molecule)
    return found


def features(train: Any, test: Any, epochs: float | None, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, features of both parts)."""
    from anymask.evaluation import embed
    from anymask.evaluation.inputs import raw_input
    from anymask.train import pretrain

    yield "Morgan fingerprint", fingerprints(texts(train)), fingerprints(texts(test))
    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(train, epochs=epochs, seed=seed, out=Path(folder) / "run", probe_labels=None, progress=False)
        yield "SMILES tokens, tf-idf", raw_input(train, run.schema), raw_input(test, run.schema)
        for name, trained in (("untrained encoder", False), ("pre-trained encoder", True)):
            yield name, embed(run, train, trained=trained), embed(run, test, trained=trained)


def model(name: str, numbers: bool, seed: int) -> Any:
    """Random forest on fingerprints, a linear model on the rest."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "Morgan fingerprint":
        forest = RandomForestRegressor if numbers else RandomForestClassifier
        return forest(TREES, random_state=seed, **({} if numbers else {"class_weight": "balanced"}))
    linear = RidgeCV(np.logspace(-2, 5, 15)) if numbers else LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 5), scoring="neg_log_loss", max_iter=1000, use_legacy_attributes=False, l1_ratios=(0,))
    return make_pipeline(StandardScaler(), linear)


def measured(name: str, x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, numbers: bool, seed: int
             ) -> float:  # fmt: skip
    """RMSE, or ROC-AUC in per cent; of samples with a label that can be read."""
    from sklearn.metrics import roc_auc_score, root_mean_squared_error

    there, test_there = (np.isfinite(v).all(1) & (np.isfinite(t) if numbers else t >= 0)
                         for v, t in ((x, y), (test_x, test_y)))  # fmt: skip
    fitted = model(name, numbers, seed).fit(x[there], y[there])
    if numbers:
        return root_mean_squared_error(test_y[test_there], fitted.predict(test_x[test_there]))
    return 100 * roc_auc_score(test_y[test_there], fitted.predict_proba(test_x[test_there])[:, 1])


def run(name: str, one: Set, data: Path, epochs: float | None, seed: int) -> Iterator[dict[str, Any]]:
    path = data / one.file
    columns = tasks(path, one)
    numbers = one.target is not None
    train, test = opened(path, one, columns[0], seed)
    parts = {label: opened(path, one, label, seed) for label in columns}
    goals = {label: [part.targets if numbers else part.labels for part in pair] for label, pair in parts.items()}
    for row, x, test_x in features(train, test, epochs, seed):
        figures = [measured(row, x, y, test_x, test_y, numbers, seed) for y, test_y in goals.values()]
        yield dict(set=name, features=row, seed=seed, epochs=epochs, tasks=len(columns), train=len(train),
                   test=len(test), figure=float(np.mean(figures)))  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """A table: mean over the seeds and their spread."""
    names = list(dict.fromkeys(row["set"] for row in rows))
    heads = [f"{name}, {'RMSE' if SETS[name].target else 'ROC-AUC in %'}" for name in names]
    lines = ["| features | " + " | ".join(heads) + " |", "|---" * (1 + len(names)) + "|"]
    for feature in dict.fromkeys(row["features"] for row in rows):
        cells = []
        for name in names:
            found = np.array([r["figure"] for r in rows if (r["set"], r["features"]) == (name, feature)])
            digits = 2 if SETS[name].target else 1
            spread = f" ± {found.std(ddof=1):.{digits}f}" if len(found) > 1 else ""
            cells.append(f"{found.mean():.{digits}f}{spread}" if len(found) else "")
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/molecules.jsonl"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--epochs", type=float, help="None = the default of the kind.")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    for seed in range(asked.seeds):
        for name in asked.only:
            if any((row["set"], row["seed"], row["epochs"]) == (name, seed, asked.epochs) for row in rows):
                continue
            found = list(run(name, SETS[name], asked.data, asked.epochs, seed))
            with asked.out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)
            rows += found
            print(page(rows), flush=True)
    if asked.page:
        asked.page.write_text(page(rows))


if __name__ == "__main__":
    main()
