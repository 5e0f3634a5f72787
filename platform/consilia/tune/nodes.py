"""The connected cluster, as the planning of slots sees it: its living nodes, and steps measured on them."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.train.memory_probe import StepCase, StepMemory
from consilia.train.memory_probe_process import PROBE_SECONDS, measure_in_process
from consilia.tune.capacity import Node
from consilia.tune.demand import needs_measuring
from consilia.tune.ray_internals import free_resources

_START_SECONDS = 120.0  # of a task on a node that has first to receive the package
_KIND = "accelerator_type:"  # how Ray names the resource that says what a node's GPUs are


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


def measure_steps(
    cases: Sequence[StepCase], profile: ClusterProfile, nodes: Mapping[str, Node]
) -> tuple[StepMemory, ...]:
    """Measure the steps where they will run: as a task on each kind of GPU, or on this machine if there are none.

    Args:
        cases: The study's most demanding steps, the largest last.
        profile: Whether anything is open; otherwise nothing is measured.
        nodes: The cluster's, before the search has taken any of it.

    Returns:
        Figures of every case on every kind of GPU; none if the profile gives all numbers.

    Raises:
        ClusterError: A step does not fit, or no whole GPU is free to measure on.
    """
    if not needs_measuring(profile):
        return ()
    n_threads = max(1, int(profile.cpus_per_slot))
    if profile.gpus_per_slot == 0 or not any(node.total.get("GPU", 0) >= 1 for node in nodes.values()):
        return measure_in_process(cases, device="cpu", n_threads=n_threads)
    options = [{"num_gpus": 1, "resources": kind} for kind in _free_kinds(nodes)]
    return _collect([_measure.options(**each).remote(list(cases), n_threads) for each in options], len(cases))


def _free_kinds(nodes: Mapping[str, Node]) -> list[dict[str, float]]:
    """Return, for each kind of GPU of which a whole one is free, the resources that lead a task to it."""
    free = [node for node in nodes.values() if node.free.get("GPU", 0) >= 1]
    if not free:
        found = ", ".join(
            f"{node.name} {node.free.get('GPU', 0):g} of {node.total.get('GPU', 0):g}" for node in nodes.values()
        )
        raise ClusterError(
            f"A whole GPU must be free to measure a training step on, but free are: {found}.\n"
            "Wait until other jobs have ended, or set cluster.gpus_per_slot and cluster.memory_per_slot to numbers."
        )
    kinds = {tuple(sorted(name for name in node.total if name.startswith(_KIND))) for node in free}
    return [dict.fromkeys(names, 0.001) for names in sorted(kinds)]


def _collect(tasks: list[Any], n_cases: int) -> tuple[StepMemory, ...]:
    try:
        results = ray.get(tasks, timeout=_START_SECONDS + n_cases * PROBE_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise ClusterError(
            "The GPU that was free to measure a training step on has been taken by another job. "
            "Start the search again, or set cluster.gpus_per_slot and cluster.memory_per_slot to numbers."
        ) from None
    except ray.exceptions.RayTaskError:
        raise  # a fault of ours
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"The node that measured a training step was lost: {error}. Start the search again."
        ) from error
    finally:
        # Only what still runs: Ray ends the whole process when a task is cancelled whose result is just coming in.
        _, running = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        for task in running:
            ray.cancel(task, force=True)
    return tuple(step for result in results for step in _steps(result))


def _steps(result: tuple[StepMemory, ...] | str) -> tuple[StepMemory, ...]:
    if isinstance(result, str):
        raise ClusterError(result)
    return result


@ray.remote(num_cpus=0, max_retries=0)
def _measure(cases: list[StepCase], n_threads: int) -> tuple[StepMemory, ...] | str:
    """Measure on the GPU that Ray gives to this task, or say why that fails."""
    try:
        return measure_in_process(cases, device="cuda", n_threads=n_threads)
    except ClusterError as error:
        return str(error)
