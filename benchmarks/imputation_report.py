"""The report of benchmarks/imputation.py: docs/imputation.md and the critical-difference diagram beside it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from imputation import LABELS, MECHANISMS, METHODS, RATE, ROWS, SETTING

from anymask.evaluation.ranks import Ranks, ranks

COMMAND = "OMP_NUM_THREADS=1 python benchmarks/imputation.py FOLDER --report docs"
Records = Sequence[dict[str, Any]]


def write_report(records: Records, folder: Path) -> None:
    """Writes imputation.md and imputation.svg.

    Raises:
        SystemExit: a method lacks a result that another has.
    """
    methods = [m for m in METHODS if any(r["method"] == m for r in records)]
    cells = {m: {(r["table"], r["mechanism"], r["seed"]) for r in records if r["method"] == m} for m in methods}
    everything = set().union(*cells.values())
    lacking = {m: len(everything - cells[m]) for m in methods if cells[m] != everything}
    if lacking or len(methods) < 3:
        raise SystemExit(f"no report: results lack of {lacking or 'a third method'}; run without --methods first")
    folder.mkdir(parents=True, exist_ok=True)
    overall = ranking(records, methods, "rmse")
    (folder / "imputation.svg").write_bytes(diagram(overall))
    (folder / "imputation.md").write_text("\n".join(page(records, methods, overall)) + "\n")
    print(f"{folder / 'imputation.md'}, {folder / 'imputation.svg'}")


def ranking(records: Records, methods: Sequence[str], measure: str, mechanism: str | None = None) -> Ranks:
    """A table is one data set: its figure is the mean over seeds and mechanisms (or the one given)."""
    chosen = [r for r in records if mechanism in (None, r["mechanism"])]
    tables = sorted({r["table"] for r in chosen})
    scores = [[figure(chosen, measure, table=t, method=m) for m in methods] for t in tables]
    return ranks(np.array(scores), [LABELS[m] for m in methods])


def figure(records: Records, measure: str, how: Callable[..., Any] = np.mean, **where: Any) -> float:
    return float(how([r[measure] for r in records if all(r[k] == v for k, v in where.items())]))


def spread(records: Records, **where: Any) -> float:
    """Standard deviation between seeds, of the mean over mechanisms."""
    chosen = [r for r in records if all(r[k] == v for k, v in where.items())]
    by_seed = [figure(chosen, "rmse", seed=s) for s in sorted({r["seed"] for r in chosen})]
    return float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan")


def page(records: Records, methods: Sequence[str], overall: Ranks) -> list[str]:
    seeds = sorted({r["seed"] for r in records})
    tables = sorted({r["table"] for r in records})
    mechanisms = [m for m in MECHANISMS if any(r["mechanism"] == m for r in records)]
    names = [LABELS[m] for m in methods]
    lines = [
        "# Imputation of tables",
        "",
        f"Made by `{COMMAND}`; nothing here is typed by hand. One line a fit is in `evidence/imputation.jsonl`.",
        "",
        f"{len(tables)} UCI tables (numeric columns with spread, scaled to 0..1 by the whole table, at most {ROWS:,} "
        f"rows), {RATE} of all cells removed, {', '.join(m.upper() for m in mechanisms)}, seeds "
        f"{', '.join(map(str, seeds))}. Each method is fitted on the incomplete table itself and fills it. `remasker` "
        f"here: width {SETTING.width}, {SETTING.depth} + {SETTING.decoder_depth} blocks, {SETTING.steps:,} steps of "
        f"{SETTING.batch_size} rows, learning rate {SETTING.lr:g}, the same "
        "for all tables (`--tune` compares settings on further removed cells); the paper trains longer and larger, by "
        "table. missForest-like: 50 trees, 3 rounds.",
        "",
        f"Device: {joined(records, 'device')}. Versions: {joined(records, 'versions')}. Commit: "
        f"{joined(records, 'commit')}. CPU time of all fits: {sum(r['seconds'] for r in records) / 60:.0f} min.",
        "",
        "## Average ranks",
        "",
        "![Critical-difference diagram; the figures are in the table below](imputation.svg)",
        "",
        f"By RMSE, a table counting once (mean over mechanisms and seeds); 1 is best. Friedman: chi-squared "
        f"{overall.statistic:.1f}, p = {overall.p:.1g}, {overall.count} tables. Nemenyi at 5 %: ranks differ if they "
        f"are more than {overall.critical:.2f} apart; a bar joins methods that are not told apart.",
        "",
    ]
    columns = [("all", overall), *((m.upper(), ranking(records, methods, "rmse", m)) for m in mechanisms)]
    columns.append(("all, by Wasserstein distance", ranking(records, methods, "wasserstein")))
    lines += table(
        ["method", *(head for head, _ in columns), "CPU time, s a fit"],
        [
            [name, *(f"{dict(zip(r.names, r.average))[name]:.2f}" for _, r in columns),
             f"{figure(records, 'seconds', method=m):.1f}"]
            for m, name in zip(methods, names)
        ],
    )  # fmt: skip
    lines += ["", "## RMSE", "", "Mean over mechanisms and seeds ± standard deviation between seeds; the best is bold."]
    lines.append("")
    lines += table(["table", "rows x columns", *names], [_row(records, methods, t) for t in tables])
    for mechanism in mechanisms:
        chosen = [r for r in records if r["mechanism"] == mechanism]
        lines += ["", f"### {mechanism.upper()}", ""]
        lines += table(["table", "rows x columns", *names], [_row(chosen, methods, t) for t in tables])
    return [*lines, "", *PAPER]


PAPER = [
    "## Against the paper",
    "",
    "The figures of ReMasker (arXiv:2309.13793) are not comparable cell by cell. It removes cells by HyperImpute's "
    "`simulate_nan`, from at most 8 columns of a table, chosen at random without a stated seed; its rate is of the "
    "columns that lose cells, ours of all cells; its MAR keeps half of the columns whole, ours 0.3; its MNAR is a "
    "logistic model of other columns, ours of the value itself. On exactly given masks "
    "`benchmarks/remasker_reference.py` compares with the authors' own code, at the settings of the paper.",
]


def _row(records: Records, methods: Sequence[str], name: str) -> list[str]:
    means = [figure(records, "rmse", table=name, method=m) for m in methods]
    one = next(r for r in records if r["table"] == name)
    cells = []
    for m, value in zip(methods, means):
        between = spread(records, table=name, method=m)
        text = f"{value:.4f}" + ("" if np.isnan(between) else f" ± {between:.4f}")
        cells.append(f"**{text}**" if value == min(means) else text)
    return [name, f"{one['rows']} x {one['columns']}", *cells]


def joined(records: Records, what: str) -> str:
    return "; ".join(sorted({str(r[what]) for r in records}))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def diagram(found: Ranks) -> bytes:
    """An SVG after Demsar 2006, figure 1: methods on a line of ranks, bars join what the test does not tell apart."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    k = len(found.names)
    groups = found.groups()
    half = (k + 1) // 2  # the better half is named on the left, from the top down
    depth = 0.45 + 0.22 * len(groups) + 0.4 * half
    with plt.rc_context({"svg.hashsalt": "anymask", "svg.fonttype": "path", "font.size": 10}):
        fig, ax = plt.subplots(figsize=(7, 1.0 + 0.62 * depth))
        ax.set_xlim(1 - 0.32 * (k - 1), k + 0.32 * (k - 1))
        ax.set_ylim(-depth - 0.1, 1.05)
        ax.axis("off")
        ax.plot([1, k], [0, 0], color="black", lw=1)
        for rank in range(1, k + 1):
            ax.plot([rank, rank], [0, 0.12], color="black", lw=1)
            ax.text(rank, 0.2, str(rank), ha="center", va="bottom")
        ax.plot([1, 1 + found.critical], [0.75, 0.75], color="black", lw=1.5)
        ax.text(1 + found.critical / 2, 0.8, f"critical difference {found.critical:.2f}", ha="center", va="bottom")
        for i, (first, last) in enumerate(groups):
            y = -0.25 - 0.22 * i
            ends = [found.average[first] - 0.04, found.average[last] + 0.04]
            ax.plot(ends, [y, y], color="black", lw=4, solid_capstyle="butt")
        for i, (name, rank) in enumerate(zip(found.names, found.average)):
            left = i < half
            y = -0.45 - 0.22 * len(groups) - 0.4 * (i if left else k - 1 - i)
            x = 1 - 0.06 * (k - 1) if left else k + 0.06 * (k - 1)
            ax.plot([rank, rank, x], [0, y, y], color="black", lw=0.8)
            ax.text(x, y, f"{name} {rank:.2f} " if left else f" {rank:.2f} {name}",
                    ha="right" if left else "left", va="center")  # fmt: skip
        out = io.BytesIO()
        fig.savefig(out, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
        plt.close(fig)
    return out.getvalue()
