"""Ray Train's worker groups as a search uses them, by way of parts that Ray does not promise to keep.

`fit` of Ray Train blocks, and starts four helpers for a group. Here it returns once the group's controller has been
sent to the node, and the helpers that a search has no use for are left out: a manager of Ray Data's datasets, a cleaner
of placement groups that is pinned to the head (`tune.placement_group_cleanup` does the same), and the coordinator of
Ray's autoscaler (a placement group that waits tells it what is wanted). `tests/tune/test_internals.py` names each use.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from consilia.tune.broker import WorkerId
from consilia.tune.ray_internals import NODE_LABEL

_UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)


class ApartBackend(Backend):
    """Workers that have nothing in common: one that dies is replaced alone, and the others train on."""

    has_replica_groups = True


class ApartConfig(BackendConfig):
    """Names the backend; Ray Train asks for it so."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend of these workers."""
        return ApartBackend


@dataclass(frozen=True, slots=True)
class StartedGroup:
    """A worker group that is starting or at work."""

    controller: Any  # the actor that starts and watches the workers; with its last handle Ray ends the group
    ended: Any  # reference that resolves when the group has ended, well or not
    error: None = None  # Ray Train looks for one when `fit` returns

    def why_ended(self) -> str:
        """Return in a line what ended the group, "" if all its workers returned."""
        try:
            ray.get(self.ended)
            error = ray.get(self.controller.get_result.remote()).error
        except ray.exceptions.RayActorError:
            return "who watched over them died, or their node"
        cause = getattr(error, "controller_failure", error)
        if isinstance(cause, WorkerGroupStartupTimeoutError):
            return "there was no room for them"
        return _describe(cause) if cause else ""


class GroupTrainer(DataParallelTrainer):
    """Starts a worker group; `fit` returns a StartedGroup.

    Args:
        node: Id of the node on which the controller is placed; "": Ray chooses.
        **arguments: As of Ray's.
    """

    def __init__(self, *arguments: Any, node: str = "", **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._node = node

    def fit(self) -> StartedGroup:  # type: ignore[override] # Ray's waits for the end
        """Start the group's controller, which starts the workers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Ray copies settings of its own that it deprecates
            started: Any = super().fit()
        return started  # type: ignore[no-any-return]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = _Unregistered(arguments["scaling_policy"].scaling_config)
        arguments["callbacks"] = [each for each in arguments["callbacks"] if not isinstance(each, _UNUSED)]
        place = {"label_selector": {NODE_LABEL: self._node}} if self._node else {}
        actor: Any = ray.remote(TrainController)
        controller = actor.options(num_cpus=0, **place).remote(**arguments)
        return StartedGroup(controller, controller.run.remote())


class LossNotice(UserCallback):
    """Tells the broker of workers that died; it runs in the group's controller."""

    def __init__(self, broker: Any, group: str) -> None:
        self._broker = broker
        self._group = group

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell it at once: Ray Train starts others in their places, which takes seconds."""
        for rank, error in worker_exceptions.items():
            # Nobody knows why a process died; an error that ended the train function is known.
            reason = "" if isinstance(error, WorkerHealthCheckFailedError) else _describe(error)
            self._broker.lose_worker.remote(WorkerId(self._group, rank), reason)


class _Unregistered(FixedScalingPolicy):
    """A group of a fixed size, of which no coordinator is told; it lives in the group's controller."""

    def after_controller_start(self, train_run_context: Any) -> None:
        # Else each worker's health check stands in the dashboard's task table, one a second.
        ray.method(enable_task_events=False)(RayTrainWorker.poll_status)

    async def before_controller_shutdown(self) -> None:
        pass

    def before_controller_abort(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
