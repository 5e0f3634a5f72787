"""Optuna's side of the search: ask for a configuration, tell how it ended, all in one journal."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from consilia.config.records import TrialRecord, TrialTask
from consilia.config.space import Hyperparameters
from consilia.tune.optuna_internals import journal_file, lock_file, report_value, reseed, set_state, set_user_attribute
from consilia.tune.space import JointSpace
from consilia.tune.warm_start import Start

logger = logging.getLogger(__name__)

TOLD_BEFORE_TPE = 10
"""Trials that must have a score before TPE suggests any, however many run: those that run say nothing yet."""


class Suggester(Protocol):
    """Where configurations come from, and who is told how they ended."""

    @property
    def n_asked(self) -> int:
        """Number of trials that were ever asked for."""

    def ask(self) -> TrialTask:
        """Return the next configuration under a new number."""

    def unfinished(self) -> Sequence[TrialTask]:
        """Return the trials that some earlier process asked for and never told the end of."""

    def resume(self, number: int) -> None:
        """An unfinished trial is running again."""

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        """Record how a trial ended, or that it was paused."""


class OneConfiguration:
    """Trains a single given configuration, as trial 0."""

    def __init__(self, hyperparameters: Hyperparameters, *, known: Mapping[int, TrialRecord]) -> None:
        self._task = TrialTask(number=0, hyperparameters=hyperparameters)
        self._known = known.get(0)
        self._n_asked = int(self._known is not None)

    @property
    def n_asked(self) -> int:
        """1 once trial 0 was handed out."""
        return self._n_asked

    def ask(self) -> TrialTask:
        """Return trial 0."""
        self._n_asked = 1
        return self._task

    def unfinished(self) -> Sequence[TrialTask]:
        """Return trial 0 if its record says that it has not ended."""
        return [self._task] if self._known is not None and not self._known.has_ended else []

    def resume(self, number: int) -> None:
        """Remember nothing."""

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        """Remember nothing: trial.json says it all."""


class OptunaSuggester:
    """Asks a seeded TPE for configurations and keeps them in the study's journal.

    Trials that the journal holds as RUNNING have lost their process, and those that it holds as WAITING with all their
    parameters were paused: `unfinished` gives both back with their number and configuration, so that they go on where
    they were and no zombie stays behind.

    Source: docs/methods.md section 2 (multivariate, grouped, constant liar, after ten told trials; defaults of each
    family first, then `starts`: both queued before anything is asked).
    """

    def __init__(
        self,
        journal: Path | None,
        space: JointSpace,
        *,
        name: str,
        seed: int,
        higher_is_better: bool,
        starts: Sequence[Start] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._study = optuna.create_study(
            study_name=name,
            storage=_open_journal(journal) if journal is not None else InMemoryStorage(),
            direction="maximize" if higher_is_better else "minimize",
            load_if_exists=True,
        )
        self._sampler = self._study.sampler = make_sampler()
        self._queue([*(Start(values=space.defaults(name), origin="defaults") for name in space.start_with), *starts])
        trials = self._study.get_trials(deepcopy=False)
        self._n_retries = sum(_is_retry(trial) for trial in trials)
        # One that was killed while it was drawn was never handed out: it does not count.
        self._n_asked = sum(bool(trial.params) and space.restore(trial.params) is not None for trial in trials)
        # A search that starts from a study of the same seed must not draw what that one has drawn.
        origins = [trial.user_attrs.get("origin", "defaults") for trial in trials if not _is_retry(trial)]
        n_carried_over = sum(origin != "defaults" for origin in origins)
        self._entropy = (seed, n_carried_over)

    @property
    def n_asked(self) -> int:
        """Number of trials that were ever asked for; one that is tried again counts once."""
        return self._n_asked - self._n_retries

    def retry(self, records: Mapping[int, TrialRecord]) -> None:
        """Queue the configurations of failed trials again, each once and under a new number.

        Args:
            records: Of all trials.
        """
        trials = self._study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get("origin") for trial in trials}
        for number in sorted(number for number, record in records.items() if record.state == "failed"):
            if (origin := f"{_RETRY} {number}") not in known:
                self._study.enqueue_trial(trials[number].params, user_attrs={"origin": origin})
                self._n_retries += 1

    def ask(self) -> TrialTask:
        """Return the next configuration under a new number."""
        self._reseed()
        trial = self._study.ask()
        self._n_asked += 1
        return TrialTask(number=trial.number, hyperparameters=self._space.suggest(trial))

    def unfinished(self) -> Sequence[TrialTask]:
        """Return the trials that some earlier process asked for and never told the end of."""
        tasks = []
        for trial in self._study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING]):
            if _is_queued(trial):
                continue
            hyperparameters = self._space.restore(trial.params)
            if hyperparameters is None:
                logger.warning("trial %d was killed while it was drawn; it counts as failed", trial.number)
                self._study.tell(trial.number, state=TrialState.FAIL)
            else:
                tasks.append(TrialTask(number=trial.number, hyperparameters=hyperparameters))
        return tasks

    def resume(self, number: int) -> None:
        """Let a paused trial run again."""
        set_state(self._study, number, TrialState.RUNNING)

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        """Write how a trial ended: COMPLETE with its objective, PRUNED when it was stopped, FAIL when it crashed.

        A paused trial is WAITING: only a trial that somebody trains is RUNNING. Its intermediate values are its means
        after 1, 2, ... folds; the last one of a stopped trial is its objective, which is adjusted for the folds that
        it lacks, and is its value in Optuna. Step 0 is a stop in the first fold.
        """
        scores = [fold.metrics[metric] for fold in record.folds]
        attributes: dict[str, Any] = {"n_folds": record.n_folds, "fold_scores": scores}
        if record.reason:
            attributes[_REASON_OF[record.state]] = record.reason
        for key, value in attributes.items():
            set_user_attribute(self._study, record.number, key, value)
        if record.state == "paused":
            return set_state(self._study, record.number, TrialState.WAITING)
        if record.state == "failed" or record.objective is None:
            self._study.tell(record.number, state=TrialState.FAIL)
            return None
        means = {n: float(np.mean(scores[:n])) for n in range(1, len(scores) + 1)}
        for step, value in {**means, record.n_folds: record.objective}.items():
            report_value(self._study, record.number, step=step, value=value)
        if record.state == "stopped":
            self._study.tell(record.number, state=TrialState.PRUNED)
        else:
            self._study.tell(record.number, record.objective)
        return None

    def _queue(self, starts: Sequence[Start]) -> None:
        """Queue the first configurations, or those that a killed driver did not get to queue."""
        known = self._study.get_trials(deepcopy=False)
        if all(_is_queued(trial) for trial in known):
            for start in starts[len(known) :]:
                self._study.enqueue_trial(dict(start.values), user_attrs={"origin": start.origin})

    def _reseed(self) -> None:
        """Draw each trial from the seed and its place alone, so that an interrupted search draws the same trials."""
        state = np.random.SeedSequence((*self._entropy, self._n_asked))
        reseed(self._sampler, state.generate_state(2).tolist())


_REASON_OF = {"stopped": "stopped_by", "failed": "failed_by", "paused": "paused_by"}


_RETRY = "retry of trial"


def _is_retry(trial: optuna.trial.FrozenTrial) -> bool:
    return str(trial.user_attrs.get("origin", "")).startswith(_RETRY)


def _is_queued(trial: optuna.trial.FrozenTrial) -> bool:
    """Say whether a trial only waits to be asked for: one that was paused has its parameters already."""
    return trial.state == TrialState.WAITING and not trial.params


def _open_journal(path: Path) -> JournalStorage:
    """Open Optuna's journal, and mend what a killed process may have left. Nobody else has it open (the study's lock).

    A last line without its end would swallow the next one and make the whole journal unreadable; what it said is in
    trial.json. A lock of a process that is gone would let every write wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_file(path).unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            logger.warning("%s ended in half a line, which is removed: its writer was killed or its disk full", path)
            with path.open("r+b") as file:
                file.truncate(len(whole))
    return JournalStorage(_MendingBackend(str(path)))


class _MendingBackend(JournalFileBackend):
    """Takes back what a full disk has let through of a write, or the next line would be appended to half of one."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append all of `logs` or nothing."""
        file = journal_file(self)
        size = os.path.getsize(file)
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(file, size)
            raise


def make_sampler() -> optuna.samplers.TPESampler:
    """Return the sampler of a search."""
    with warnings.catch_warnings():
        # `multivariate`, `group` and `constant_liar` are marked experimental; docs/methods.md says why we use them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=TOLD_BEFORE_TPE
        )
