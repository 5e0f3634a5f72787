"""Optuna's side of the search: ask for a configuration, tell how it ended, all in one journal."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from consilia.plan.hyperparameters import Hyperparameters
from consilia.records import TrialRecord, TrialTask
from consilia.search.space import JointSpace

logger = logging.getLogger(__name__)


class Suggester(Protocol):
    """Where configurations come from, and who is told how they ended."""

    @property
    def n_asked(self) -> int:
        """Number of trials that were ever asked for."""

    def ask(self) -> TrialTask:
        """Return the next configuration under a new number."""

    def unfinished(self) -> Sequence[TrialTask]:
        """Return the trials that some earlier process asked for and never told the end of."""

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        """Take down how a trial ended."""


class OneConfiguration:
    """Trains a single given configuration, as trial 0."""

    def __init__(self, hyperparameters: Hyperparameters, *, known: Mapping[int, TrialRecord]) -> None:
        self._task = TrialTask(number=0, hyperparameters=hyperparameters)
        self._known = known.get(0)

    @property
    def n_asked(self) -> int:
        """1 once trial 0 is stored."""
        return int(self._known is not None)

    def ask(self) -> TrialTask:
        """Return trial 0."""
        return self._task

    def unfinished(self) -> Sequence[TrialTask]:
        """Return trial 0 if its record says that it was running."""
        return [self._task] if self._known is not None and self._known.state == "running" else []

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        """Remember nothing: trial.json says it all."""


class OptunaSuggester:
    """Asks a seeded TPE for configurations and keeps them in the study's journal.

    Trials that the journal holds as RUNNING have lost their process: `unfinished` gives them back with their number
    and configuration, so that they go on where they were and no zombie stays behind.

    Source: docs/methods.md section 2 (multivariate, grouped, constant liar; defaults of each family first).
    """

    def __init__(
        self, journal: Path, space: JointSpace, *, name: str, seed: int, higher_is_better: bool, n_slots: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal.parent.mkdir(parents=True, exist_ok=True)
        self._space = space
        self._study = optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            direction="maximize" if higher_is_better else "minimize",
            load_if_exists=True,
        )
        n_known = len(self._study.get_trials(deepcopy=False))
        # A resumed search must not draw the first trials' random numbers again.
        self._study.sampler = _make_sampler(seed=(seed + n_known) % 2**32, n_startup_trials=max(10, n_slots))
        if n_known == 0:
            for architecture in space.start_with:
                self._study.enqueue_trial(space.defaults(architecture), user_attrs={"origin": "defaults"})

    @property
    def n_asked(self) -> int:
        """Number of trials that were ever asked for."""
        return sum(trial.state != TrialState.WAITING for trial in self._study.get_trials(deepcopy=False))

    def ask(self) -> TrialTask:
        """Return the next configuration under a new number."""
        trial = self._study.ask()
        return TrialTask(number=trial.number, hyperparameters=self._space.suggest(trial))

    def unfinished(self) -> Sequence[TrialTask]:
        """Return the trials that some earlier process asked for and never told the end of."""
        tasks = []
        for trial in self._study.get_trials(states=[TrialState.RUNNING]):
            hyperparameters = self._space.restore(trial.params)
            if hyperparameters is None:
                logger.warning("trial %d was killed while it was drawn; it counts as failed", trial.number)
                self._study.tell(trial.number, state=TrialState.FAIL)
            else:
                tasks.append(TrialTask(number=trial.number, hyperparameters=hyperparameters))
        return tasks

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        """Write how a trial ended: COMPLETE with its objective, also when it was stopped; FAIL when it crashed."""
        attributes: dict[str, Any] = {
            "n_folds": record.n_folds,
            "fold_scores": [fold.metrics[metric] for fold in record.folds],
        }
        if record.reason:
            attributes["stopped_by" if record.state == "stopped" else "failed_by"] = record.reason
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, record.number)
        for key, value in attributes.items():
            storage.set_trial_user_attr(trial_id, key, value)
        if record.state == "failed" or record.objective is None:
            self._study.tell(record.number, state=TrialState.FAIL)
        else:
            self._study.tell(record.number, record.objective)


def _make_sampler(*, seed: int, n_startup_trials: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        # `multivariate`, `group` and `constant_liar` are marked experimental; docs/methods.md says why we use them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=n_startup_trials, seed=seed
        )
