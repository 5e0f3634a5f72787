"""What all trials of a study share on a worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from consilia.config.augmentation import AugmentationPolicy
from consilia.config.network import ModelSpec
from consilia.config.space import Architecture, Hyperparameters
from consilia.config.study import FROM_SCRATCH, TrainingPlan, WeightsSource
from consilia.config.study_folder import TrialFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingContext:
    """Frozen and small: it travels to the workers, the images do not."""

    store_folder: Path
    folds: FoldPlan
    training: TrainingPlan
    policy: AugmentationPolicy
    architectures: Mapping[str, Architecture]  # by the name that hyperparameters use
    metric: str  # of metrics.scores
    trials: Path  # folder of the trials
    seed: int
    device: str  # of torch, or "auto"
    weights: WeightsSource = FROM_SCRATCH  # resolved by the driver, whose environment workers do not share
    image_size: int  # pixels, unless a trial has its own
    rung: int = 0  # an epoch after which trials are compared, so that it is scored; 0: none

    @property
    def store(self) -> ImageStore:
        """The image store, opened once a process."""
        return _open_store(self.store_folder)

    def trial(self, number: int) -> TrialFolder:
        """Files of one trial."""
        return TrialFolder(self.trials / str(number))

    def image_size_of(self, hyperparameters: Hyperparameters) -> int:
        """Side of the square that this configuration's network sees, pixels."""
        return hyperparameters.image_size or self.image_size

    def model_spec(self, hyperparameters: Hyperparameters) -> ModelSpec:
        """Return the network of this configuration.

        Raises:
            PlanError: The study does not know its architecture.
        """
        name = hyperparameters.architecture
        if name not in self.architectures:
            known = ", ".join(sorted(self.architectures))
            raise PlanError(f"architecture must be one of the study's ({known}), but got {name!r}.")
        manifest = self.store.manifest
        return ModelSpec(
            architecture=self.architectures[name],
            n_classes=len(manifest.classes),
            channels=manifest.channels,
            drop_path=hyperparameters.drop_path,
            head_dropout=hyperparameters.head_dropout,
        )


@lru_cache(maxsize=1)
def _open_store(folder: Path) -> ImageStore:
    return ImageStore.open(folder)
