"""A study: data, folds, spaces, search, training, ensemble and cluster, resolved and frozen."""

import difflib
import math
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from consilia.config.card import DataCard
from consilia.config.frozen import Frozen
from consilia.config.recipe import EnsembleRecipe
from consilia.config.space import Hyperparameters, SearchSpace
from consilia.files import sha256_of_json

Metric = Literal["log_loss", "macro_auc"]


class FoldsPlan(Frozen):
    """How the images outside the test split are divided."""

    k: int = Field(default=5, ge=2, le=20)  # folds of the cross-validation


class Halving(Frozen):
    """Successive halving on the epochs of the first fold. Source: docs/methods.md section 2.1."""

    kind: Literal["halving"] = "halving"
    reduction: int = Field(default=3, ge=2)  # one trial in this many goes on past a rung
    min_scores: int = Field(default=8, ge=2)  # no trial is stopped before a rung holds this many scores

    def rung(self, epochs: int) -> int:
        """Return the epoch after which trials of so many epochs are compared."""
        return math.ceil(epochs / self.reduction)


class FoldPruning(Frozen):
    """After each fold, stop trials that can hardly be among the best. Source: docs/methods.md section 2.2."""

    kind: Literal["fold_pruning"] = "fold_pruning"
    eps: float = Field(default=0.05, gt=0, lt=0.5)  # risk at each fold of stopping one of the best `keep`
    keep: int | None = Field(default=None, ge=1)  # left out: a quarter of the candidates of the ensemble, at least 5


class Racing(Frozen):
    """Both: halving on the epochs of the first fold, then fold pruning over the folds."""

    kind: Literal["racing"] = "racing"
    halving: Halving = Halving()
    fold_pruning: FoldPruning = FoldPruning()


class NoStopping(Frozen):
    """Every trial runs all its folds."""

    kind: Literal["none"] = "none"


Stopping = Annotated[Racing | Halving | FoldPruning | NoStopping, Field(discriminator="kind")]


class Budget(Frozen):
    """Limits that end a search before all its trials, whichever is reached first. None sets no limit."""

    hours: float | None = Field(default=None, gt=0)  # hours of wall-clock time, over all runs of the study
    device_hours: float | None = Field(default=None, gt=0)  # of GPUs that slots hold; of CPUs where there are no GPUs
    patience: int | None = Field(default=None, ge=1)  # trials in a row without a gain beyond the patients' noise


class SearchPlan(Frozen):
    """How many configurations are tried, what makes one better, and when one is stopped."""

    trials: int = Field(default=50, ge=1)  # configurations to try
    budget: Budget = Budget()
    metric: Metric = "log_loss"  # what makes one configuration better: its mean over the folds
    stopping: Stopping = Racing()  # which trials are stopped early
    keep_weights: int = Field(default=12, ge=1)  # how many of the best trials keep their weights on disk
    confirm: int = Field(default=0, ge=0)  # so many of the best are trained once more, with other folds and seeds
    warm_start: tuple[str, ...] = ()  # names or folders of earlier studies; their best are tried early
    configuration: Hyperparameters | None = None  # train this one only, without a search

    def rung(self, epochs: int) -> int:
        """Return the epoch after which halving compares trials of so many epochs; 0: none."""
        halving = self.stopping.halving if isinstance(self.stopping, Racing) else self.stopping
        return halving.rung(epochs) if isinstance(halving, Halving) else 0


class TrainingPlan(Frozen):
    """What all trials share."""

    epochs: int = Field(default=20, ge=1)  # passes over the training images of a fold
    batch_size: int = Field(default=64, ge=2)  # images a step, of all workers of a trial together
    image_size: int | None = Field(default=None, ge=8, le=2048)  # side that networks see; left out: the stored one
    weights: str = "none"  # `none`, `imagenet`, or a folder of `<timm model>.safetensors`, or one such file
    precision: Literal["auto", "float32"] = "auto"  # `auto`: bfloat16 on GPUs that have it
    score_every: int | None = Field(default=None, ge=1)  # epochs from score to score; left out: about 20 scores a fold

    def is_scored(self, epoch: int) -> bool:
        """Say whether the validation fold is scored after epoch 1, 2, ...; it always is after the last."""
        every = self.score_every or max(1, self.epochs // 20)
        return epoch == self.epochs or epoch % every == 0

    @field_validator("weights")
    @classmethod
    def _weights_must_be_known(cls, weights: str) -> str:
        near = difflib.get_close_matches(weights, ("none", "imagenet"), n=1)
        if weights not in ("none", "imagenet") and "/" not in weights and not weights.endswith(".safetensors"):
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"weights must be none, imagenet, or a path with a slash such as ./weights, but got {weights!r}{hint}"
            )
        return weights


