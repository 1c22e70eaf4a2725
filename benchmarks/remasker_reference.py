"""The `remasker` recipe against the ReMasker authors' own code: error on exactly given masks, and time.

    OMP_NUM_THREADS=1 python benchmarks/remasker_reference.py FOLDER [--tables climate wine] [--authors CHECKOUT]
        [--rounds 5] [--epochs 3] [--no-fit] [--fit-epochs 600] [--lr 1e-3] [--validate]

FOLDER holds climate.csv and wine.csv as in github.com/tydusky/remasker. Protocol: numeric columns with spread, scaled
to 0..1 by the whole table, `numpy.random.RandomState(0).rand(rows, columns) < 0.3` removed, RMSE over those cells.
Fitting is at the authors' settings for each table: 600 epochs, batch 64, learning rate 1e-3 with 40 epochs of warm-up
and a cosine to 1e-5, mask ratio 0.5. Exit code 1 if an error is more than 5 % above the one of the authors' code.
--fit-epochs and --lr train anymask's shorter or faster than the authors do; what is printed then says so. They are to
be chosen with --validate, which hides a tenth of the observed cells as well and prints the error on these alone.

With --authors, a checkout of their repository that you cloned yourself, both codes take turns on the same data for a
few epochs and then fill the table; whole times follow from that. Their files import hyperimpute, timm and tkinter: what
of these is not installed is stood in for, of which only timm's transformer block is ever called.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

EPOCHS, BATCH = 600, 64
TOLERANCE = 0.05


class Reference(NamedTuple):
    rmse: float  # of the authors' code with this mask
    width: int
    depth: int
    decoder_depth: int
    heads: int = 4


REFERENCES = {"climate": Reference(0.3121, 32, 4, 2), "wine": Reference(0.1015, 64, 8, 6)}


def data(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, F) truth, the mask of seed 0, and the incomplete table."""
    from imputation import read_table

    truth = read_table(folder / f"{name}.csv")
    missing = np.random.RandomState(0).rand(*truth.shape) < 0.3
    return truth, missing, np.where(missing, np.nan, truth)


def fit(x: np.ndarray, ref: Reference, folder: str, *, epochs: int, lr: float = 1e-3, seed: int = 0) -> Any:
    """A run at the authors' settings, for fewer epochs too."""
    from anymask import pretrain
    from anymask.recipe import Size

    size = Size(ref.width, ref.depth, ref.heads, ref.width, ref.decoder_depth, ref.heads)
    return pretrain(
        x, recipe="remasker", size=size, epochs=epochs, batch_size=BATCH, seed=seed, precision="fp32", clip=0,
        workers=0, probe_labels=None, progress=False, out=folder, overwrite=True,
        changes={"optimiser.lr": lr},
    )  # fmt: skip


