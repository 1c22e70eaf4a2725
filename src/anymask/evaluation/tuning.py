"""The training loop of fine-tuning: a classifier on prepared batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.data import Schema, Source, ordered_loader, training_loader
from anymask.data.kind import kind_of
from anymask.data.loader import aligned
from anymask.engine import Model, Sample, Step, everything
from anymask.evaluation.augmenting import augmented
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import POOLS
from anymask.parts.layers import LayerNorm, Linear
from anymask.run import ENCODER_PARTS
from anymask.train.optim import warmup_cosine
from anymask.train.planning import cropped
from anymask.train.precision import LIGHTNING
from anymask.train.quiet import quiet

SMOOTHING = 0.1
CLIP = 1.0
WARMUP = 0.1
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


class Classifier(nn.Module):
    """Tokenizer, stem and encoder of a model, then pooling, layer normalisation and one linear layer.

    Args:
        model: its decoder, target and so on are kept, frozen, as parts may read them; they are not saved.
        classes: how many.
        pool: name in `anymask.evaluation.features.POOLS`: "mean" or "cls".
        trainable_blocks: only the last so many blocks of the encoder are trained, with what follows them; 0 = only the
            head (layer normalisation and linear layer); None = all.

    Raises:
        EvaluateError: some blocks are asked for and the encoder has no `blocks`.
    """

    def __init__(self, model: Model, *, classes: int, pool: str = "mean", trainable_blocks: int | None = None):
        super().__init__()
        self.model, self.pool = model, POOLS[pool]
        trained = _trained(model, trainable_blocks)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and trained(name))
        self.norm = LayerNorm(model.encoder.width)
        self.head = Linear(model.encoder.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.schema = cropped(model.schema, model)  # of its batches: whole patches

    def forward(self, sample: Sample) -> Tensor:
        """(B, classes) logits."""
        tokens = self.model.tokenizer(sample)
        step = Step(sample, tokens, everything(tokens), aux={})
        latent = self.model.encoder(step._replace(seen=self.model.stem(step)), self.model)
        return self.head(self.norm(self.pool(latent)))

    def weights(self) -> dict[str, Tensor]:
        """What a saved classifier holds."""
        ours = (*(f"model.{part}." for part in ENCODER_PARTS), "norm.", "head.")
        return {n: t.detach().cpu().contiguous() for n, t in self.state_dict().items() if n.startswith(ours)}


def _trained(model: Model, blocks: int | None) -> Callable[[str], bool]:
    """Whether a parameter of the model is trained."""
    if blocks is None:
        return lambda name: name.partition(".")[0] in ENCODER_PARTS
    depth = len(getattr(model.encoder, "blocks", ()))
    if blocks < 0 or (blocks and not depth):
        raise EvaluateError(
            f"trainable_blocks={blocks}: the encoder has {depth or 'no'} blocks; give 0 for the head only, or leave it "
            "out to train all"
        )
    if blocks >= depth > 0:
        return _trained(model, None)
    names = tuple(f"encoder.blocks.{i}." for i in range(depth - blocks, depth)) + ("encoder.norm.",) * (blocks > 0)
    return lambda name: name.startswith(names) if names else False


def layer_groups(classifier: Classifier, *, lr: float, weight_decay: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: the rate of a block is `decay` times that of the one above it; stem and prefix tokens
    are below the first block, norms and head above the last. Vectors do not decay. An encoder without `blocks` is one
    layer."""
    depth = len(getattr(classifier.model.encoder, "blocks", ()))
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in classifier.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0
        if name.startswith("model.encoder.blocks."):
            layer = int(name.split(".")[3]) + 1
        elif name.startswith(("norm.", "head.", "model.encoder.norm.")):
            layer = depth + 1
        matrix = parameter.ndim > 1
        rate = lr * decay ** (depth + 1 - layer)
        group = groups.setdefault((layer, matrix), {"params": [], "lr": rate, "weight_decay": weight_decay * matrix})
        group["params"].append(parameter)
    return list(groups.values())


# Batches.


def training_batches(source: Source, schema: Schema, *, batch_size: int, steps: int, seed: int) -> Iterable[Sample]:
    """Batches with labels, lightly augmented: whole batches at once where all samples lie in memory at the size of
    training, else image by image in the loader."""
    source = aligned(source, schema).cached()
    whole = source.in_memory and all(source.columns[n].shape == f.shape for n, f in schema.fields.items())
    augment: dict[str, Any] | None = None
    if not whole:
        augment = {name: kind_of(field.kind).light(field) for name, field in schema.fields.items()}
    loader = training_loader(source, schema, batch_size=batch_size, steps=steps, seed=seed, augment=augment)
    return (augmented(batch, schema) for batch in loader) if whole else loader


