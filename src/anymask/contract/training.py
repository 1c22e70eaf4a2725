"""Gradients, what moves, whether it learns, and whether it compiles."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._dynamo
import torch.fx.experimental._config as _shapes
from torch import Tensor, nn

from anymask.contract.subject import ContractError, Subject, seeded
from anymask.data.kind import kind_of
from anymask.engine import Model, Sample, Step, scored
from anymask.parts.several import tokenizer_of

GRADIENTS, FITS, COMPILES, REPEATS = "gradients", "fits", "compiles", "repeats"
STEPS = 600  # of the fit at most
FEW = 6  # patches along the last axis of a sample
CLEARLY = 0.8  # the fitted error, at most, as a share of the best constant's


def gradients(subject: Subject) -> list[str]:
    """Every trainable parameter gets a gradient and is in the optimiser; frozen ones move only in `after_step`."""
    model = subject.build()
    optimiser = _optimiser(subject, model)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    waiting = {name for name, p in model.named_parameters() if p.requires_grad}
    for i in range(6):
        optimiser.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(i)
            model(subject.redrawn(i)).loss.backward()
        waiting -= {n for n, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
        optimiser.step()
        moved = [n for n, p in model.named_parameters() if n in frozen and not torch.equal(p, frozen[n])]
        if moved:
            raise ContractError(
                GRADIENTS, f"{moved[0]} is frozen and moved in an optimiser step", "leave it out of the optimiser"
            )
        if not waiting:
            break
    if waiting:
        raise ContractError(
            GRADIENTS,
            f"{len(waiting)} trainable parameters get no gradient, {sorted(waiting)[0]} among them",
            "use them on the way to the loss, remove them, or freeze them (requires_grad_(False))",
        )
    for part in model.parts():
        part.after_step(model, 0.5)
    return []


def _optimiser(subject: Subject, model: Model) -> torch.optim.Optimizer:
    """The recipe's own, if it has one, checked to hold every trainable parameter once."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if subject.recipe.optimiser is None:
        return torch.optim.AdamW(trainable, lr=1e-3)
    optimiser = subject.recipe.optimiser(model, batch_size=len(subject.batch["index"]))
    held = [id(p) for group in optimiser.param_groups for p in group["params"]]
    if sorted(held) != sorted(id(p) for p in trainable):
        raise ContractError(
            GRADIENTS,
            f"the optimiser holds {len(held)} parameters, the model trains {len(trainable)}",
            "give it every parameter with requires_grad once, and no other",
        )
    return optimiser


def fits(subject: Subject) -> list[str]:
    """One batch with fixed masks, teachers frozen: in a few hundred quick steps every head's error on scored tokens
    falls clearly below that of the best constant prediction."""
    model = subject.build()
    step = model.hide(subject.batch)
    with torch.no_grad():
        first = seeded(model, step)
    constant = {head: best_constant(model, first, head) for head in model.target.heads}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for i in range(STEPS + 1):
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1.0, (i + 1) / 10, 2 * (1 - i / (STEPS + 1)))
        optimiser.zero_grad()
        now = seeded(model, step, seed=i)
        error = {head: _mean_error(now, head, model) for head in constant} if i % 25 == 0 else {}
        if error and all(error[head] < CLEARLY * least for head, least in constant.items()):
            return [
                f"{head}: error {error[head]:.3g} after {i} steps, best constant {constant[head]:.3g}"
                for head in constant
            ]
        now.loss.backward()  # type: ignore[union-attr]
        optimiser.step()
    head = next(head for head, least in constant.items() if not error[head] < CLEARLY * least)  # also if not finite
    raise ContractError(
        FITS,
        f"after {STEPS} steps on one batch the error of head {head!r} is {error[head]:.3g}; "
        f"the best constant has {constant[head]:.3g}",
        "check that goals and predictions are of the same tokens, and that the loss says what is wrong",
    )


def _mean_error(step: Step, head: str, model: Model) -> float:
    assert step.error is not None
    ok = scored(step, model.target.heads[head])
    error = step.error[head].detach()
    return (error if ok is None else error[ok]).mean().item()


