"""Fine-tuning: from a run to a classifier that can be deployed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from anymask.data import DataError, Source, few_label_draws, infer_schema, split_source
from anymask.evaluation.inputs import labelled
from anymask.evaluation.tuning import (
    Check,
    Classifier,
    epochs_for,
    every,
    fixed_batches,
    measured,
    train_classifier,
    training_batches,
)
from anymask.run import Run, RunError, save_tensors, write_atomically
from anymask.train.precision import choose

FORMAT = 1
SAMPLES_SEEN = 50_000  # where the number of epochs is not given
FEWEST = 5  # labels a class from which on a part is kept for validation


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
    trainable_blocks: int | None = None,
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
        trainable_blocks: train only the last so many blocks of the encoder and the head; 0 = the head; None = all.
        out: folder; None = classifier, inside the run's folder.

    Returns:
        The folder: classifier.json (class names, settings, accuracy), classifier.safetensors, run.json.

    Raises:
        DataError: no labels, one class, or fewer than asked for. SchemaError: the data do not fit the model.
        EvaluateError: `trainable_blocks` of an encoder without blocks, or a loss that is not finite.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    train, held = _data(run, source, test)
    run.schema.check(infer_schema(train))
    names = train.label_names or [str(i) for i in range(int(train.labels.max()) + 1)]  # type: ignore[union-attr]
    train, valid = _validation(train, labels, seed)
    batch_size = min(batch_size, len(train))
    epochs = epochs or epochs_for(len(train), SAMPLES_SEEN)
    steps = epochs * -(-len(train) // batch_size)
    precision = choose(precision, run.size.width)[0]
    best = Best()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(
            run.model(trained=pretrained), classes=len(names), pool=pool, trainable_blocks=trainable_blocks
        )
        train_classifier(
            classifier,
            training_batches(train, classifier.schema, batch_size=batch_size, steps=steps, seed=seed),
            steps=steps,
            lr=lr,
            layer_decay=layer_decay if pretrained else 1.0,
            weight_decay=weight_decay,
            precision=precision,
            valid=None if valid is None else lambda: fixed_batches(valid, classifier.schema),
            checks=every(steps, epochs),
            on_check=lambda check: best.see(check, classifier),
            progress=progress,
        )
    best.restore(classifier)
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "layer_decay": layer_decay,
        "seed": seed,
        "weight_decay": weight_decay,
        "labels": labels,
        "pretrained": pretrained,
        "trainable_blocks": trainable_blocks,
        "precision": precision,
    }
    scores = {
        "samples": len(train),
        "epoch": epochs if best.check is None else best.check.step * epochs // steps,
        "validation accuracy": None if best.check is None else best.check.accuracy,
        "test accuracy": None if held is None else measured(classifier, fixed_batches(held, classifier.schema))[0],
    }
    folder = Path(out).expanduser() if out is not None else run.folder / "classifier"
    _save(folder, run, classifier, {"names": names, "pool": pool, "settings": settings, "scores": scores})
    return folder


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


def _data(run: Run, source: object, test: object | None) -> tuple[Source, Source | None]:
    train = _opened(run, source)
    if test is not None:
        return labelled(train), labelled(_opened(run, test))
    return labelled(train), labelled(train.split("test")) if "test" in train.splits else None


def _opened(run: Run, source: object) -> Source:
    opened = run.source(source)
    if not isinstance(opened, Source):
        raise DataError(f"{opened.name} is a stream; open it without streaming=True to fine-tune on it")
    return opened


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


def _save(folder: Path, run: Run, classifier: Classifier, about: dict[str, Any]) -> None:
    Run(folder, run.recipe, run.size, run.schema, run.settings, run.versions).save()
    if (run.folder / "stages").is_dir():  # models of earlier stages, which the recipe's parts are built from
        shutil.copytree(run.folder / "stages", folder / "stages", dirs_exist_ok=True)
    save_tensors(folder / "classifier.safetensors", classifier.weights(), {"recipe": run.recipe.slug})
    write_atomically(folder / "classifier.json", json.dumps({"format": FORMAT, **about}, indent=1).encode())


class Best:
    """The weights with the best accuracy on the validation part, and the least loss among equals."""

    check: Check | None = None
    weights: dict[str, Tensor]

    def see(self, check: Check, classifier: Classifier) -> None:
        if self.check is None or (check.accuracy, -check.loss) > (self.check.accuracy, -self.check.loss):
            self.check, self.weights = check, copy.deepcopy(classifier.state_dict())

    def restore(self, classifier: Classifier) -> None:
        """Puts the best weights back; without a measurement the last ones stay."""
        if self.check is not None:
            classifier.load_state_dict(self.weights)
