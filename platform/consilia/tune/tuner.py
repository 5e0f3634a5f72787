"""Ray Tune runs the search: thin adaptors between Tune and the controller of trials."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome
from consilia.errors import ClusterError
from consilia.tune.broker import BrokerLost, Job
from consilia.tune.contract import Controller
from consilia.tune.interrupt import StopSignal
from consilia.tune.relay import Relay
from consilia.tune.worker import Program, Prove, RunTrial
from consilia.tune.worker_groups import WorkerGroups

# Tune writes a CSV, a JSON and a TensorBoard file per trial; the study folder holds the same and more.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the controller says in a line what was lost
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


class _ControllerSearcher(Searcher):
    """Tune asks it for configurations, several times a second; the controller answers while a slot is free."""

    def __init__(self, controller: Controller, groups: WorkerGroups, turn: Callable[[], None]) -> None:
        super().__init__()
        self._controller = controller
        self._groups = groups
        self._turn = turn
        self._numbers: dict[str, int] = {}
        self.error: ClusterError | None = None  # why no trial can run any more

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's configuration, None while there is none, or FINISHED."""
        try:
            n_slots = self._groups.count()
        except ClusterError as error:
            self.error = error
            return None
        self._controller.reserve(n_slots)
        self._turn()
        self._groups.is_short = self._controller.n_running >= n_slots
        if self._groups.is_short:
            return None
        task = self._controller.next_task()
        if task is None:
            return None if self._controller.n_running else Searcher.FINISHED
        self._numbers[trial_id] = task.number
        return {
            "number": task.number,
            "hyperparameters": task.hyperparameters.model_dump(mode="json"),
            "exclusive": task.exclusive,
            "key": trial_id,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let a trial go that was told to leave; the scheduler hears of lost relays."""
        number = self._numbers.pop(trial_id, None)
        if number is not None:
            is_over = not error and self._controller.left(number)
            self._groups.broker.withdraw.remote(number, trial_id, is_over=is_over)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles searchers to restore them; a study resumes from its own files


class _ControllerScheduler(FIFOScheduler):
    """Tune hands it every result; the controller decides."""

    def __init__(self, controller: Controller) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Ray's schedulers are untyped
        self._controller = controller
        self._losses: dict[str, str] = {}  # why relays are about to end

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Hand a message to the controller and return Tune's word for its decision."""
        message = result.get("message")
        if isinstance(message, TrialOutcome):
            self._controller.end(message)
            return TrialScheduler.STOP
        if isinstance(message, TaskTaken):
            self._controller.taken(message)
        elif isinstance(message, BrokerLost):
            self._losses[trial.trial_id] = message.reason
        elif isinstance(message, EpochReport) and self._controller.hear(message) is not None:
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the controller that a relay is gone: the controller, and not Tune, hands the trial to another."""
        reason = self._losses.pop(trial.trial_id, "its relay died")
        self._controller.lost(trial.config["number"], reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def run_in_slots(
    controller: Controller,
    *,
    groups: WorkerGroups,
    run_trial: RunTrial,
    n_folds: int,
    prove: Prove | None = None,
    storage: Path,
    noun: str = "trial",
    turn: Callable[[], None] = lambda: None,
) -> None:
    """Let Tune run the controller's tasks on the workers until it has no more, or the user asks to stop.

    Ctrl-C ends the search in order: workers keep their checkpoints.

    Args:
        controller: Gives tasks and hears reports.
        groups: The workers, and how many tasks can run at a time; asked again and again, since nodes come and go.
        run_trial: What a worker does with a task.
        n_folds: Of a trial, for the dashboard; 0 of a refit.
        prove: As of `worker.Program`.
        storage: Folder for Ray's own state.
        noun: What a task is called in the dashboard.
        turn: Called several times a second.

    Raises:
        ClusterError: No node can train.
    """
    # Tune looks for the CSV and JSON files that were switched off, and warns of each one missing.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it lists relays that were lost, though all is well
    job = Job(program=ray.put(Program(run_trial, prove)), n_folds=n_folds, noun=noun)
    relay = tune.with_parameters(Relay, broker=groups.broker, job=job)
    relay.__qualname__ = Relay.__qualname__  # the dashboard shows it as the class of the actor
    searcher, stop = _ControllerSearcher(controller, groups, turn), StopSignal()
    together = {"TUNE_MAX_PENDING_TRIALS_PG": str(max(1, groups.count()))}  # else Tune starts one after the other
    with _environment({**_ENVIRONMENT, **together}), stop.listening():
        tune.Tuner(
            relay,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_ControllerScheduler(controller),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"tune-{uuid.uuid4().hex[:8]}",
                storage_path=str(storage.absolute()),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                stop=_StopAll(lambda: stop.raised or searcher.error is not None or bool(controller.must_leave())),
                verbose=0,
            ),
        ).fit()
        groups.wait_until_idle()
    if searcher.error is not None:
        raise searcher.error


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _StopAll(tune.Stopper):
    """Lets Tune end the whole search once all trials must leave."""

    def __init__(self, must_leave: Callable[[], bool]) -> None:
        self._must_leave = must_leave

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Say whether all trials must leave."""
        return self._must_leave()

    def __getstate__(self) -> dict[str, Any]:
        return {}
