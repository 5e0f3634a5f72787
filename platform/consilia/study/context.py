"""What all trials of a study share, from its plan and its files."""

from consilia.config.study import StudyPlan, WeightsSource
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.train.context import TrainingContext
from consilia.tune.space import join_spaces


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
