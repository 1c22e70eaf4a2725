"""The sections of a report that show samples: reconstructions, masks, features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.train import history, watch

from . import page, plots
from .page import Section
from .plots import DASHES, MARKS, Line
from .renderer import Panel, alone, contents, filled
from .sections import label, named, sentence, series, title
from .subject import Missing, Subject

NEAREST = 5
BLOCKS = 4  # moments of training that are drawn where a drawing takes the width of a plot
FEWEST_TSNE, FEWEST_PCA = 30, 3
ORDINALS = ("nearest", "2nd", "3rd", "4th", "5th")


def each(subjects: Sequence[Subject], what: str, make: Callable[[Subject, str], str]) -> list[str]:
    """A card for each run; where something it needs is missing, a card that says so."""
    return [_made(subject, title(what, subject, subjects), make) for subject in subjects]


def each_part(subjects: Sequence[Subject], what: str, make: Callable[[Subject, str], str]) -> list[str]:
    """A card for each part of each run."""
    return [
        _made(part, title(what, subject, subjects) + (f", {part.part}" if part.part else ""), make)
        for subject in subjects
        for part in subject.by_part()
    ]


def _made(subject: Subject, name: str, make: Callable[[Subject, str], str]) -> str:
    try:
        return make(subject, name)
    except Missing as error:
        return page.missing(name, f"{str(error)[:1].upper()}{str(error)[1:]}.", wide=True)


def drawn(subject: Subject, name: str, panels: Sequence[Panel], caption: str) -> str:
    drawings = subject.renderer.draw(panels)
    return page.card(name, page.sheet(drawings, subject.renderer.layout, f"{name}: {caption}"), caption, wide=True)


# Reconstructions.


def reconstructions(subjects: Sequence[Subject]) -> Section:
    shown = [
        *each_part(subjects, "Over training", _over_training),
        *each_part(subjects, "Over mask ratios", _over_ratios),
        *each_part(subjects, "Candidates", _candidates),
        _error_curve(subjects),
    ]
    intro = "What the model makes of what it cannot see. Hatched is hidden; in tables, framed is predicted."
    return Section("Reconstructions", intro, page.cards(*[s for s in shown if s]))


def _over_training(subject: Subject, name: str) -> str:
    kept = subject.kept
    if "predicted" not in kept:
        if kept and not hasattr(subject.target, "content"):
            raise Missing(_no_content(subject))
        if kept:
            raise Missing("the samples are too large for their predictions to be kept while training")
        raise Missing(f"{subject.name} kept no history.npz; anymask pretrain writes it while it trains")
    few = subject.renderer.samples
    content, known = torch.from_numpy(kept["content"][:few]).float(), torch.from_numpy(kept["known"][:few])
    visible = torch.from_numpy(kept["visible"][:few])
    edges = torch.from_numpy(kept["edges"][:few]) if "edges" in kept else None
    panels = [Panel("original", content, edges=edges), Panel("seen", content, visible, edges=edges)]
    moments = list(zip(kept["step"].tolist(), kept["predicted"]))
    for step, predicted in moments if subject.renderer.layout == "columns" else _spread(moments, BLOCKS):
        made = filled(content, torch.from_numpy(predicted[:few]).float(), known)
        panels.append(Panel(f"step {step:,}", made, visible | known, predicted=known, edges=edges))
    errors = _error(kept, few, subject.model.target)
    hidden = 1 - visible[_real(content)].float().mean()
    caption = (
        f"The same {len(content)} training {subject.renderer.noun} and masks ({hidden:.0%} hidden) at "
        f"{len(panels) - 2} moments: {_measured(kept, subject.model.target)} {errors[0]:.3g} at the start, "
        f"{errors[-1]:.3g} at the end.{_borrowed(subject)}"
    )
    return drawn(subject, name, panels, caption)


def _real(content: Tensor) -> Tensor:
    """(B, N) which tokens there are."""
    return ~(content if content.ndim == 2 else content[..., 0]).isnan()


def _spread(moments: list[Any], count: int) -> list[Any]:
    """The first, the last, and others between them."""
    return [moments[n] for n in sorted({round(n * (len(moments) - 1) / (count - 1)) for n in range(count)})]


def _measured(kept: dict[str, np.ndarray], target: Any) -> str:
    classes = kept["content"].ndim == 2
    return "share of hidden tokens that are wrong" if classes else getattr(
        target, "difference_words", "mean squared error of the hidden content, in the tokenizer's units,"
    )


def _error(kept: dict[str, np.ndarray], few: int, target: Any) -> list[float]:
    """At each moment, over what was hidden and predicted. A target whose content has parts says by `difference` how far
    one is from another."""
    content, known = kept["content"][:few].astype(np.float32), kept["known"][:few]
    if content.ndim == 2:
        return [float((p[:few] != content)[known].mean()) for p in kept["predicted"]]
    made = [p[:few].astype(np.float32).reshape(content.shape) for p in kept["predicted"]]
    difference = getattr(target, "difference", None)
    if difference is None:
        return [float(np.nanmean(np.square(p - content)[known])) for p in made]
    each_ = [difference(torch.from_numpy(p), torch.from_numpy(content)).numpy()[known] for p in made]
    return [float(np.nanmean(e)) for e in each_]


def _over_ratios(subject: Subject, name: str) -> str:
    if not hasattr(subject.target, "content"):
        raise Missing(_no_content(subject))
    few, panels = subject.few(), list[Panel]()
    for ratio, model in subject.ratios.items():
        content, visible, made = contents(model, subject.step(model, few), subject.part)
        assert made is not None
        edges = None if subject.part else subject.joined(slice(len(content)))
        panels = panels or [Panel("original", content, edges=edges)]
        if subject.renderer.layout == "columns":
            panels.append(Panel(f"{ratio:.0%} hidden", content, visible))
            name_ = "made of it"
        else:
            name_ = f"{ratio:.0%} hidden"
        panels.append(Panel(name_, filled(content, *made), visible | made[1], predicted=made[1], edges=edges))
    caption = (
        f"Trained with {subject.hidden():.0%} hidden, and asked with other shares, on random "
        f"{subject.renderer.noun} of {subject.source.name if subject.source else ''}.{_borrowed(subject)}"
    )
    return drawn(subject, name, panels, caption)


def _candidates(subject: Subject, name: str) -> str:
    """Only of renderers that say what a model holds likely."""
    if not hasattr(subject.renderer, "candidates"):
        return ""
    model, step = alone(subject.model, subject.step(batch=subject.few()), subject.part)
    drawing = subject.renderer.candidates(model, step)
    caption = f"Hidden tokens of the same {subject.renderer.noun}: what stood there, and what the model holds likely."
    return page.card(name, page.sheet([drawing], subject.renderer.layout, f"{name}: {caption}"), caption, wide=True)


def _no_content(subject: Subject) -> str:
    heads = ", ".join(subject.target.heads)
    return f"the target of {subject.run.recipe.slug} is {heads}, not the content, so there is nothing to draw"


def _borrowed(subject: Subject) -> str:
    words = getattr(subject.target, "borrows", None)
    return f" In these pictures {words}, as the target says nothing of them." if words else ""


def _error_curve(subjects: Sequence[Subject]) -> str:
    name, lines, words = "Error over mask ratios", list[Line](), []
    for n, subject in enumerate(subjects):
        try:
            errors = {ratio: subject.errors(model) for ratio, model in subject.ratios.items()}
        except Missing as error:
            words.append(f"{named(subject, subjects)}{error}")
            continue
        share = {ratio: 100 * e.model / e.constant for ratio, e in errors.items() if e.constant}
        if not share:
            continue
        x = [100 * ratio for ratio in share]
        lines.append(Line(label(subject, subjects), x, list(share.values()), mark=MARKS[n % 6], **series(n)))  # type: ignore[arg-type]
        said = [f"{s:.0f} % at {100 * r:.0f} % hidden" for r, s in share.items()]
        words.append(named(subject, subjects) + ", ".join(said))
    caption = sentence(words)
    if not lines:
        return page.missing(name, caption)
    caption += " 100 % is what the best constant leaves."
    plot = plots.curves(lines, what="error left, % of the best constant's", along="hidden, %", percent=True,
                        alt=f"Line plot of the error left by mask ratio. {caption}")  # fmt: skip
    return page.card(name, plot, caption)


# Masks.


def masks(subjects: Sequence[Subject]) -> Section:
    intro = "Several draws of the recipe's mask on one sample: what the encoder is left with."
    return Section("Masks", intro, page.cards(*each_part(subjects, "Draws", _draws)))


def _draws(subject: Subject, name: str) -> str:
    content, visible = subject.masks()
    real = _real(content)[:1].expand_as(visible)
    hidden = 1 - (visible & real).sum(1) / real.sum(1).clamp(min=1)
    if subject.renderer.layout == "blocks":  # a drawing is wide: one holds them all
        all_ = torch.ones_like(visible[:1])
        rows = [0] * (len(visible) + 1)
        panels = [Panel("one sample, and what each draw leaves", content[rows], torch.cat([all_, visible]),
                        edges=subject.joined(rows))]  # fmt: skip
    else:
        panels = [Panel("original", content[:1])]
        panels += [Panel(f"draw {n + 1}", content[:1], v[None]) for n, v in enumerate(visible)]
    part = subject.run.recipe.mask
    how = f"{hidden.min():.0%}" if hidden.min() == hidden.max() else f"{hidden.min():.0%} to {hidden.max():.0%}"
    tokens = int(real[0].sum())
    caption = f"{part!r}: {how} of {tokens} {subject.renderer.unit} hidden in each of {len(visible)} draws."
    return drawn(subject, name, panels, caption)


# Features.


def features(subjects: Sequence[Subject]) -> Section:
    maps = each(subjects, "Map", _maps)
    near = each_part(subjects, "Nearest neighbours", _nearest)
    norms = each_part(subjects, "Token norms", _norms)
    shown = [_spectrum(subjects), *near, *norms]
    intro = "Frozen features of random samples, pooled by their mean over tokens (of one sample, those of its tokens), "
    intro += "nothing hidden."
    return Section("Features", intro, page.cards(*maps, *shown))


def _maps(subject: Subject, name: str) -> str:
    x, y = standardised(subject.trained[0]).numpy(), subject.labels
    if len(x) < FEWEST_PCA:
        raise Missing(f"a map needs at least {FEWEST_PCA} samples, the data have {len(x)}")
    groups = np.full(len(x), -1) if y is None else y.numpy()
    names = [] if y is None else subject.label_names
    classes = len(set(groups[groups >= 0].tolist()))
    coloured = f"marked by label ({classes} classes)" if classes else "without labels"
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0).fit(x)
    share = pca.explained_variance_ratio_.sum()
    words = f"{len(x)} {subject.counted}, {coloured}; the two axes hold {share:.0%} of the variance."
    made = page.card(f"{name}, PCA", plots.cloud(pca.transform(x), groups, names, alt=f"Scatter plot. {words}"), words)
    if len(x) < FEWEST_TSNE:
        why = f"t-SNE needs at least {FEWEST_TSNE} samples, and there are {len(x)}; give more with --source."
        return made + page.missing(f"{name}, t-SNE", why)
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(x) - 1) / 3)
    places = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(x)
    words = f"The same {subject.counted}, {coloured}, perplexity {perplexity:.0f}; only neighbourhoods mean something."
    if y is not None and (y >= 0).sum() > 1:
        words += f" {100 * _agree(subject.trained[0], y):.0f} % of nearest neighbours share a label."
    return made + page.card(f"{name}, t-SNE", plots.cloud(places, groups, names, alt=f"Scatter plot. {words}"), words)


def _spectrum(subjects: Sequence[Subject]) -> str:
    lines, words = [], []
    for n, subject in enumerate(subjects):
        try:
            pairs = [(subject.trained[0], True), (subject.untrained, False)]
        except Missing:
            continue
        ranks = []
        for x, trained in pairs:
            variance = torch.linalg.svdvals((x - x.mean(0)).double()).square()
            total = (100 * variance.cumsum(0) / variance.sum()).numpy()
            name = label(subject, subjects) if trained else ""
            name = name or ("" if len(subjects) > 1 else "trained" if trained else "untrained")
            look = series(n) if trained else {"paint": "muted", "dash": DASHES[2]}
            if trained or len(subjects) == 1:
                lines.append(Line(name, range(1, len(total) + 1), total, **look))  # type: ignore[arg-type]
            ranks.append((watch.diversity(x).rank, int(np.searchsorted(total, 90) + 1)))
        words.append(
            f"{named(subject, subjects)}effective rank {ranks[0][0]:.1f} ({ranks[1][0]:.1f} before training), 90 % "
            f"of the variance in {ranks[0][1]} of {subject.trained[0].shape[1]} directions ({ranks[1][1]})"
        )
    if not lines:
        return page.missing("Spectrum", f"{subjects[0].why[:1].upper()}{subjects[0].why[1:]}.")
    caption = sentence(words)
    alt = f"Line plot of the cumulative variance by principal direction. {caption}"
    along = "directions, on a logarithmic scale"
    what = "variance held by the first directions"
    plot = plots.curves(lines, what=what, along=along, percent=True, log=True, alt=alt)
    return page.card("Spectrum", plot, caption)


def _nearest(subject: Subject, name: str) -> str:
    x = torch.nn.functional.normalize(standardised(subject.trained[0]), dim=1)
    if subject.places is not None:
        raise Missing("there is one sample only, which has no neighbours to be drawn")
    if len(x) < 3:
        raise Missing(f"neighbours need at least 3 samples, the data have {len(x)}")
    count = min(NEAREST, len(x) - 1)
    near = (x @ x.T).fill_diagonal_(-torch.inf).topk(count).indices  # n count
    asked = _queries(subject.labels, len(x), subject.renderer.samples)
    content = subject.content
    panels = [Panel("query", content[asked], edges=subject.joined(asked))]
    panels += [
        Panel(ORDINALS[k], content[near[asked, k]], edges=subject.joined(near[asked, k])) for k in range(count)
    ]
    caption = f"By the cosine of standardised features, among {len(x)} random samples."
    y = subject.labels
    if y is not None:
        same = (y[near] == y[:, None])[y >= 0].float().mean()
        raw = subject.raw
        caption += (
            f" {same:.0%} of the {count} nearest have the query's label; the very nearest has it in "
            f"{_agree(subject.trained[0], y):.0%} of all samples, by raw input in {_agree(raw, y):.0%}."
        )
    return drawn(subject, name, panels, caption)


def _norms(subject: Subject, name: str) -> str:
    few = subject.renderer.samples
    codes = subject.trained[1]
    away = (codes - codes.mean((0, 1))).norm(dim=-1)[:few]  # B N
    content = subject.content[:few]
    if away.shape[1] != content.shape[1]:
        slug = subject.run.recipe.slug
        raise Missing(f"the encoder of {slug} gives {away.shape[1]} codes for {content.shape[1]} tokens")
    caption = (
        f"How far each token's code is from the mean code, from {away.min():.2f} (dark blue) to {away.max():.2f} "
        f"(yellow): where the encoder finds something out of the ordinary. Mean {away.mean():.2f}."
    )
    edges = subject.joined(slice(few))
    panels = [Panel("original", content, edges=edges), Panel("distance", content, values=away, edges=edges)]
    return drawn(subject, name, panels, caption)


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


def _agree(x: Tensor, y: Tensor) -> float:
    return history.neighbours_agree(x[y >= 0], y[y >= 0])


def _queries(y: Tensor | None, count: int, wanted: int) -> list[int]:
    """The first samples, of different labels where there are labels."""
    if y is None:
        return list(range(min(wanted, count)))
    first = {int(label_): n for n, label_ in reversed(list(enumerate(y.tolist())))}
    chosen = sorted(n for label_, n in first.items() if label_ >= 0)[:wanted]
    return chosen or list(range(min(wanted, count)))


