"""What is shipped of the chosen trials: the networks of their folds, or their refits.

Source: docs/methods.md section 4.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from consilia.bundle.document import Member, Network
from consilia.config.recipe import EnsembleRecipe
from consilia.config.records import TrialRecord
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.ensemble.candidates import load_candidates
from consilia.ensemble.fitting import fit_recipe
from consilia.errors import RunError
from consilia.train.network_files import read_network_metadata, read_weights
from consilia.train.refit import read_refit

Shipped = tuple[tuple[Member, ...], Mapping[str, Path]]
"""The members, and the weights file of each of their networks by its name in the bundle."""


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
    finished = load_candidates(trials, folder=folder, store=store, folds=folds)
    fitted = fit_recipe(recipe, finished.candidates, finished.truth, seed=seed)
    return tuple(finished.numbers[place] for place in fitted.choice.combination.members)


def ship_folds(
    weights: Mapping[int, float], architectures: Mapping[int, str], folder: StudyFolder, folds: FoldPlan
) -> Shipped:
    """Ship the networks of all folds.

    Args:
        weights: Of the chosen trials in the linear pool, by their numbers.
        architectures: Of the trials, as their search space calls them.
        folder: Of the study.
        folds: Of the study.
    """
    members, files = [], {}
    for number, weight in weights.items():
        networks = []
        for fold in range(folds.k):
            source = folder.trial(number).fold(fold).weights
            model, preprocessing, _ = read_weights(source)
            name = f"members/trial-{number}-fold-{fold}.safetensors"
            networks.append(Network(file=name, fold=fold, preprocessing=preprocessing))
            files[name] = source
        called = architectures[number]
        members.append(Member(trial=number, weight=weight, architecture=called, model=model, networks=tuple(networks)))
    return tuple(members), files


def ship_refits(
    weights: Mapping[int, float], architectures: Mapping[int, str], folder: StudyFolder, folds: FoldPlan
) -> Shipped:
    """Ship one refit of each trial; arguments as of `ship_folds`.

    Raises:
        RunError: A chosen trial has no refit.
        StudyError: A refit is damaged, or was trained on the images of other folds.
    """
    members, files = [], {}
    for number, weight in weights.items():
        trial = folder.trial(number)
        if read_refit(trial, folds) is None:
            raise RunError(
                f"{trial.refit.root}: a fast build ships a network of trial {number} that is trained on all images "
                "outside the test split, but there is none yet. Train it: consilia ensemble STUDY --recipe RECIPE "
                "--refit"
            )
        model, preprocessing = read_network_metadata(trial.refit.weights)
        name, called = f"members/trial-{number}-refit.safetensors", architectures[number]
        network = Network(file=name, fold=None, preprocessing=preprocessing)
        members.append(Member(trial=number, weight=weight, architecture=called, model=model, networks=(network,)))
        files[name] = trial.refit.weights
    return tuple(members), files
