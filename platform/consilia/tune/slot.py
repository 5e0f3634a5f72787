"""A slot: one Tune actor that outlives its trials and owns one long-lived Ray Train worker group.

Starting a trainer takes seconds; a slot starts one once, and later trials begin in milliseconds.
"""

import contextlib
import os
import threading
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray import train, tune
from ray.train.torch import TorchTrainer

from consilia.config.records import TrialTask
from consilia.config.space import Hyperparameters
from consilia.tune.broker import Broker, Message, WorkersLost
from consilia.tune.capacity import Share
from consilia.tune.ray_internals import call_in_actor
from consilia.tune.worker import TASK_EVENTS_MILLISECONDS, RunTrial, serve

_HEARTBEAT_SECONDS = 1.0  # how long a step waits before it lets Tune speak to the slot again
_PING_SECONDS = 3.0  # of silence, before a slot asks whether its workers live
_CLOSE_SECONDS = 30.0  # workers poll for the stop between batches
_ANSWER_SECONDS = 30.0  # the broker answers in milliseconds, unless it is gone
_NO_BROKER = WorkersLost("its broker is gone")
_NO_ANSWER = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions:
    """What every slot of a search shares."""

    run_trial: RunTrial
    n_folds: int  # named in the dashboard; 0 of a refit, which has none
    noun: str = "trial"  # what a task is called there
    share: Share  # of each worker
    exclusive: Share | None = None  # for a trial that ran out of memory
    n_workers: int = 1
    hang_seconds: float = 900.0
    start_seconds: float = 300.0  # a task that no worker has taken for so long leaves this slot
    restart_seconds: float = 60.0  # the same, where its worker was lost
    storage: str  # folder for Ray Train's own state
    max_worker_failures: int = 20  # of one slot; then the slot is given up


