"""A relay: the Tune actor of a running trial. It hands the task to the broker and passes on what comes back.

Neither it nor the broker imports torch, so both start in a moment and are small; workers train.
"""

import contextlib
import os
from typing import Any

import ray
from ray import tune

from consilia.config.records import TrialTask
from consilia.config.space import Hyperparameters
from consilia.tune.broker import BrokerLost, Job, Message

HEARTBEAT_SECONDS = 10.0  # how long a step waits; one that is to stop is woken, since its task is withdrawn
_ANSWER_SECONDS = 30.0  # the broker answers in milliseconds, unless it is gone
_NO_ANSWER = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError)


class Relay(tune.Trainable):
    """Passes one trial after another on; `reset_config` hands over the next one."""

    def setup(self, config: dict[str, Any], broker: Any = None, job: Job | None = None) -> None:
        """Hand the first task to the broker."""
        assert job is not None, "tune.with_parameters supplies the broker and the job"
        self._broker = broker
        self._job = job
        self._message: Any = None
        self._loss: BrokerLost | None = None  # the broker is gone; the next step says so
        self._is_over = False  # the step has said so
        self._task: TrialTask | None = None
        self._key = ""
        self._assign(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next task; True tells Tune that no new actor is needed."""
        self._withdraw()
        self._assign(new_config)
        return True

    @ray.method(enable_task_events=False)  # else each step would stand in the dashboard's task table
    def train(self) -> Any:  # type: ignore[override] # a decorated method is of Ray's own type
        """Take a step, as Tune asks for it."""
        return super().train()  # type: ignore[no-untyped-call] # Tune's

    def step(self) -> dict[str, Any]:
        """Return the next message, or a heartbeat when none comes soon.

        Raises:
            RuntimeError: The broker is gone, as the previous message said.
        """
        if self._is_over:
            assert self._loss is not None
            raise RuntimeError(self._loss.reason)
        try:
            message = self._loss or self._next_message()
        except _NO_ANSWER:
            message = BrokerLost()
        if isinstance(message, BrokerLost):
            self._loss, self._is_over = message, True
        return {"message": message}

    def cleanup(self) -> None:
        """Let the trial's worker leave it, if it has not ended."""
        self._withdraw()

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Ask for a byte: a relay only passes messages, and the workers have placement groups of their own."""
        return tune.PlacementGroupFactory([{"memory": 1}])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: trials keep their own checkpoints in the study folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""

    def __repr__(self) -> str:
        """Name the relay in the dashboard's table of actors."""
        return f"consilia trial {self._task.number if self._task else '-'} (pid {os.getpid()})"

    def _next_message(self) -> Message | None:
        assert self._task is not None, "Tune asks for no more after the outcome"
        if self._message is None:
            self._message = self._broker.next_message.remote(self._task.number)
        ready, _ = ray.wait([self._message], timeout=HEARTBEAT_SECONDS)
        if not ready:
            return None
        message: Message = ray.get(self._message)
        self._message = None
        return message

    def _assign(self, config: dict[str, Any]) -> None:
        """Hand a task to the broker; if it is gone, the next step says so.

        Raising here would not help: Tune waits for ever for an actor whose start failed because another had died.
        """
        self._message, self._loss, self._is_over = None, None, False
        self._task, self._key = _task(config), config["key"]
        try:
            ray.get(self._broker.assign.remote(self._task, self._job, self._key), timeout=_ANSWER_SECONDS)
        except _NO_ANSWER:
            self._loss = BrokerLost()

    def _withdraw(self) -> None:
        """Withdraw this assignment, and no other relay's of the same trial."""
        assert self._task is not None, "setup assigns the first"
        with contextlib.suppress(*_NO_ANSWER):
            ray.get(self._broker.withdraw.remote(self._task.number, self._key), timeout=_ANSWER_SECONDS)


def _task(config: dict[str, Any]) -> TrialTask:
    """Return the task that the controller has handed out, from the configuration that Tune carried."""
    return TrialTask(
        number=config["number"],
        hyperparameters=Hyperparameters.model_validate(config["hyperparameters"]),
        exclusive=config["exclusive"],
    )
