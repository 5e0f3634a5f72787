"""What a search needs of Optuna and Optuna does not promise to keep; pyproject.toml therefore bounds Optuna's version.

`tests/tune/test_internals.py` names each use and fails by that name where a new version has moved it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import LOCK_FILE_SUFFIX
from optuna.trial import TrialState


def reseed(sampler: optuna.samplers.TPESampler, seeds: Sequence[int]) -> None:
    """Let a sampler go on from new seeds: of TPE itself, and of the random trials that come before it.

    Optuna seeds a sampler once, when it is made: what it draws later depends on what this process has drawn before.
    """
    for random, seed in zip((sampler._rng, sampler._random_sampler._rng), seeds, strict=True):
        random.rng.seed(int(seed))


def set_state(study: optuna.Study, number: int, state: TrialState) -> None:
    """Put a trial back to RUNNING or WAITING; the public `study.tell` only ends trials."""
    study._storage.set_trial_state_values(_id_of(study, number), state=state)


def set_user_attribute(study: optuna.Study, number: int, key: str, value: Any) -> None:
    """Set a trial's attribute, also where this process did not ask for the trial."""
    study._storage.set_trial_user_attr(_id_of(study, number), key, value)


def report_value(study: optuna.Study, number: int, *, step: int, value: float) -> None:
    """Report a trial's intermediate value, also where this process did not ask for the trial."""
    study._storage.set_trial_intermediate_value(_id_of(study, number), step, value)


def lock_file(journal: Path) -> Path:
    """Return the file whose existence locks a journal."""
    return journal.with_name(journal.name + LOCK_FILE_SUFFIX)


def journal_file(backend: JournalFileBackend) -> str:
    """Return the file that a backend appends to."""
    return backend._file_path


def _id_of(study: optuna.Study, number: int) -> int:
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