def best_constant(model: Model, step: Step, head: str) -> float:
    """The least error on scored tokens of a prediction that is the same everywhere, by the recipe's own loss: from the
    mean, the median or (for classes) the prior, then improved by gradient."""
    assert step.goal is not None and step.pred is not None
    goal, like, ok = step.goal[head], step.pred[head].float(), scored(step, model.target.heads[head])

    def error(constant: Tensor) -> Tensor:
        errors = model.losses[head](constant.expand(like.shape), goal)
        return (errors if ok is None else errors[ok]).mean()

    starts = [torch.zeros(like.shape[-1])]
    values = goal.flatten(0, 1) if ok is None else goal[ok.expand(goal.shape[:2])]
    if not goal.is_floating_point():
        each = goal.shape[-1] if goal.ndim == like.ndim else 1  # classes of a token: one, or one a pixel; -1 = none
        counts = values[values >= 0].bincount(minlength=like.shape[-1] // each)[: like.shape[-1] // each]
        starts.append(counts.float().clamp(min=1e-3).log().repeat(each))
    elif goal.shape == like.shape:
        values = values.float()  # NaN where a goal has no value
        starts += [values.nanmean(0).nan_to_num(), values.nanmedian(0).values.nan_to_num()]
    best = min(starts, key=lambda start: error(start).item())
    return min(error(best).item(), _improved(best, error))


def _improved(start: Tensor, error: Callable[[Tensor], Tensor]) -> float:
    constant = nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([constant], lr=0.02)
    with torch.enable_grad():
        for _ in range(60):
            optimiser.zero_grad()
            error(constant).backward()
            optimiser.step()
    return error(constant.detach()).item()


def repeats(subject: Subject) -> list[str]:
    """Equal seeds give equal weights, masks and losses."""
    losses = [seeded(model, model.hide(subject.batch)).loss for model in (subject.build(), subject.build())]
    if not torch.equal(losses[0], losses[1]):  # type: ignore[arg-type]
        raise ContractError(
            REPEATS,
            f"equal seeds give the losses {losses[0]} and {losses[1]}",
            "draw from anymask.keyed or torch's generator",
        )
    return []


def compiles(subject: Subject) -> list[str]:
    """`learn` is one graph, gives what it gives uncompiled, and is not compiled again for each further length."""
    model = subject.build()
    broken = subject.declared(model, "breaks_graph")
    if broken:
        return [f"breaks the graph by design, not compiled: {reason}" for reason in broken]
    step = model.hide(subject.batch)
    torch._dynamo.reset()
    try:
        graph = torch.compile(model.learn, fullgraph=True, backend="aot_eager", dynamic=False)
        compiled = _run(graph, step)
        compiled.loss.backward()  # type: ignore[union-attr]
        _same(seeded(model, step), compiled)
        return _one_graph_for_lengths(subject, model, step)
    finally:
        torch._dynamo.reset()


def _one_graph_for_lengths(subject: Subject, model: Model, step: Step) -> list[str]:
    """Backend `eager` and no gradients: what makes a graph special to a length is found by tracing alone."""
    others = _other_lengths(subject, model)
    if not others:
        return ["one length only: its data have no other"]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graph = torch.compile(model.learn, fullgraph=True, backend="eager", dynamic=True)
    graphs = torch._dynamo.utils.counters["stats"]
    # Duck shapes would tie a length to any other number that happens to be equal, as that of fields of a record.
    with _shapes.patch(use_duck_shape=False), torch.no_grad():  # type: ignore[attr-defined]
        for known in (step, others[0]):  # the length of training may have a graph of its own
            _run(graph, known)
        count = graphs["unique_graphs"]
        for other in others[1:]:
            _same(seeded(model, other), _run(graph, other))
    again = graphs["unique_graphs"] - count
    if again:
        raise ContractError(
            COMPILES,
            f"{again} more compilations for {len(others) - 1} more lengths (TORCH_LOGS=recompiles says why)",
            "do not branch on lengths or turn tensors into numbers in learn()",
        )
    return []


def _run(graph: Callable[[Step], Step], step: Step) -> Step:
    """A compiled step."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return graph(step._replace(aux={}))
    except torch._dynamo.exc.TorchDynamoException as error:
        first = str(error).strip().split("\n")[0]
        raise ContractError(
            COMPILES,
            f"learn() is not one graph: {first}",
            "use tensor operations in place of numbers and Python branches, or draw what they need in the mask part",
        ) from error


def _same(plain: Step, compiled: Step) -> None:
    assert plain.loss is not None and compiled.loss is not None
    if not torch.allclose(plain.loss, compiled.loss, rtol=1e-4, atol=1e-6):
        raise ContractError(
            COMPILES,
            f"the loss is {plain.loss.item():.6g}, compiled {compiled.loss.item():.6g}",
            "keep Python state out of learn(): it is frozen when the graph is made",
        )


def _other_lengths(subject: Subject, model: Model) -> list[Step]:
    """Steps of three other lengths of the same data: images that lack one, two or three columns of patches, texts that
    lack as many tokens. Samples of very few patches get so many more instead, as one or none makes a graph special."""
    batch = subject.batch
    elastic = [n for n, f in subject.schema.fields.items() if kind_of(f.kind).elastic and n in batch]
    if not elastic:
        return []
    pitch = {n: int(tokenizer_of(model.tokenizer, n).pitch[-1]) for n in elastic}
    steps = []
    grids = [tokenizer_of(model.tokenizer, n).grid for n in elastic]
    few = any(grid is not None and grid[-1] < FEW for grid in grids)

    def other(x: Tensor, values: int) -> Tensor:
        return torch.cat([x, x[..., :values]], -1) if few else x[..., :-values].contiguous()

    for cut in (1, 2, 3):
        sample: Sample = {**batch, **{n: other(batch[n], cut * pitch[n]) for n in elastic}}
        steps.append(model.hide(sample))
    return steps
