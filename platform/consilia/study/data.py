"""The data of a stored study, as its trials saw them."""

from pathlib import Path

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan, load_folds
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.errors import StudyError


def open_data(plan: StudyPlan, folder: StudyFolder, *, stores: Path) -> tuple[ImageStore, FoldPlan]:
    """Return the image store and the folds of a study whose search has begun.

    Args:
        plan: Of the study.
        folder: Its files.
        stores: Folder of the image stores; the study's is opened, or prepared again from the card.

    Raises:
        StudyError: The study has no folds yet, or its data have changed since.
    """
    if not folder.folds.exists():
        raise StudyError(f"{folder.root} has no folds yet: `consilia search` must finish a trial first.")
    folds = load_folds(folder.folds)
    store = prepare(plan.data, root=stores.absolute())
    if store.digest != folds.store_digest:
        raise StudyError(f"{plan.data.path} has changed since {plan.name} was started; restore the data.")
    return store, folds
