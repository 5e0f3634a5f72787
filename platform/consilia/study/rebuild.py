"""Another ensemble from a stored study, without training."""

from pathlib import Path

from consilia.catalog import load
from consilia.plan.ensemble import EnsembleRecipe
from consilia.study.combine import StudyResult, combine
from consilia.study.data import open_data
from consilia.study.folder import find_study, hold_study


def rebuild(study: str, *, recipe: str, studies: Path, stores: Path) -> StudyResult:
    """Build a recipe's ensemble from the predictions that a study's trials have left.

    Args:
        study: Name, folder or file of the study.
        recipe: Name or file of the recipe.
        studies: Folder of the studies.
        stores: Folder of the image stores; the study's is opened, or prepared again from the card.

    Raises:
        StudyError: There is no such study, it has no folds yet, or its data have changed.
        RunError: No trial has finished.
    """
    chosen = load("ensembles", recipe, EnsembleRecipe, base=Path.cwd())
    plan, found = find_study(study, studies)
    with hold_study(found) as folder:
        store, folds = open_data(plan, folder, stores=stores)
        return combine(plan, folder, store, folds, recipe=chosen)
