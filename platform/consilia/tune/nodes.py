"""The connected cluster, as the planning of slots sees it: its living nodes, and what a step takes on each kind."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.placement_group import remove_placement_group

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError, ConsiliaError
from consilia.tune.autoscaling import ask_for, is_placed_now
from consilia.tune.capacity import Kind, Node, Share, places
from consilia.tune.ray_internals import NODE_LABEL, call_in_actor, free_resources
from consilia.tune.worker_groups import WorkerGroups

_ANSWER_SECONDS = 1800.0  # two steps of ResNet-50 at 224 px take a minute on one CPU core
_TRIES = 5  # of a measurement whose worker dies

_POLL_SECONDS = 0.2  # between two looks whether a GPU has come
_PATIENCE_SECONDS = 2.0  # before the first word about it
_NOTE_SECONDS = 300.0  # between two words

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


def wait_for_gpus(
    profile: ClusterProfile,
    noted: Callable[[str], None],
    *,
    nodes: Callable[[], Mapping[str, Node]] = living_nodes,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until the GPUs of one slot are free, where the profile requires them; Ray's autoscaler may bring them.

    Args:
        profile: Says what a slot takes.
        noted: Told what is waited for, and again now and then.
        nodes: Returns the living nodes by id.
        clock: Monotonic seconds.
    """
    if profile.gpus != "required":
        return
    gpus = 1.0 if profile.gpus_per_slot == "auto" else profile.gpus_per_slot
    share = Share(cpus=profile.cpus_per_slot, gpus=gpus, memory=0)
    group = ask_for([share.resources] * profile.workers_per_trial)
    try:
        next_note = clock() + _PATIENCE_SECONDS
        while not is_placed_now(group):
            if clock() >= next_note:
                noted(_describe_wait(share, profile.workers_per_trial, nodes()))
                next_note = clock() + _NOTE_SECONDS
            time.sleep(_POLL_SECONDS)
    finally:
        remove_placement_group(group)
    # Nodes say what is free some time later.
    deadline = clock() + _PATIENCE_SECONDS
    while clock() < deadline and not any(places(node.free, share) for node in nodes().values()):
        time.sleep(_POLL_SECONDS)


def _describe_wait(share: Share, workers: int, nodes: Mapping[str, Node]) -> str:
    free = ", ".join(
        f"{node.name} {node.free.get('GPU', 0):g} of {node.total.get('GPU', 0):g}" for node in nodes.values()
    )
    times = f"{workers} times " if workers > 1 else ""
    return (
        f"waiting for a GPU, since cluster.gpus is required: Ray is asked for {times}{share.gpus:g} GPU with "
        f"{share.cpus:g} CPU, and GPUs are free on: {free}"
    )


def ask_workers(
    groups: WorkerGroups, nodes: Mapping[str, Node], question: Callable[[object], T | ConsiliaError]
) -> dict[Kind, T | ClusterError]:
    """Let a worker on each kind of node answer before it trains: nothing runs beside it.

    Args:
        groups: Started, and not at work yet.
        nodes: The cluster's.
        question: Called in the worker's process with its actor; returns an error that the user must hear of.

    Returns:
        The answers, and the errors of kinds of nodes that cannot train.

    Raises:
        ConsiliaError: An error that has nothing to do with the node, or those of all kinds.
        ClusterError: No worker can be started, several died over it, or the answer took too long.
    """
    for _ in range(_TRIES):
        workers = {nodes[key].kind: worker for key, worker in groups.first_workers().items()}
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
    errors = [answer for answer in answers if isinstance(answer, ConsiliaError)]
    for error in errors:
        if len(errors) == len(answers) or not isinstance(error, ClusterError):
            raise error
    return dict(zip(workers, answers, strict=True))


@dataclass(slots=True)
class _Measurement:
    """A task that measures."""

    answer: Any  # a reference to it
    deadline: float
    n_tries: int


class LateKinds:
    """Measures a step on kinds of nodes that join a search, each by a task on one of its nodes.

    Args:
        first: What the task takes: a share that a step is measured with. Nodes that never have it are not asked.
        question: As of `ask_workers`.
        share: Turns the answer into a share, for nodes like this one; raises ClusterError where none will do.
        left_out: Kinds on which a step is known to fail.
        noted: Told what people should know.
        start: Starts the task on the node with this id, and returns a reference to the answer.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        first: Share,
        question: Callable[[object], T | ConsiliaError],
        share: Callable[[Node, T], Share],
        *,
        left_out: Collection[Kind] = (),
        noted: Callable[[str], None],
        start: Callable[[Callable[[object], Any], Share, str], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first, self._question, self._share = first, question, share
        self._left_out = set(left_out)
        self._noted = noted
        self._start = start or _start_on
        self._clock = clock
        self._running: dict[Kind, _Measurement] = {}
        self._shares: dict[Kind, Share] = {}

    def __call__(self, key: str, node: Node) -> Share | None:
        """Return the share of each worker on this node, None while it is not known; as LiveSlots asks."""
        kind = node.kind
        if kind in self._left_out or not places(node.total, self._first):
            return None
        if kind not in self._shares:
            running = self._running.get(kind)
            if running is None or self._clock() > running.deadline:  # its node may be lost
                self._begin(key, node)
            elif ray.wait([running.answer], timeout=0)[0]:
                self._hear(key, node, running.answer)
        return self._shares.get(kind)

    def _begin(self, key: str, node: Node) -> None:
        before = self._running.get(node.kind)
        n_tries = before.n_tries + 1 if before else 1
        if n_tries > _TRIES:
            return self._leave_out(node, f"{_TRIES} tasks that measured a training step there were lost")
        if before is None:
            self._noted(f"node {node.name} has {node.kind}: a training step is measured there before its slots count")
        answer = self._start(self._question, self._first, key)
        self._running[node.kind] = _Measurement(answer, self._clock() + _ANSWER_SECONDS, n_tries)
        return None

    def _hear(self, key: str, node: Node, answer: Any) -> None:
        try:
            found = ray.get(answer)
            if isinstance(found, ConsiliaError):
                raise found
            self._shares[node.kind] = self._share(node, found)
        except ConsiliaError as error:
            self._leave_out(node, str(error).partition("\n")[0])
        except ray.exceptions.RayError:
            self._begin(key, node)

    def _leave_out(self, node: Node, why: str) -> None:
        self._left_out.add(node.kind)
        self._noted(f"nodes with {node.kind}, such as {node.name}, are left out: {why}")


def _start_on(question: Callable[[object], Any], share: Share, node: str) -> Any:
    """Let a process of its own answer, which gives back what it took when it ends."""
    resources = share.resources
    place = {"num_cpus": resources.pop("CPU"), "num_gpus": resources.pop("GPU", 0), "memory": resources.get("memory")}
    task: Any = ray.remote(max_calls=1)(_answer)
    return task.options(**place, max_retries=0, label_selector={NODE_LABEL: node}).remote(question)


def _answer(question: Callable[[object], Any]) -> Any:
    return question(None)
