"""What all trials of a study share, from its plan and its files."""

from consilia.data.folds import FoldPlan
from consilia.data.storing.store import ImageStore
from consilia.folder import StudyFolder
from consilia.plan.study import StudyPlan
from consilia.plan.weights import WeightsSource
from consilia.search.space import join_spaces
from consilia.training.context import TrainingContext


def training_context(
    plan: StudyPlan, store: ImageStore, folds: FoldPlan, folder: StudyFolder, *, device: str, weights: WeightsSource
) -> TrainingContext:
    """Return what all trials of a study share."""
    return TrainingContext(
        store_folder=store.folder,
        folds=folds,
        training=plan.training,
        policy=plan.data.augmentation,
        architectures=join_spaces(plan.spaces, weights=plan.training.weights).architectures,
        metric=plan.search.metric,
        trials=folder.trials,
        seed=plan.seed,
        device=device,
        weights=weights,
        image_size=plan.image_size,
    )
