"""A slot: one Tune actor that outlives its trials and owns one long-lived Ray Train worker group.

Starting a trainer takes seconds; a slot starts one once, and later trials begin in milliseconds.
"""

import os
import threading
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray import train, tune
from ray.train.torch import TorchTrainer

from consilia.plan.hyperparameters import Hyperparameters
from consilia.records import TrialTask
from consilia.search.mailbox import Mailbox, WorkersLost
from consilia.search.worker import TASK_EVENTS_MILLISECONDS, RunTrial, serve

_HEARTBEAT_SECONDS = 1.0  # how long a step waits before it lets Tune speak to the slot again
_CLOSE_SECONDS = 30.0  # workers poll for the stop between batches


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions:
    """What every slot of a search shares."""

    run_trial: RunTrial
    n_folds: int
    cpus: float
    gpus: float
    storage: str  # folder for Ray Train's own state
    max_worker_failures: int = 20  # of one slot; then Tune restarts the slot


class Slot(tune.Trainable):
    """Runs one trial after the other on the same workers; `reset_config` hands over the next one."""

    def setup(self, config: dict[str, Any], options: SlotOptions | None = None) -> None:
        """Start the mailbox and the workers, and assign the first task."""
        assert options is not None, "tune.with_parameters supplies the options"
        self._options = options
        self._mailbox: Any = ray.remote(Mailbox).options(num_cpus=0).remote()
        self._message: Any = None
        self._workers = threading.Thread(target=self._run_workers, name="ray-train", daemon=True)
        self._workers.start()
        self._assign(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop what is under way and take the next task; True tells Tune that no new actor is needed."""
        self._assign(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next message, or a heartbeat when none comes soon, so that Tune can stop the slot.

        Raises:
            RuntimeError: The worker group is gone for good; Tune restarts the slot.
        """
        if self._message is None:
            self._message = self._mailbox.next_message.remote()
        try:
            message = ray.get(self._message, timeout=_HEARTBEAT_SECONDS)
        except ray.exceptions.GetTimeoutError:
            return {"message": None}
        self._message = None
        if isinstance(message, WorkersLost):
            raise RuntimeError(f"the workers of this slot are gone: {message.reason}")
        return {"message": message}

    def cleanup(self) -> None:
        """Close the mailbox, so that the train function returns and Ray Train ends in good order."""
        ray.get(self._mailbox.close.remote())
        self._workers.join(timeout=_CLOSE_SECONDS)
        self._mailbox.__ray_terminate__.remote()

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Ask for one byte: a slot only passes messages, and its workers have a placement group of their own."""
        return tune.PlacementGroupFactory([{"memory": 1}])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: trials keep their own checkpoints in the study folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""

    def __repr__(self) -> str:
        """Name the slot in the dashboard's table of actors."""
        return f"consilia slot (pid {os.getpid()})"

    def _assign(self, config: dict[str, Any]) -> None:
        self._message = None
        task = TrialTask(
            number=config["number"], hyperparameters=Hyperparameters.model_validate(config["hyperparameters"])
        )
        ray.get(self._mailbox.assign.remote(task))

    def _run_workers(self) -> None:
        try:
            _make_trainer(self._options, self._mailbox).fit()
            reason = "the train function returned"
        except Exception as error:  # whatever Ray Train raises, Tune must hear of it through the mailbox
            reason = str(error)
        self._mailbox.lose_workers.remote(reason)


def _make_trainer(options: SlotOptions, mailbox: Any) -> TorchTrainer:
    n_threads = max(1, int(options.cpus))
    environment = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment["RAY_task_events_report_interval_ms"] = str(TASK_EVENTS_MILLISECONDS)
    resources = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    return TorchTrainer(
        serve,
        train_loop_config={
            "mailbox": mailbox,
            "run_trial": options.run_trial,
            "n_threads": n_threads,
            "n_folds": options.n_folds,
        },
        scaling_config=train.ScalingConfig(num_workers=1, use_gpu=options.gpus > 0, resources_per_worker=resources),
        run_config=train.RunConfig(
            name=f"slot-{uuid.uuid4().hex[:8]}",
            storage_path=options.storage,
            failure_config=train.FailureConfig(max_failures=options.max_worker_failures),
            worker_runtime_env={"env_vars": environment},  # type: ignore[call-arg] # Ray Train V2's RunConfig has it
        ),
    )
