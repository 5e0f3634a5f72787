"""Another ensemble from a stored study: without training, unless its recipe ships refits and they are asked for."""

from pathlib import Path

from consilia.config.catalog import load
from consilia.config.recipe import EnsembleRecipe
from consilia.errors import UserError
from consilia.study.combine import StudyResult, combine, is_built
from consilia.study.data import open_data
from consilia.study.folder import find_study, hold_study
from consilia.study.log import log_to
from consilia.study.refit import missing_refits, refuse_missing, train_refits
from consilia.study.view import StudyView


def rebuild(
    study: str,
    *,
    recipe: str,
    studies: Path,
    stores: Path,
    view: StudyView | None = None,
    address: str | None = None,
) -> StudyResult:
    """Build a recipe's ensemble from the predictions that a study's trials have left.

    Args:
        study: Name, folder or file of the study.
        recipe: Name or file of the recipe.
        studies: Folder of the studies.
        stores: Folder of the image stores; the study's is opened, or prepared again from the card.
        view: Told of the refits that are trained if they are missing; None: none is trained.
        address: Of a running Ray cluster to train them on; None: where the study says.

    Raises:
        StudyError: There is no such study, it has no folds yet, its data have changed, or refits are missing.
        UserError: A view is given, but the recipe ships no refits.
        RunError: No trial has finished, or a refit failed.
    """
    chosen = load("ensembles", recipe, EnsembleRecipe, base=Path.cwd())
    if view is not None and chosen.build == "max":
        raise UserError(
            f"--refit trains what a recipe with build: fast ships, but {recipe} has build: max. Leave it out."
        )
    plan, found = find_study(study, studies)
    if address is not None:
        plan = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"address": address})})
    with hold_study(found) as folder:
        store, folds = open_data(plan, folder, stores=stores)
        if not is_built(plan, folder, folds, recipe=chosen):
            missing = missing_refits(plan, folder, store, folds, recipe=chosen)
            if view is None:
                refuse_missing(missing, folds, recipe=chosen, study=study)
            else:
                with log_to(folder.log):
                    train_refits(missing, plan, folder, store, folds, view=view)
        return combine(plan, folder, store, folds, recipe=chosen)
