"""The renderer of graphs: nodes and edges in the plane, a neighbourhood of a large graph."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from torch import Tensor

from anymask.engine import Model

from .renderer import Drawing, Panel

SIDE, SPACE = 124, 8  # units of a graph's square, and between squares
MOST = 36  # nodes that are drawn; of a larger graph, those around one of them
BUSY = 8  # edges of the node in the middle, at most where there is a choice
COLOURS = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)")


class Graphs:
    """Graphs; see `Renderer`. Nodes whose features are classes (one-hot) have the colour of their class, others one
    colour; hidden nodes are hollow and dashed. Predicted nodes are shaded by the cosine error of their features: pale
    where it is small. Node values are shades as well. Places are networkx's spring layout with a fixed seed."""

    layout = "blocks"
    samples = 3
    noun, unit = "graphs", "nodes"

    def __init__(self, model: Model) -> None:
        pass  # a graph says all that is drawn

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        truth = panels[0].content
        return [self._drawing(panel, truth) for panel in panels]

    def _drawing(self, panel: Panel, truth: Tensor) -> Drawing:
        parts, totals = [], []
        error = _cosine_error(panel.content, truth) if panel.content.shape == truth.shape else None
        for n, content in enumerate(panel.content.float()):
            real = ~content[:, 0].isnan()
            edges = _edges(panel, n)
            nodes = _chosen(int(real.sum()), edges)
            place = _places(nodes, edges)
            fill = _fills(panel, n, content, error)
            hidden = torch.zeros_like(real) if panel.shown is None else real & ~panel.shown[n]
            parts.append(_graph(n * (SIDE + SPACE), nodes, edges, place, fill, hidden))
            totals.append((int(real.sum()), len(edges) // 2, int(hidden.sum())))
        alt = _words(panel, totals, error)
        width = len(parts) * (SIDE + SPACE) - SPACE
        body = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {SIDE}">{"".join(parts)}</svg>'
        return Drawing(panel.name, alt, svg=body)


def _edges(panel: Panel, n: int) -> np.ndarray:
    """(E, 2) of one sample."""
    if panel.edges is None:
        return np.zeros((0, 2), dtype=np.int64)
    edges = panel.edges[n].cpu().numpy()
    return edges[edges[:, 0] >= 0]


def _chosen(count: int, edges: np.ndarray) -> list[int]:
    """All nodes of a small graph; of a large one those nearest to a node with several edges, by their distance."""
    if count <= MOST:
        return list(range(count))
    degree = np.bincount(edges[:, 0], minlength=count)
    middle = int(np.where(degree <= BUSY, degree, -1).argmax())
    order = np.argsort(edges[:, 0], kind="stable")
    starts = np.searchsorted(edges[order, 0], np.arange(count + 1))
    found, at = [middle], 0
    while len(found) < MOST and at < len(found):
        near = edges[order[starts[found[at]] : starts[found[at] + 1]], 1]
        found += [int(node) for node in near if int(node) not in found][: MOST - len(found)]
        at += 1
    return found


def _places(nodes: list[int], edges: np.ndarray) -> dict[int, tuple[float, float]]:
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(map(tuple, edges[np.isin(edges, nodes).all(1)].tolist()))
    found = networkx.spring_layout(graph, seed=0, iterations=80, method="force")
    at = np.array([found[node] for node in nodes])
    span = np.maximum(np.ptp(at, axis=0), 1e-9)
    at = 8 + (at - at.min(0)) / span * (SIDE - 16)
    return {node: (float(x), float(y)) for node, (x, y) in zip(nodes, at)}


def _cosine_error(content: Tensor, truth: Tensor) -> Tensor:
    """(B, N) from 0 to 1."""
    cosine = torch.nn.functional.cosine_similarity(content.float().nan_to_num(), truth.float().nan_to_num(), dim=-1)
    return ((1 - cosine) / 2).clamp(0, 1)


def _fills(panel: Panel, n: int, content: Tensor, error: Tensor | None) -> list[tuple[str, float]]:
    """Colour and opacity of each node."""
    if panel.values is not None:
        values = panel.values[n].float()
        known = panel.values.float()
        known = known[~panel.content[..., 0].isnan()]
        shade = (values - known.min()) / (known.max() - known.min()).clamp(min=1e-9)
        return [("var(--c1)", 0.1 + 0.9 * float(s)) for s in shade.nan_to_num()]
    made = None if panel.predicted is None else panel.predicted[n]
    largest = content.nan_to_num().argmax(1).tolist()
    one_hot = content.shape[1] <= len(COLOURS) + 2
    fills = []
    for node in range(len(content)):
        if made is not None and made[node] and error is not None:
            fills.append(("var(--c2)", 0.12 + 0.88 * float(error[n, node]) ** 0.5))
        else:
            fills.append((COLOURS[largest[node] % len(COLOURS)] if one_hot else "var(--c1)", 0.85))
    return fills


def _graph(
    left: float,
    nodes: list[int],
    edges: np.ndarray,
    place: dict[int, tuple[float, float]],
    fill: list[tuple[str, float]],
    hidden: Tensor,
) -> str:
    radius = 4.6 if len(nodes) <= 20 else 3.6
    lines = "".join(
        f"M{place[a][0]:.1f} {place[a][1]:.1f}L{place[b][0]:.1f} {place[b][1]:.1f}"
        for a, b in edges.tolist() if a < b and a in place and b in place
    )  # fmt: skip
    parts = [f'<path d="{lines}" stroke="var(--axis)" stroke-width=".8" fill="none"/>']
    for node in nodes:
        x, y = place[node]
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
        # The ground below, so that no edge shows through a pale node.
        parts.append(f'{circle} fill="var(--surface)" stroke="none"/>')
        if hidden[node]:
            parts.append(f'{circle} fill="none" stroke="var(--muted)" stroke-dasharray="2 1.5"/>')
        else:
            colour, opacity = fill[node]
            parts.append(f'{circle} fill="{colour}" fill-opacity="{opacity:.2f}" stroke="{colour}" stroke-width=".8"/>')
    return f'<g transform="translate({left} 0)">{"".join(parts)}</g>'


def _words(panel: Panel, totals: list[tuple[int, int, int]], error: Tensor | None) -> str:
    nodes, edges, hidden = (sum(column) for column in zip(*totals))
    words = [f"{panel.name}: {len(totals)} graph{'s' * (len(totals) != 1)} of {nodes:,} nodes and {edges:,} edges"]
    if max(count for count, *_ in totals) > MOST:
        words.append(f"{MOST} nodes of each large one drawn")
    if hidden:
        words.append(f"{hidden:,} nodes hidden")
    if panel.predicted is not None and panel.predicted.any() and error is not None:
        cosine = 1 - 2 * error[panel.predicted].mean().item()
        words.append(f"{int(panel.predicted.sum()):,} nodes predicted, mean cosine with the truth {cosine:.2f}")
    if panel.values is not None:
        known = panel.values[~panel.content[..., 0].isnan()]
        words.append(f"each node by its value, from {known.min():.3g} to {known.max():.3g}")
    return ", ".join(words)