def fixed_batches(source: Source, schema: Schema) -> Iterable[Sample]:
    """All samples in order, at the size of training."""
    return ordered_loader(source, schema, batch_size=256, fixed=True)


# Training.


class Check(NamedTuple):
    """A measurement on the validation part after some steps."""

    step: int
    accuracy: float  # share
    loss: float  # cross-entropy, mean over the samples


def train_classifier(
    classifier: Classifier,
    batches: Iterable[Sample],
    *,
    steps: int,
    lr: float,
    layer_decay: float = 1.0,
    weight_decay: float = 0.05,
    stop: int | None = None,
    precision: str = "fp32",
    valid: Callable[[], Iterable[Sample]] | None = None,
    checks: Sequence[int] = (),
    on_check: Callable[[Check], None] | None = None,
    progress: bool = False,
) -> list[Check]:
    """Trains what the classifier leaves trainable, in place; it comes back on the CPU in evaluation mode.

    AdamW with warm-up over a tenth of `steps` and a cosine to zero, label smoothing 0.1, gradients clipped to norm 1.

    Args:
        batches: `steps` of them, with `label` (B,).
        steps: that the schedule is made for. `stop`: end after so many already; None = steps.
        lr, layer_decay, weight_decay: see `layer_groups`.
        precision: "fp32" or "bf16" (autocast).
        valid: makes an iterable over the validation part, which is measured after the steps `checks`.
        on_check: called with each measurement, while the classifier has the weights measured.

    Raises:
        EvaluateError: the loss is not finite.
    """
    from lightning.pytorch import Trainer  # takes seconds to import

    groups = layer_groups(classifier, lr=lr, weight_decay=weight_decay, decay=layer_decay)
    module = _module(classifier, groups, steps, valid, set(checks), on_check, precision)
    kind: Any = LIGHTNING[precision]
    with quiet():
        Trainer(
            max_steps=steps if stop is None else stop,
            max_epochs=1,
            precision=kind,
            gradient_clip_val=CLIP,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            devices=1,
        ).fit(module, batches)
    classifier.cpu().eval()
    return module.found


def _module(
    classifier: Classifier,
    groups: list[dict[str, Any]],
    steps: int,
    valid: Callable[[], Iterable[Sample]] | None,
    checks: Set[int],
    on_check: Callable[[Check], None] | None,
    precision: str,
) -> Any:
    from lightning.pytorch import LightningModule

    class Finetune(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = classifier
            self.found: list[Check] = []

        def training_step(self, batch: Sample, _: int) -> Tensor:
            return F.cross_entropy(self.classifier(batch).float(), batch["label"], label_smoothing=SMOOTHING)

        def on_after_backward(self) -> None:
            grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
            if not torch.isfinite(nn.utils.get_total_norm(grads)):
                peak = max(group["lr"] for group in groups)
                raise EvaluateError(
                    f"no finite gradient at step {self.global_step + 1} of {steps}; lower the learning rate of {peak}"
                )

        def on_train_batch_end(self, *_: Any) -> None:
            if valid is None or self.global_step not in checks:
                return
            self.found.append(Check(self.global_step, *measured(self.classifier, valid(), precision)))
            if on_check is not None:
                on_check(self.found[-1])
            self.classifier.train()

        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999))
            rate = lambda step: warmup_cosine(step=step, steps=steps, warmup=WARMUP)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
            return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    return Finetune()


@torch.no_grad()
def measured(classifier: Classifier, batches: Iterable[Sample], precision: str = "fp32") -> tuple[float, float]:
    """(accuracy, cross-entropy) of a classifier, means over the samples."""
    classifier.eval()
    device = classifier.head.weight.device
    right, loss, seen = 0, 0.0, 0
    for batch in batches:
        logits, label = _logits(classifier, batch, device, precision), batch["label"].to(device)
        right += int((logits.argmax(1) == label).sum())
        loss += float(F.cross_entropy(logits, label, reduction="sum"))
        seen += len(label)
    return right / seen, loss / seen


def _logits(classifier: Classifier, batch: Sample, device: torch.device, precision: str) -> Tensor:
    batch = {name: value.to(device) for name, value in batch.items()}
    dtype = DTYPES[precision]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        return classifier(batch).float()


def every(steps: int, times: int) -> list[int]:
    """`times` step numbers, evenly spread, the last one among them."""
    return sorted({max(1, round(steps * (i + 1) / times)) for i in range(times)})


def epochs_for(samples: int, seen: int) -> int:
    """So many epochs that about `seen` samples are seen, from 5 to 100."""
    return int(np.clip(seen // samples, 5, 100))
