"""The members of a fast build: refits of the selected trials. Source: docs/methods.md section 4."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from consilia.bundle.document import Member, Network
from consilia.config.recipe import EnsembleRecipe
from consilia.config.records import TrialRecord
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.ensemble.choice import Choice, choose
from consilia.ensemble.pool import Pool, load_pool
from consilia.errors import RunError
from consilia.train.network_files import read_network_metadata
from consilia.train.refit import read_refit


def chosen_trials(
    trials: Sequence[TrialRecord],
    recipe: EnsembleRecipe,
    *,
    folder: StudyFolder,
    store: ImageStore,
    folds: FoldPlan,
    seed: int,
) -> tuple[int, ...]:
    """Return the numbers of the trials that a fast build of this recipe ships, ascending.

    Any trial that finished every fold can be chosen: its folds' weights are not needed.

    Raises:
        RunError: No trial has finished.
        StudyError: A trial's files are damaged or of other folds.
    """
    pool = load_pool(trials, folder=folder, store=store, folds=folds)
    choice = choose(recipe.selection, pool.candidates, pool.truth, seed=seed)
    return tuple(pool.numbers[place] for place in choice.combination.members)


def refit_members(
    pool: Pool, choice: Choice, folder: StudyFolder, folds: FoldPlan
) -> tuple[tuple[Member, ...], Mapping[str, Path]]:
    """Return the members, and the weights file of each by its name in the bundle.

    Raises:
        RunError: A chosen trial has no refit.
        StudyError: A refit is damaged, or was trained on the images of other folds.
    """
    members, files = [], {}
    for place in choice.combination.members:
        number, weight = pool.numbers[place], choice.combination.weights[place]
        trial = folder.trial(number)
        if read_refit(trial, folds) is None:
            raise RunError(
                f"{trial.refit.root}: a fast build ships a network of trial {number} that is trained on all images "
                "outside the test split, but there is none yet. Train it: consilia ensemble STUDY --recipe RECIPE "
                "--refit"
            )
        model, preprocessing = read_network_metadata(trial.refit.weights)
        name = f"members/trial-{number}-refit.safetensors"
        network = Network(file=name, fold=None, preprocessing=preprocessing)
        members.append(Member(trial=number, weight=weight, model=model, networks=(network,)))
        files[name] = trial.refit.weights
    return tuple(members), files