class Slot(tune.Trainable):
    """Runs one trial after another on the same workers; `reset_config` hands over the next one."""

    def setup(self, config: dict[str, Any], options: SlotOptions | None = None) -> None:
        """Start the broker and the workers, and assign the first task."""
        assert options is not None, "tune.with_parameters supplies the options"
        self._options = options
        self._broker: Any = ray.remote(Broker).options(num_cpus=0).remote()
        self._message: Any = None
        self._loss: WorkersLost | None = None  # why the slot can no longer be used; the next step says so
        self._is_over = False  # the step has said so
        task = _task(config)
        self._assign(task)
        share = options.exclusive if task.exclusive and options.exclusive is not None else options.share
        self._workers = threading.Thread(target=self._run_workers, args=(share,), name="ray-train", daemon=True)
        if self._loss is None:
            self._workers.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop what is under way and take the next task; True tells Tune that no new actor is needed."""
        self._assign(_task(new_config))
        return True

    def step(self) -> dict[str, Any]:
        """Return the next message, or a heartbeat when none comes soon, so that Tune can stop the slot.

        Raises:
            RuntimeError: The slot can no longer be used, as the previous message said.
        """
        if self._is_over:
            assert self._loss is not None
            raise RuntimeError(self._loss.reason)
        try:
            message = self._loss or self._next_message()
        except _NO_ANSWER:
            message = _NO_BROKER
        if isinstance(message, WorkersLost):
            self._loss, self._is_over = message, True
        return {"message": message}

    def cleanup(self) -> None:
        """Close the broker, so that the train function returns and Ray Train ends in good order."""
        with contextlib.suppress(*_NO_ANSWER):  # without a broker the workers end by themselves
            self._ask("close")
        if self._workers.is_alive():
            self._workers.join(timeout=_CLOSE_SECONDS)
        ray.kill(self._broker)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Ask for a byte: a slot only passes messages, and its workers have a placement group of their own.

        An exclusive trial asks for two, so that Tune gives it a new slot and no used one.
        """
        return tune.PlacementGroupFactory([{"memory": 2 if config.get("exclusive") else 1}])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: trials keep their own checkpoints in the study folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""

    def __repr__(self) -> str:
        """Name the slot in the dashboard's table of actors."""
        return f"consilia slot (pid {os.getpid()})"

    def _next_message(self) -> Message | None:
        if self._message is None:
            self._message = self._broker.next_message.remote()
        ready, _ = ray.wait([self._message], timeout=_HEARTBEAT_SECONDS)
        if not ready:
            return self._look_after_workers()
        message: Message = ray.get(self._message)
        self._message = None
        return message

    def _assign(self, task: TrialTask) -> None:
        """Hand a task to the workers; without a broker the next step says so.

        Raising here would not help: Tune waits for ever for an actor whose start failed because another had died.
        """
        self._message = None
        try:
            self._ask("assign", task)
        except _NO_ANSWER:
            self._loss = _NO_BROKER

    def _look_after_workers(self) -> WorkersLost | None:
        """End workers that show no sign of life, and give the slot up where no other comes in their place.

        Ray Train starts new workers, which go on with the task; without room for them it waits for ever.
        """
        silent = self._ask("silent_seconds")
        if silent > self._options.hang_seconds:
            self._ask("blame", f"it showed no sign of life for {silent:.0f} s")
            for worker in self._ask("workers"):
                ray.kill(worker)
        elif silent > _PING_SECONDS and not self._workers_live():
            self._ask("blame", "")  # nobody knows why its process died
        seconds, was_taken = self._ask("untaken")
        if seconds <= (self._options.restart_seconds if was_taken else self._options.start_seconds):
            return None
        return WorkersLost(f"no worker could be started for {seconds:.0f} s", is_fault=was_taken)

    def _workers_live(self) -> bool:
        """Ask whether the worker processes still exist; a busy one need not answer."""
        pings = [call_in_actor(worker, _ping) for worker in self._ask("workers")]
        answers, _ = ray.wait(pings, num_returns=len(pings), timeout=_HEARTBEAT_SECONDS) if pings else ([], [])
        try:
            ray.get(answers)
        except ray.exceptions.RayActorError:
            return False
        return True

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._broker, method).remote(*arguments), timeout=_ANSWER_SECONDS)

    def _run_workers(self, share: Share) -> None:
        try:
            _make_trainer(self._options, share, self._broker).fit()
            reason = "its workers have ended"
        except Exception as error:  # whatever Ray Train raises, Tune must hear of it through the broker
            reason = f"its workers are gone: {str(error).strip().partition(chr(10))[0]}"
        self._broker.lose_workers.remote(reason)


def _task(config: dict[str, Any]) -> TrialTask:
    """Return the task that the controller has handed out, from the configuration that Tune carried."""
    return TrialTask(
        number=config["number"],
        hyperparameters=Hyperparameters.model_validate(config["hyperparameters"]),
        exclusive=config["exclusive"],
    )


def _ping(worker: object) -> None:
    """Do nothing: the answer is that the worker runs it."""


def _make_trainer(options: SlotOptions, share: Share, broker: Any) -> TorchTrainer:
    n_threads = max(1, int(share.cpus))
    environment = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment["RAY_task_events_report_interval_ms"] = str(TASK_EVENTS_MILLISECONDS)
    return TorchTrainer(
        serve,
        train_loop_config={
            "broker": broker,
            "run_trial": options.run_trial,
            "n_threads": n_threads,
            "n_folds": options.n_folds,
            "noun": options.noun,
        },
        scaling_config=train.ScalingConfig(
            num_workers=options.n_workers,
            use_gpu=share.gpus > 0,
            resources_per_worker=share.resources,
        ),
        run_config=train.RunConfig(
            name=f"slot-{uuid.uuid4().hex[:8]}",
            storage_path=options.storage,
            failure_config=train.FailureConfig(max_failures=options.max_worker_failures),
            worker_runtime_env={"env_vars": environment},  # type: ignore[call-arg] # Ray Train V2's RunConfig has it
        ),
    )
