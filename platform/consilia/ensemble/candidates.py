"""The finished trials that an ensemble may choose from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consilia.config.records import TrialRecord
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.ensemble.selection import Candidates, Truth
from consilia.errors import RunError
from consilia.metrics.scores import softmax
from consilia.train.tables import read_out_of_fold


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTrials:
    """Trials in the order of their numbers, and what they predict of images they were not trained on."""

    numbers: tuple[int, ...]  # (n_candidates,)
    candidates: Candidates
    truth: Truth


def load_candidates(
    trials: Sequence[TrialRecord], *, folder: StudyFolder, store: ImageStore, folds: FoldPlan
) -> FinishedTrials:
    """Read the out-of-fold predictions of every trial that finished all its folds.

    Raises:
        RunError: There is none.
        StudyError: A trial's files are damaged, or of other folds.
    """
    finished = [trial for trial in trials if trial.state == "finished" and trial.n_folds == folds.k]
    if not finished:
        raise RunError(_no_trial(trials, folder))
    numbers = tuple(sorted(trial.number for trial in finished))
    labels, patients = store.labels, store.patients
    oofs = [read_out_of_fold(folder.trial(number), folds, labels, patients) for number in numbers]
    truth = Truth(labels=oofs[0].labels, patients=oofs[0].patients, folds=oofs[0].folds)
    return FinishedTrials(numbers=numbers, candidates=np.stack([softmax(oof.logits) for oof in oofs]), truth=truth)


def keep_with_weights(trials: FinishedTrials, *, folder: StudyFolder, k: int) -> FinishedTrials:
    """Return the trials whose k networks are still on disk.

    Raises:
        RunError: There is none.
    """
    kept = [
        position
        for position, number in enumerate(trials.numbers)
        if all(folder.trial(number).fold(fold).weights.is_file() for fold in range(k))
    ]
    if not kept:
        raise RunError(
            f"{folder.trials}: {len(trials.numbers)} trials finished, but none has the weights of all its "
            "folds. Search again with search.keep_weights of at least the number of ensemble members."
        )
    numbers = tuple(trials.numbers[position] for position in kept)
    return FinishedTrials(numbers=numbers, candidates=trials.candidates[kept], truth=trials.truth)


def _no_trial(trials: Sequence[TrialRecord], folder: StudyFolder) -> str:
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "no trials at all"
    failures = [f"trial {trial.number}: {trial.reason}" for trial in trials if trial.state == "failed"]
    return (
        f"{folder.trials}: an ensemble needs a trial that finished every fold, but there are {counts}. "
        f"{f'The first failure is of {failures[0]}. ' if failures else ''}"
        "Go on with the search (consilia search STUDY.yaml), with more search.trials or a larger search.budget if that "
        "has ended it."
    )
