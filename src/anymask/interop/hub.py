"""A trained encoder as a torch module that can be saved, published and loaded with huggingface_hub, which comes with
`pip install anymask[hf]`.

What `save_pretrained` writes is a run folder (see `anymask.run`) without paths of this machine, so every command takes
it, and beside that:

config.json            how features are taken
README.md              the model card, see `card.py`
evaluations/*.json     recorded figures
evidence/              the recipe's evidence: <recipe>.json, parity.json
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from anymask.claims.levels import EVIDENCE, PARITY, level
from anymask.engine import Model, Sample
from anymask.evaluation.features import POOLS
from anymask.interop.card import TABLE, card, check_record, read_evaluations, read_evidence
from anymask.interop.plain import InteropError, fitted_schema, latent_of, public_schema, write_json
from anymask.recipe import USER_MODULE
from anymask.run import ENCODER_PARTS, EVALUATIONS, Run
from anymask.table import Table

try:
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
except (ImportError, RuntimeError, OSError) as error:
    raise InteropError(
        f"PretrainedEncoder needs huggingface_hub, which cannot be used ({error}): pip install anymask[hf]"
    ) from error

FILES = ("*.json", "*.safetensors", "README.md")  # what is downloaded: nothing that could be run
PRIVATE: dict[str, Any] = {"source": None, "opening": {}, "init": None}  # settings that name files or columns


class PretrainedEncoder(nn.Module, ModelHubMixin, library_name="anymask"):
    """A run's encoder as a module: raw values -> features, as `anymask.embed` gives them in fp32, bit for bit.

    `save_pretrained(folder)`, `PretrainedEncoder.from_pretrained(folder or name on the hub)` and `push_to_hub(name)`
    are huggingface_hub's.

    It is in evaluation mode at first. `run` is the run, `model` the whole model, decoder included.

    Args:
        run: a Run or its folder.
        pool: "mean" over the real tokens, "cls" or "tokens".
        evaluations: name -> figures of this run, as `anymask.evaluate` returns them, for the model card; added to those
            in `evaluations/` of the run folder (what `anymask evaluate --json` prints).
        evidence: folder with the recipe's evidence for the model card; None = that in the run folder, or else beside
            the source checkout, for recipes of anymask.

    Raises:
        RunError: there is no run, or one of a newer format.
        RecipeError: its recipe is in a file of the user's that has not been loaded (`anymask.find`).
        InteropError: unknown pooling, figures or evidence that are none, or huggingface_hub is missing.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> PretrainedEncoder:
        return nn.Module.__new__(cls)  # the mixin would keep the arguments, to write a config.json of them

    def __init__(
        self,
        run: Run | str | Path,
        *,
        pool: str = "mean",
        evaluations: Mapping[str, Table | Mapping[str, Any]] | None = None,
        evidence: str | Path | None = None,
    ):
        super().__init__()
        if pool not in POOLS:
            raise InteropError(f"no pooling {pool!r}; there is: {', '.join(POOLS)}")
        self.run = run if isinstance(run, Run) else Run.open(run)
        self.pool = pool
        self.evaluations: dict[str, Any] = read_evaluations(self.run.folder)
        for name, table in (evaluations or {}).items():
            record = table.to_json() if isinstance(table, Table) else table
            self.evaluations[name] = check_record(record, TABLE, f"evaluations[{name!r}] is no table")
        self.evidence_folder = None if evidence is None else Path(evidence).expanduser()
        self.evidence = read_evidence(self._evidence(), self.run.recipe.slug)
        self.model = self.run.model()
        self.eval()

    def forward(self, sample: Sample | Tensor) -> Tensor:
        """Features of a batch, with gradients unless they are switched off.

        Args:
            sample: {field: (B, *shape)} in the units of the data; where there is one field only, its tensor.

        Returns:
            (B, D) float32, or (B, N, D) for the pooling "tokens".

        Raises:
            InteropError: a field is missing, or has another number of dimensions or channels than in training.
        """
        return POOLS[self.pool](latent_of(self.model, self._checked(sample))).float()

    def _checked(self, sample: Sample | Tensor) -> Sample:
        fields = self.run.schema.fields
        if isinstance(sample, Tensor):
            if len(fields) > 1:
                raise InteropError(f"this encoder takes the fields {', '.join(fields)}: give a dict of tensors")
            sample = {next(iter(fields)): sample}
        for name, field in fields.items():
            if name not in sample:
                raise InteropError(f"the sample has no {name!r}, which this encoder was trained with")
            shape, known = tuple(sample[name].shape), tuple(field.shape)
            if len(shape) != 1 + len(known) or (len(known) > 1 and shape[1] != known[0]):
                raise InteropError(f"{name!r} is {shape}; this encoder takes (batch, {', '.join(map(str, known))})")
        return sample

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:  # type: ignore[override]
        """Writes the folder described above; options as of huggingface_hub's `ModelHubMixin.save_pretrained`.

        Raises:
            InteropError: something is in that folder that would be destroyed. What this has saved there is replaced,
                the model card too.
            RunError: a weight is not finite.
        """
        folder = Path(save_directory).expanduser()
        _check_target(folder, self.run)
        return super().save_pretrained(folder, **options)

    # What the mixin asks for.

    def _save_pretrained(self, save_directory: Path) -> None:
        for stage in self.run.recipe.stages.get("stages", ()):
            below = Run.open(self.run.folder / "stages" / stage.slug)
            _write_run(below, save_directory / "stages" / stage.slug, below.model())
        _write_run(self.run, save_directory, self.model)
        write_json(save_directory / "config.json", {"library_name": "anymask", "pool": self.pool})
        for name, table in self.evaluations.items():
            write_json(save_directory / EVALUATIONS / f"{name}.json", table)
        for file in (self._evidence() / f"{self.run.recipe.slug}.json", self._evidence() / PARITY):
            if file.is_file():
                (save_directory / "evidence").mkdir(exist_ok=True)
                shutil.copyfile(file, save_directory / "evidence" / file.name)
        (save_directory / "README.md").unlink(missing_ok=True)  # the mixin writes it only where there is none

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> PretrainedEncoder:
        """An encoder from a folder that `save_pretrained` wrote (or any run folder), or by its name on the hub.

        Only JSON and safetensors files are read; a recipe of a user's file has to be loaded before (`anymask.find`).

        Args:
            options: `pool`, `evaluations`, `evidence` as above; `revision`, `cache_dir`, `token`, `local_files_only`,
                `force_download` of the hub.

        Raises:
            RunError, RecipeError, InteropError: as above; or there is neither such a folder nor such a model.
        """
        name = pretrained_model_name_or_path
        if Path(name).expanduser().is_dir():
            name = Path(name).expanduser()
            Run.open(name)  # says what is wrong with the folder
        try:
            return super().from_pretrained(name, **options)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise InteropError(
                f"there is no folder {name}, and no model of that name could be had from the hub: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> PretrainedEncoder:
        own = {name: options.pop(name) for name in ("pool", "evaluations", "evidence") if name in options}
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(snapshot_download(model_id, allow_patterns=list(FILES), **options))
        return cls(folder, **own)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        recipe, kinds = self.run.recipe, {field.kind for field in self.run.schema.fields.values()}
        head = ModelCardData(
            library_name="anymask",
            pipeline_tag="image-feature-extraction" if kinds == {"image"} else "feature-extraction",
            tags=sorted({"anymask", "masked-pretraining", recipe.slug, *kinds}),
        )
        count = lambda names: sum(p.numel() for part, p in self.model.named_parameters() if part.startswith(names))
        text = card(
            _public(self.run, self.run.folder),
            takes=fitted_schema(self.model),
            pool=self.pool,
            width=self.model.encoder.width,
            parameters=(count(tuple(f"{part}." for part in ENCODER_PARTS)), count("")),
            evaluations=self.evaluations,
            evidence=self.evidence,
            level=level(recipe.slug, self._evidence()),
            changed=self._changed(),
        )
        return ModelCard(f"---\n{head.to_yaml()}\n---\n\n{text}")

    def _evidence(self) -> Path:
        """The folder of evidence. That of anymask's recipes says nothing of a user's recipe of the same name."""
        beside = self.run.folder / "evidence"
        if self.evidence_folder is not None:
            return self.evidence_folder
        return beside if beside.is_dir() or self.run.recipe.module.startswith(USER_MODULE) else EVIDENCE

    def _changed(self) -> bool:
        """Whether the weights are no longer those of the run."""
        before = safetensors.torch.load_file(self.run.folder / "model.safetensors")
        return any(not torch.equal(value.cpu(), before[name]) for name, value in self.model.state_dict().items())


def _check_target(folder: Path, run: Run) -> None:
    """Raises InteropError where saving would destroy something."""
    if folder.resolve() == run.folder.resolve():
        raise InteropError(f"{folder} is the run itself; save to another folder")
    if folder.exists() and not folder.is_dir():
        raise InteropError(f"{folder} is a file; save to a folder")
    if (folder / "state.safetensors").exists():
        raise InteropError(f"{folder} holds a training run that could go on; save to another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "run.json").is_file():
        raise InteropError(f"{folder} is not empty and holds no saved encoder; save to a new folder")


def _public(run: Run, folder: Path) -> Run:
    """The run in another folder, without what names files of the machine that it was trained on."""
    settings = {**run.settings, **PRIVATE}
    if run.settings.get("init"):
        settings["began_with"] = Path(run.settings["init"]).name
    return replace(run, folder=folder, settings=settings, schema=public_schema(run.schema))


def _write_run(run: Run, folder: Path, model: Model) -> None:
    made = _public(run, folder)
    made.save()
    made.save_weights(model)
