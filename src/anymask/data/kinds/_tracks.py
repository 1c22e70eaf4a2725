"""Tracks of agents in scenes: text files of frame, agent, x, y, and windows of one agent with its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..columns import Column
from ..errors import DataError, Unreadable
from ..kind import Value, kind_of

WINDOW, PAST = 20, 0.4  # steps of a sample, and the share that is past (8 of 20: custom for ETH and UCY)
MOST = 12  # agents of a sample, the one that it is about counted; of more, the nearest
SHARE = 0.95  # of the windows have at most as many agents as a sample
HEAD = 4  # lines that are looked at to know such a file


class Scene(NamedTuple):
    """Tracks, each (T,) steps from `first`, NaN where the agent is not seen."""

    name: str
    ids: list[str]
    first: np.ndarray  # (n,) step of the first position
    last: np.ndarray  # (n,) step behind the last one
    tracks: list[np.ndarray]  # (T, 2) metres
    step: float  # frames from one step to the next
    bridged: int  # steps that are missing within tracks


def looks_like(path: Path) -> bool:
    """Whether the first lines of a file are frame, agent, x, y and nothing else; a .csv file says so in a heading,
    as any table may have four columns of numbers."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [file.readline() for _ in range(HEAD)]
    except (OSError, UnicodeDecodeError):
        return False
    rows = [line.replace(",", " ").split() for line in lines if line.strip()]
    named = bool(rows) and _header(rows[0])
    rows = rows[1:] if named else rows
    whole = all(len(row) == 4 and _numbers(row) and float(row[0]) == int(float(row[0])) for row in rows)
    return bool(rows) and whole and (named or path.suffix.lower() == ".txt")


def _header(row: list[str]) -> bool:
    words = [word.lower().strip('"') for word in row]
    return len(words) == 4 and words[0] == "frame" and words[2:] == ["x", "y"]


def _numbers(row: list[str]) -> bool:
    try:
        return all(np.isfinite(float(word)) for word in row)
    except ValueError:
        return False


def read(path: Path) -> Scene:
    """
    Raises:
        Unreadable: it is empty, or a line is not frame, agent, x, y.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(path.name, f"it is no text ({error})") from error
    rows = [(n, line.replace(",", " ").split()) for n, line in enumerate(lines, 1) if line.strip()]
    if rows and _header(rows[0][1]):
        rows = rows[1:]
    if not rows:
        raise Unreadable(path.name, "it has no positions")
    wrong = next(((n, row) for n, row in rows if len(row) != 4 or not _numbers(row)), None)
    if wrong is not None:
        raise Unreadable(path.name, f"line {wrong[0]} is not frame, agent, x, y: {' '.join(wrong[1])[:60]!r}")
    table = np.array([row for _, row in rows], dtype=np.float64)
    return of_table(table, path.stem)


def of_table(table: np.ndarray, name: str) -> Scene:
    """A scene from rows (n, 4) of frame, agent, x, y. Raises Unreadable."""
    frames, agents = table[:, 0], table[:, 1]
    gaps = np.diff(np.unique(frames))
    if not len(gaps):
        raise Unreadable(name, "all of its positions are in one frame")
    found, counts = np.unique(gaps, return_counts=True)
    step = float(found[counts.argmax()])  # the most common distance of frames
    at = np.round((frames - frames.min()) / step).astype(np.int64)
    order = np.lexsort((at, agents))
    ids, first, last, tracks, bridged = [], [], [], [], 0
    for rows in np.split(order, np.flatnonzero(np.diff(agents[order])) + 1):
        if len(set(at[rows].tolist())) < len(rows):
            raise Unreadable(name, f"agent {agents[rows[0]]:g} has two positions in one frame")
        begin, end = int(at[rows[0]]), int(at[rows[-1]]) + 1
        track = np.full((end - begin, 2), np.nan, dtype=np.float32)
        track[at[rows] - begin] = table[rows, 2:]
        ids.append(f"{agents[rows[0]]:g}")
        first.append(begin)
        last.append(end)
        tracks.append(track)
        bridged += len(track) - len(rows)
    return Scene(name, ids, np.array(first), np.array(last), tracks, step, bridged)


class AgentColumn(Column):
    """Windows (2, length, agents) of scenes: the agent that it is about first, which is seen in every step, then the
    others of that stretch, the nearest at the last step of the past first; NaN where an agent is not seen."""

    dtype, shape, in_memory = "float32", None, True

    def __init__(self, scenes: list[Scene], length: int, past: int, stride: int) -> None:
        self.kind, self.scenes, self.length, self.past = kind_of("trajectory"), scenes, length, past
        at = [(n, agent, start) for n, scene in enumerate(scenes)
              for agent, starts in enumerate(_whole(scene, length, stride)) for start in starts.tolist()]  # fmt: skip
        self.at = np.array(at, dtype=np.int64).reshape(-1, 3)  # scene, agent and first step of each window

    def __len__(self) -> int:
        return len(self.at)

    def read(self, row: int) -> Value | None:
        number, agent, start = self.at[row].tolist()
        scene = self.scenes[number]
        there = np.flatnonzero((scene.first < start + self.length) & (scene.last > start))
        out = np.full((2, self.length, len(there)), np.nan, dtype=np.float32)
        for place, other in enumerate(there.tolist()):
            low, high = max(start, int(scene.first[other])), min(start + self.length, int(scene.last[other]))
            track = scene.tracks[other][low - scene.first[other] : high - scene.first[other]]
            out[:, low - start : high - start, place] = track.T
        now = out[:, self.past - 1]  # 2 A
        mine = int(np.flatnonzero(there == agent)[0])
        far = np.linalg.norm(now - now[:, mine, None], axis=0)
        far[mine] = -1.0
        order = np.argsort(far, kind="stable")  # those that are not seen then, NaN, come last
        return np.ascontiguousarray(out[:, :, order[: int(np.isfinite(far).sum())]])

    def nbytes(self, row: int) -> int | None:
        return 8 * self.length * MOST  # about

    def name_of(self, row: int) -> str:
        number, agent, start = self.at[row].tolist()
        scene = self.scenes[number]
        return f"{scene.name}, agent {scene.ids[agent]}, step {start}"


def _whole(scene: Scene, length: int, stride: int) -> list[np.ndarray]:
    """By agent, the steps from which it is seen in `length` steps one after another."""
    out = []
    for first, track in zip(scene.first.tolist(), scene.tracks):
        gone = np.isnan(track[:, 0])
        if len(track) < length:
            out.append(np.zeros(0, dtype=np.int64))
            continue
        missing = np.convolve(gone, np.ones(length), "valid")
        out.append(first + np.flatnonzero(missing == 0)[::stride])
    return out


def past_of(length: int) -> int:
    """How many steps of a window are past."""
    if length < 4:
        raise DataError(f"a window of {length} steps (--window) has no past and future of two steps each; give 4 or "
                        "more")
    return min(max(2, round(PAST * length)), length - 2)