class WeightsSource(Frozen):
    """Where networks start from, resolved by the driver: a worker's environment may say otherwise.

    Random numbers, timm's hub, a folder of `<timm model name>.safetensors`, or one such file.
    """

    kind: Literal["none", "hub", "folder", "file"] = "none"
    path: Path | None = None  # absolute; of a folder or a file

    @property
    def is_pretrained(self) -> bool:
        """Whether networks start from weights that were trained before."""
        return self.kind != "none"


FROM_SCRATCH = WeightsSource()
HUB = WeightsSource(kind="hub")


class ClusterProfile(Frozen):
    """Where to run, and each slot's share of it."""

    name: str = "local"  # the profile's name
    address: str | None = None  # left out: a Ray of our own on this machine; `auto` or `host:port`: a running one
    cpus_per_slot: float = Field(default=1, gt=0)  # CPUs of each worker of a slot, and its number of threads
    gpus: Literal["auto", "required", "none"] = "auto"  # `required`: wait for a GPU; `none`: train on CPUs
    gpus_per_slot: float | Literal["auto"] = "auto"  # GPUs of a worker; `auto`: as few as the networks leave
    memory_per_slot: float | Literal["auto"] = "auto"  # main memory of each worker, GB; `auto`: measured
    workers_per_trial: int = Field(default=1, ge=1)  # above 1: so many workers train one trial together
    max_slots: int | None = Field(default=None, ge=1)  # left out: what the cluster holds, up to a quarter of the trials
    hang_seconds: float = Field(default=900.0, gt=0)  # a worker that shows no sign of life for so long is replaced
    weights: str | None = None  # folder of ImageNet weights, where the search runs; left out: that of CONSILIA_WEIGHTS

    @model_validator(mode="after")
    def _gpus_must_agree(self) -> "ClusterProfile":
        fixed = None if self.gpus_per_slot == "auto" else self.gpus_per_slot > 0
        if fixed is not None and self.gpus != "auto" and fixed != (self.gpus == "required"):
            raise ValueError(f"gpus is {self.gpus}, but gpus_per_slot is {self.gpus_per_slot:g}; leave one of them out")
        return self

    @property
    def gpus_of_worker(self) -> float | Literal["auto"]:
        """GPUs that a worker takes: `gpus_per_slot`, but 0 where no GPU is to be used."""
        return 0.0 if self.gpus == "none" else self.gpus_per_slot


class StudyPlan(Frozen):
    """Everything that decides a study's result, with every name replaced by the content it stands for."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # names the folder of the study
    seed: int = Field(default=0, ge=0, lt=2**32)  # every random draw derives from it
    data: DataCard
    folds: FoldsPlan = FoldsPlan()
    spaces: tuple[SearchSpace, ...] = Field(min_length=1)  # what is searched: one or several families, together
    search: SearchPlan = SearchPlan()
    training: TrainingPlan = TrainingPlan()
    ensemble: EnsembleRecipe
    cluster: ClusterProfile = ClusterProfile()

    @property
    def digest(self) -> str:
        """SHA-256 of the plan without what does not change the result: where it runs and what is shown or confirmed."""
        content = self.model_dump(
            mode="json",
            exclude={
                "cluster": True,
                "data": {"path", "positive"},
                "search": {"confirm"},
                "training": {"score_every"},
            },
        )
        content["search"]["warm_start"] = [PurePath(each).name for each in self.search.warm_start]
        if self.ensemble.build == "max":
            del content["ensemble"]["build"]  # so that studies from before the key existed keep their digest
        if self.training.weights not in ("none", "imagenet"):
            content["training"]["weights"] = "path"  # the files themselves are noted in the study's weights.json
        return sha256_of_json(content)

    @property
    def image_size(self) -> int:
        """Side of the square that networks see, in pixels, unless a trial searches its own."""
        return self.training.image_size or self.data.size
