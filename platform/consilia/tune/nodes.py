"""The connected cluster, as the planning of slots sees it: its living nodes, and what workers find on them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import ray

from consilia.errors import ClusterError, ConsiliaError
from consilia.tune.capacity import Node
from consilia.tune.ray_internals import call_in_actor, free_resources
from consilia.tune.worker_groups import WorkerGroups

_ANSWER_SECONDS = 1800.0  # two steps of ResNet-50 at 224 px take a minute on one CPU core
_TRIES = 5  # of a measurement whose worker dies
_KIND = "accelerator_type:"  # how Ray names the resource that says what a node's GPUs are

T = TypeVar("T")


def living_nodes() -> dict[str, Node]:
    """Return the living nodes of the connected cluster by id; one that has not yet said what is free is left out."""
    free = free_resources()
    return {
        node["NodeID"]: Node(
            name=str(node["NodeManagerAddress"]), free=dict(free[node["NodeID"]]), total=dict(node["Resources"])
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call] # Ray's is untyped
        if node["Alive"] and node["NodeID"] in free
    }


def ask_workers(
    groups: WorkerGroups, nodes: Mapping[str, Node], question: Callable[[object], T | ConsiliaError]
) -> list[T]:
    """Let a worker of each kind of node answer before it trains: nothing runs beside it.

    Args:
        groups: Started, and not at work yet.
        nodes: The cluster's.
        question: Called in the worker's process with its actor; returns an error that the user must hear of.

    Raises:
        ConsiliaError: An error that a worker returned.
        ClusterError: No worker can be started, several died over it, or the answer took too long.
    """
    for _ in range(_TRIES):
        workers = {_kind(nodes[key]): worker for key, worker in groups.first_workers().items()}
        tasks = [call_in_actor(worker, question) for worker in workers.values()]
        try:
            answers = ray.get(tasks, timeout=_ANSWER_SECONDS)
            break
        except ray.exceptions.RayActorError:
            continue  # killed by chance, or by the kernel for the last memory: the next one tells which
        except ray.exceptions.GetTimeoutError:
            raise ClusterError(
                "The memory of a training step was to be measured before the search, but that took longer than "
                f"{_ANSWER_SECONDS:g} s.\n"
                "Set cluster.gpus_per_slot and cluster.memory_per_slot to numbers, so that nothing has to be measured."
            ) from None
    else:
        raise ClusterError(
            f"{_TRIES} workers died while they measured a training step, with nothing beside it: memory may have run "
            "out.\nLower training.batch_size or training.image_size, or leave the largest architecture out."
        )
    for answer in answers:
        if isinstance(answer, ConsiliaError):
            raise answer
    return list(answers)


def _kind(node: Node) -> tuple[str, ...]:
    """Return what a node's GPUs are, () of one without."""
    return tuple(sorted(name for name in node.total if name.startswith(_KIND)))