# The authors' code.


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, bias: bool):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim, bias=bias), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """In place of timm's, where that is not installed: pre-norm, GELU, no dropout."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, *, qkv_bias: bool, norm_layer: Any):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


STAND_INS: dict[str, dict[str, Any]] = {  # module -> what is imported from it
    "tkinter": {"E": None},
    "timm": {},
    "timm.models": {},
    "timm.models.vision_transformer": {"Block": Block},
    "timm.optim": {},
    "timm.optim.optim_factory": {},
    "hyperimpute": {},
    "hyperimpute.plugins": {},
    "hyperimpute.plugins.imputers": {"ImputerPlugin": object, "Imputers": object},
    "hyperimpute.utils": {},
    "hyperimpute.utils.benchmarks": {"compare_models": None},
}


@contextmanager
def authors_code(checkout: Path) -> Iterator[Any]:
    """Their class ReMasker. numpy.float, which they use and NumPy no longer has, exists meanwhile."""
    if not (checkout / "remasker_impute.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of github.com/tydusky/remasker: it has no remasker_impute.py")
    names = [name for name in STAND_INS if not _installed(name)]
    for name in names:
        module = types.ModuleType(name)
        module.__dict__.update(STAND_INS[name])
        sys.modules[name] = module
    for name in names:  # `import a.b as c` reads the attribute of the package
        package, _, leaf = name.rpartition(".")
        if package in names:
            setattr(sys.modules[package], leaf, sys.modules[name])
    sys.path.insert(0, str(checkout))
    np.float = float  # type: ignore[attr-defined]
    try:
        from remasker_impute import ReMasker

        yield ReMasker
    finally:
        del np.float  # type: ignore[attr-defined]
        sys.path.remove(str(checkout))


def _installed(name: str) -> bool:
    import importlib.util

    root = name.partition(".")[0]
    return root not in STAND_INS or (root not in sys.modules and importlib.util.find_spec(root) is not None)


def authors_imputer(imputer: Any, ref: Reference, epochs: int) -> Any:
    """Theirs reads its options from the command line."""
    options = dict(embed_dim=ref.width, depth=ref.depth, decoder_depth=ref.decoder_depth, num_heads=ref.heads,
                   max_epochs=epochs, batch_size=BATCH)  # fmt: skip
    given, sys.argv = sys.argv, ["", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]
    try:
        return imputer()
    finally:
        sys.argv = given


def race(x: np.ndarray, ref: Reference, imputer: Any, rounds: int, epochs: int, ours_epochs: int) -> None:
    """Whole times from short fits that take turns: of e and of 3 e epochs, which share what is done once. CPU seconds,
    so that other load on the machine counts less."""
    from anymask.evaluation.imputing import impute

    incomplete = torch.tensor(x, dtype=torch.float32)
    times: dict[str, list[tuple[float, float]]] = {"authors": [], "anymask": []}  # (once, an epoch)
    with tempfile.TemporaryDirectory() as folder:

        def ours(length: int) -> Any:
            return fit(x, ref, f"{folder}/run", epochs=length)

        def theirs(length: int) -> Any:
            return authors_imputer(imputer, ref, length).fit(incomplete)

        for who, code, fill in (("authors", theirs, lambda made: made.transform(incomplete)),
                                ("anymask", ours, lambda made: impute(made, x))) * (rounds + 1):  # fmt: skip
            short, _ = timed(code, epochs)
            long, made = timed(code, 3 * epochs)
            each = (long - short) / (2 * epochs)
            times[who].append((short - epochs * each + timed(fill, made)[0], each))
    times = {who: parts[1:] for who, parts in times.items()}  # the first round warms up
    lengths = {"authors": EPOCHS, "anymask": ours_epochs}
    whole = {who: [once + lengths[who] * each for once, each in parts] for who, parts in times.items()}
    quotients = sorted(a / b for a, b in zip(whole["authors"], whole["anymask"]))
    for who, values in whole.items():
        once, each = (statistics.median(column) for column in zip(*times[who]))
        median = statistics.median(values)
        print(f"  {who:8} {1000 * each:8.1f} ms an epoch, {once:5.2f} s once; {lengths[who]} epochs: {median:6.1f} s")
    print(f"  anymask is {statistics.median(quotients):.2f} times as fast (rounds: "
          f"{', '.join(f'{q:.2f}' for q in quotients)})", flush=True)  # fmt: skip


def timed(what: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both codes have something to say of so short a training
        result = what(argument)
    return time.process_time() - begin, result


def judge(
    truth: np.ndarray, missing: np.ndarray, x: np.ndarray, ref: Reference, *, epochs: int, lr: float, seed: int
) -> bool:
    from anymask.evaluation.classical import rmse
    from anymask.evaluation.imputing import impute

    begin, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        filled = impute(fit(x, ref, f"{folder}/run", epochs=epochs, lr=lr, seed=seed), x)
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    error = rmse(truth, filled, missing)
    ok = error <= (1 + TOLERANCE) * ref.rmse
    verdict = f"{error / ref.rmse - 1:+.1%}, {'within' if ok else 'beyond'} {TOLERANCE:.0%}"
    print(f"  {epochs} epochs, learning rate {lr:g}, seed {seed}: RMSE {error:.4f}, the authors' code {ref.rmse:.4f} "
          f"({verdict}); fitted and filled in {took:.0f} s ({cpu:.0f} s of CPU)", flush=True)  # fmt: skip
    return ok


def validate(truth: np.ndarray, x: np.ndarray, ref: Reference, *, epochs: int, lr: float, seed: int) -> None:
    """The error on a tenth of the observed cells, hidden as well; the cells of the reference are not looked at."""
    from anymask.evaluation.classical import rmse
    from anymask.evaluation.imputing import impute

    held = (np.random.RandomState(1).rand(*x.shape) < 0.1) & ~np.isnan(x)
    cpu = time.process_time()
    known = np.where(held, np.nan, x)
    with tempfile.TemporaryDirectory() as folder:
        filled = impute(fit(known, ref, f"{folder}/run", epochs=epochs, lr=lr, seed=seed), known)
    print(f"  {epochs} epochs, learning rate {lr:g}, seed {seed}: RMSE {rmse(truth, filled, held):.4f} on validation "
          f"cells ({time.process_time() - cpu:.0f} s of CPU)", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", nargs="+", choices=list(REFERENCES), default=list(REFERENCES))
    parser.add_argument("--authors", type=Path, help="their repository, to race against")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of the short fits of a race")
    parser.add_argument("--no-fit", action="store_true", help="race only")
    parser.add_argument("--seed", type=int, default=0, help="of the training; the mask is that of seed 0")
    parser.add_argument("--fit-epochs", type=int, default=EPOCHS, help="of anymask's whole fit")
    parser.add_argument("--lr", type=float, default=1e-3, help="of anymask's whole fit")
    parser.add_argument("--validate", action="store_true", help="judge on a tenth of the observed cells instead")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    good = True
    for name in args.tables:
        ref = REFERENCES[name]
        truth, missing, x = data(args.folder, name)
        blocks = f"{ref.depth} + {ref.decoder_depth} blocks"
        print(f"{name}: {len(x)} x {x.shape[1]}, width {ref.width}, {blocks}", flush=True)
        if args.authors:
            with authors_code(args.authors) as imputer:
                race(x, ref, imputer, args.rounds, args.epochs, args.fit_epochs)
        if args.validate:
            validate(truth, x, ref, epochs=args.fit_epochs, lr=args.lr, seed=args.seed)
        elif not args.no_fit:
            good &= judge(truth, missing, x, ref, epochs=args.fit_epochs, lr=args.lr, seed=args.seed)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
