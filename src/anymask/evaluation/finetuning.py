"""Fine-tuning: from a run to a classifier that can be deployed."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.data import (
    DataError,
    Schema,
    Source,
    few_label_draws,
    infer_schema,
    open_source,
    ordered_loader,
    split_source,
    training_loader,
)
from anymask.data.kind import kind_of
from anymask.engine import Model, Sample, Step, everything
from anymask.evaluation.features import POOLS
from anymask.evaluation.inputs import labelled
from anymask.parts.layers import LayerNorm, Linear
from anymask.run import ENCODER_PARTS, Run, RunError, save_tensors, write_atomically
from anymask.train.optim import warmup_cosine
from anymask.train.precision import LIGHTNING, choose

FORMAT = 1
SAMPLES_SEEN = 50_000  # where the number of epochs is not given
FEWEST = 5  # labels a class from which on a part is kept for validation
SMOOTHING = 0.1


class Classifier(nn.Module):
    """Tokenizer, stem and encoder of a model, then pooling, layer normalisation and one linear layer.

    Args:
        model: its decoder, target and so on are kept, frozen, as parts may read them; they are not saved.
        classes: how many.
        pool: name in `anymask.evaluation.features.POOLS`: "mean" or "cls".
    """

    def __init__(self, model: Model, *, classes: int, pool: str = "mean"):
        super().__init__()
        self.model, self.pool = model, POOLS[pool]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.partition(".")[0] in ENCODER_PARTS)
        self.norm = LayerNorm(model.encoder.width)
        self.head = Linear(model.encoder.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

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


def finetune(
    run: Run | str | Path,
    source: object,
    *,
    epochs: int | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    layer_decay: float = 0.75,
    weight_decay: float = 0.05,
    labels: int | None = None,
    test: object | None = None,
    pool: str = "mean",
    pretrained: bool = True,
    out: str | Path | None = None,
    seed: int = 0,
    precision: str = "auto",
    progress: bool = True,
) -> Path:
    """Trains encoder and head on labelled samples; writes a folder that `predict` uses.

    AdamW with a learning rate that falls by `layer_decay` a layer towards the input (BEiT, arXiv:2106.08254), warm-up
    and cosine, label smoothing 0.1, light augmentation. The weights kept are those of the epoch that is best on a tenth
    of the labelled samples, which is not trained on (in whole groups, where there are groups); with fewer than 5 labels
    a class, those of the last epoch. The test part is used once, at the end.

    Args:
        run: a Run or its folder.
        source: labelled data; a Source, or what `open_source` takes.
        epochs: None = about 50,000 samples in all, from 5 to 100 epochs.
        lr: peak learning rate of the head.
        labels: labels a class to use; None = all.
        test: what accuracy is reported on; None = the source's own test split, if it has one.
        pool: "mean" or "cls".
        pretrained: False = from the weights before the run's first step, and without `layer_decay`: for comparison.
        out: folder; None = classifier, inside the run's folder.

    Returns:
        The folder: classifier.json (class names, settings, accuracy), classifier.safetensors, run.json.

    Raises:
        DataError: no labels, one class, or fewer than asked for. SchemaError: the data do not fit the model.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    train, held = _data(source, test)
    run.schema.check(infer_schema(train))
    names = train.label_names or [str(i) for i in range(int(train.labels.max()) + 1)]  # type: ignore[union-attr]
    train, valid = _validation(train, labels, seed)
    batch_size = min(batch_size, len(train))
    epochs = epochs or int(np.clip(SAMPLES_SEEN // len(train), 5, 100))
    per_epoch = -(-len(train) // batch_size)
    precision = choose(precision, run.size.width)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(run.model(trained=pretrained), classes=len(names), pool=pool)
        groups = layer_groups(classifier, lr=lr, weight_decay=weight_decay, decay=layer_decay if pretrained else 1.0)
        loader = training_loader(
            train,
            run.schema,
            batch_size=batch_size,
            steps=epochs * per_epoch,
            seed=seed,
            augment={name: kind_of(field.kind).light(field) for name, field in run.schema.fields.items()},
        )
        best = _fit(
            classifier,
            groups,
            loader,
            valid and _fixed(valid, run.schema),
            epochs * per_epoch,
            per_epoch,
            LIGHTNING[precision],
            progress,
        )
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "layer_decay": layer_decay,
        "seed": seed,
        "weight_decay": weight_decay,
        "labels": labels,
        "pretrained": pretrained,
        "precision": precision,
    }
    scores = {
        "samples": len(train),
        "epoch": best[0],
        "validation accuracy": best[1],
        "test accuracy": None if held is None else _accuracy(classifier, held, run.schema),
    }
    folder = Path(out).expanduser() if out is not None else run.folder / "classifier"
    _save(folder, run, classifier, {"names": names, "pool": pool, "settings": settings, "scores": scores})
    return folder


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


def load_classifier(folder: str | Path) -> tuple[Classifier, Run, list[str]]:
    """The classifier of a folder in evaluation mode, the run it was made from (without weights), and the class names.

    Raises:
        RunError: there is no classifier in the folder, or one of a newer format.
    """
    folder = Path(folder).expanduser()
    file = folder / "classifier.json"
    if not file.is_file():
        raise RunError(f"{folder} holds no classifier (it has no classifier.json); `anymask finetune` makes one")
    about = json.loads(file.read_text())
    if about["format"] > FORMAT:
        raise RunError(
            f"{folder} was written in format {about['format']}, this anymask reads up to {FORMAT}: upgrade it"
        )
    run = Run.open(folder)
    classifier = Classifier(run.build(), classes=len(about["names"]), pool=about["pool"])
    weights = safetensors.torch.load_file(folder / "classifier.safetensors")
    if weights.keys() != classifier.weights().keys():
        raise RunError(f"the weights in {folder} are not those of its run.json; fine-tune again")
    classifier.load_state_dict(weights, strict=False)  # parts that are not saved keep their first weights, unused
    return classifier.eval(), run, about["names"]


# Data.


def _data(source: object, test: object | None) -> tuple[Source, Source | None]:
    opened = open_source(source)
    if not isinstance(opened, Source):
        raise DataError(f"{opened.name} is a stream; open it without streaming=True to fine-tune on it")
    if test is not None:
        return labelled(opened), labelled(open_source(test))
    return labelled(opened), labelled(opened.split("test")) if "test" in opened.splits else None


def _validation(train: Source, labels: int | None, seed: int) -> tuple[Source, Source | None]:
    """The part to train on, and a tenth for validation if there are labels enough."""
    assert train.labels is not None
    if labels is not None:
        train = train.subset(few_label_draws(train.labels, labels, 1, seed)[0])
    counts = np.bincount(train.labels)  # type: ignore[arg-type]
    least = int(counts[counts > 0].min())
    if least < FEWEST:
        return train, None
    return split_source(train, fraction=max(0.1, 1 / least), seed=seed)


def _fixed(source: Source, schema: Schema) -> Any:
    """Batches at the size of training."""
    return ordered_loader(source, schema, batch_size=256, fixed=True)


# Training.


def _fit(
    classifier: Classifier,
    groups: list[dict[str, Any]],
    loader: Any,
    valid: Any,
    steps: int,
    per_epoch: int,
    precision: Any,
    progress: bool,
) -> tuple[int, float | None]:
    """Trains `classifier` and leaves its best weights in it; (epoch, validation accuracy) of these."""
    module = _module(classifier, groups, steps, per_epoch)
    from lightning.pytorch import Trainer

    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            trainer = Trainer(
                max_steps=steps,
                max_epochs=1,
                precision=precision,
                gradient_clip_val=1.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=progress,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                val_check_interval=per_epoch,
                devices=1,
            )
            trainer.fit(module, loader, valid)
    finally:
        logger.setLevel(level)
    classifier.cpu()
    if module.best is None:
        classifier.eval()
        return steps // per_epoch, None
    classifier.load_state_dict(module.best)
    classifier.eval()
    return module.best_epoch, module.best_accuracy


def _module(classifier: Classifier, groups: list[dict[str, Any]], steps: int, per_epoch: int) -> Any:
    from lightning.pytorch import LightningModule  # takes seconds to import

    class Finetune(LightningModule):
        best: dict[str, Tensor] | None = None
        best_epoch, best_accuracy, best_loss = 0, -1.0, 0.0

        def __init__(self) -> None:
            super().__init__()
            self.classifier = classifier

        def training_step(self, batch: Sample, _: int) -> Tensor:
            return F.cross_entropy(self.classifier(batch).float(), batch["label"], label_smoothing=SMOOTHING)

        def on_validation_epoch_start(self) -> None:
            self.right = self.seen = 0
            self.loss = 0.0

        def validation_step(self, batch: Sample, _: int) -> None:
            logits = self.classifier(batch).float()
            self.right += int((logits.argmax(1) == batch["label"]).sum())
            self.loss += float(F.cross_entropy(logits, batch["label"], reduction="sum"))
            self.seen += len(logits)

        def on_validation_epoch_end(self) -> None:
            accuracy, loss = self.right / self.seen, self.loss / self.seen
            if (accuracy, -loss) > (self.best_accuracy, -self.best_loss):
                self.best_epoch, self.best_accuracy, self.best_loss = self.global_step // per_epoch, accuracy, loss
                self.best = copy.deepcopy(self.classifier.state_dict())

        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999))
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: warmup_cosine(step=step, steps=steps, warmup=0.1)
            )
            return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    return Finetune()


@torch.no_grad()
def _accuracy(classifier: Classifier, source: Source, schema: Schema) -> float:
    right = [classifier(batch).argmax(1) == batch["label"] for batch in _fixed(source, schema)]
    return float(torch.cat(right).float().mean())


def _save(folder: Path, run: Run, classifier: Classifier, about: dict[str, Any]) -> None:
    Run(folder, run.recipe, run.size, run.schema, run.settings, run.versions).save()
    if (run.folder / "stages").is_dir():  # models of earlier stages, which the recipe's parts are built from
        shutil.copytree(run.folder / "stages", folder / "stages", dirs_exist_ok=True)
    save_tensors(folder / "classifier.safetensors", classifier.weights(), {"recipe": run.recipe.slug})
    write_atomically(folder / "classifier.json", json.dumps({"format": FORMAT, **about}, indent=1).encode())
