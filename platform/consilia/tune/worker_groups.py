"""The Ray Train worker groups of a search, and the broker between them and its trials.

A group holds all the workers of a node, and each of them trains its own trials: they start together, and what Ray Train
keeps beside them it keeps once a node. A worker that dies is replaced alone. Workers that train each trial together
(`workers_per_trial`) have a group of their own, which any nodes may hold.
"""

import logging
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from consilia.errors import ClusterError
from consilia.tune.autoscaling import MissingSlots
from consilia.tune.broker import Broker, Counts, WorkerId
from consilia.tune.capacity import Capacity, Share
from consilia.tune.live import LiveSlots
from consilia.tune.placement_group_cleanup import Orphans, remove_orphans
from consilia.tune.ray_internals import NODE_LABEL
from consilia.tune.scratch import RAY_TRAIN, scratch_root
from consilia.tune.worker import TASK_EVENTS_MILLISECONDS, GroupWork, serve

logger = logging.getLogger(__name__)

_CALLS = 100_000  # of the broker at a time: every worker holds three, and every trial one
_ANSWER_SECONDS = 30.0  # the broker answers in milliseconds, unless it is being started again
_POLL_SECONDS = 0.05  # between two questions whether workers have started
_LOOK_SECONDS = 1.0  # between two looks at the groups
_CLOSE_SECONDS = 30.0  # workers poll for the stop between batches
_START_SECONDS = 300.0  # a worker's start: the package may have to reach the node first
_STARTS = 5  # of the first workers, before the search is given up
_AGAIN_SECONDS, _MOST_AGAIN_SECONDS = 5.0, 20.0  # before a group that ended is started again; twice as long each time
_CALM_SECONDS = 300.0  # after which a group that ends is the first again
_MAX_FAILURES = 1_000_000  # of a group's workers: the broker counts those that matter, by trial


@dataclass(eq=False, slots=True, kw_only=True)
class _Group:
    """A worker group that was started."""

    name: str
    node: str  # its id; "": any
    n_workers: int
    share: Share  # of each worker
    exclusive: bool
    together: bool
    started: Any  # a StartedGroup
    reservation: PlacementGroup | None = None  # of memory that was measured after the start
    is_closed: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether none of its workers is left."""
        ready, _ = ray.wait([self.started.ended], timeout=0)
        return bool(ready)


@dataclass(slots=True)
class Setback:
    """A node on which groups end by themselves."""

    n: int = 0  # in a row
    until: float = 0.0  # no other is started there before
    why: str = ""  # the last one ended

    def add(self, now: float) -> float:
        """Note that a group has ended; return for how many seconds no other is to be started."""
        self.n = self.n + 1 if now - self.until < _CALM_SECONDS else 1
        seconds = min(_MOST_AGAIN_SECONDS, _AGAIN_SECONDS * 2.0 ** min(self.n - 1, 9))
        self.until = now + seconds
        return seconds


class WorkerGroups:
    """Starts worker groups where there is room, looks after them, and ends them. Ray must be connected.

    Args:
        hang_seconds: A worker that trains and shows no sign of life for so long is ended.
        noted: Told what people should know.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        hang_seconds: float = 900.0,
        noted: Callable[[str], None] = logger.info,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Ray Train makes it on every node, and keeps a few hundred bytes in it.
        self._storage = scratch_root() / RAY_TRAIN / uuid.uuid4().hex[:12]
        self._hang_seconds = hang_seconds
        self._noted = noted
        self._clock = clock
        self._groups: list[_Group] = []
        self._names: Counter[str] = Counter()
        self._setbacks: dict[str, Setback] = {}
        self._capacity: Capacity | None = None
        self._live: LiveSlots | None = None
        self._asks_for_more = False
        self._missing = MissingSlots(clock=clock)
        self.is_short = False  # who hands out tasks says so: there are more of them than slots
        self._next_look = clock()
        self._n_started = 0  # workers, the most that were there at a time
        self._refusals: dict[WorkerId, str] = {}  # why a worker takes no more tasks
        self._orphans = Orphans()
        here = ray.get_runtime_context().get_node_id()  # whose disk the broker reads and writes
        options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": _CALLS, "label_selector": {NODE_LABEL: here}}
        # Its calls would fill the dashboard's task table: those that name a trial or a fold ask to stand there.
        self.broker: Any = ray.remote(Broker).options(enable_task_events=False, **options).remote()

    def __enter__(self) -> "WorkerGroups":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def first_workers(self) -> dict[str, Any]:
        """Wait until each group has a worker that can be asked for something; return one's handle by node.

        Raises:
            ClusterError: No worker stays alive, or none has started for minutes.
        """
        deadline = self._clock() + _START_SECONDS
        while True:
            self._look()
            names = {group.name: group.node for group in self._groups if not group.is_closed}
            workers: dict[WorkerId, Any] = self._ask_patiently("workers", list(names)) or {}
            if names and {worker.group for worker in workers} == names.keys():
                return {names[worker.group]: handle for worker, handle in sorted(workers.items(), reverse=True)}
            worst = max(self._setbacks.values(), key=lambda each: each.n, default=Setback())
            if worst.n >= _STARTS:
                raise ClusterError(f"Workers were started {worst.n} times, and each time they were lost: {worst.why}.")
            if self._clock() > deadline:
                raise ClusterError(f"No worker has started within {_START_SECONDS:g} s.")
            time.sleep(_POLL_SECONDS)

    def settle(self, capacity: Capacity, live: LiveSlots, *, asks_for_more: bool = False) -> None:
        """Hold from now on as many workers as `live` counts, each with the share that it says.

        Groups that were started with other devices, or with more workers than their node holds, are started anew.

        Args:
            capacity: Of the search.
            live: Counts the slots that there are.
            asks_for_more: Let Ray's autoscaler see which slots are missing, where there may be one.
        """
        self._capacity, self._live, self._asks_for_more = capacity, live, asks_for_more
        wanted = live.by_node()
        self._close([group for group in self._groups if group.n_workers > wanted.get(group.node, 0)])
        for group in self._groups:
            if not group.is_closed:
                self._reserve_memory(group, live.share(group.node))
        self._follow(capacity, live)

    def count(self) -> int:
        """Return how many trials can run at a time now; look after the groups, now and then.

        Raises:
            ClusterError: Every node has been left out, since it cannot train.
        """
        assert self._live is not None, "settle comes first"
        self._look()
        names = {group.name for group in self._groups}
        n_refused = sum(worker.group in names for worker in self._refusals)  # each of them has ended
        return max(0, self._live.count() - n_refused)

    def n_started(self) -> int:
        """Return how many slots have their workers."""
        return len(self._ask_patiently("workers", [group.name for group in self._groups]) or ())

    def n_wanted(self) -> int:
        """Return how many slots there would be, if the cluster had room for all."""
        assert self._live is not None, "settle comes first"
        return self._live.limit

    def devices_per_slot(self) -> float:
        """Return the GPUs that a slot holds now, or the CPUs where it has no GPU: the mean where slots differ."""
        assert self._live is not None, "settle comes first"
        return self._live.devices_per_slot()

    def close(self) -> None:
        """End all workers in good order, and then the broker."""
        self._missing.drop()
        workers: dict[WorkerId, Any] | None = self._ask_patiently("workers", [group.name for group in self._groups])
        names = None if workers is None else {worker.group for worker in workers}
        self._close(self._groups)
        # Workers that have not started yet have nothing to end in order.
        ended = [group.started.ended for group in self._groups if names is None or group.name in names]
        if ended:
            ray.wait(ended, num_returns=len(ended), timeout=_CLOSE_SECONDS)
        for group in self._groups:
            self._forget(group)
        self._groups.clear()
        ray.kill(self.broker)
        shutil.rmtree(self._storage, ignore_errors=True)
        remove_orphans()

    def wait_until_idle(self) -> None:
        """Wait, for a while, until no worker has a task in hand: the files of all that have ended are stored then."""
        deadline = self._clock() + _CLOSE_SECONDS
        while self._ask_patiently("busy") != 0 and self._clock() < deadline:
            self._end_hung_workers()
            time.sleep(_POLL_SECONDS)

    def _look(self) -> None:
        """Look after groups and workers, if it is time to."""
        assert self._capacity is not None, "settle comes first"
        assert self._live is not None, "settle comes first"
        if self._clock() >= self._next_look:
            self._hear_refusals()
            self._follow(self._capacity, self._live)
            self._count_workers()
            self._end_hung_workers()
            self._orphans.remove_now_and_then()
            self._next_look = self._clock() + _LOOK_SECONDS

    def _follow(self, capacity: Capacity, live: LiveSlots) -> None:
        """Start the groups that are missing, and end those that are not wanted."""
        self._drop_ended(live)
        counts: Counts | None = self._ask_patiently("counts")
        if counts is None:
            return  # nobody knows yet what is wanted
        # Exclusive tasks come last: their workers need what all others have to give back first.
        exclusive = counts.exclusive > 0 and counts.ordinary == 0
        self._close([group for group in self._groups if not _fits(group, capacity, live, exclusive=exclusive)])
        if exclusive or any(group.is_closed for group in self._groups):
            self._missing.drop()
        if any(group.is_closed for group in self._groups):
            return  # until they have given their resources back
        if exclusive:
            self._start_exclusive(capacity, live, counts.exclusive)
        elif capacity.workers > 1:
            for _ in range(live.count() - len(self._groups)):
                assert capacity.share is not None, "workers of one trial have one share on all kinds of nodes"
                self._start(capacity.share, capacity.workers, name="workers", among=live.by_node(), together=True)
        else:
            self._start_on_nodes(live)
        if self._asks_for_more and not exclusive:
            self._ask_for_more(capacity, live)

    def _ask_for_more(self, capacity: Capacity, live: LiveSlots) -> None:
        """Ask for the slots that are missing, once all those that there are have their workers."""
        n_held = sum(1 if group.together else group.n_workers for group in self._groups)
        n_missing = live.n_missing() if self.is_short and n_held >= live.count() else 0
        smallest = capacity.shares[0]  # larger ones would bring more nodes than are needed
        self._missing.ask(n_missing, [smallest.resources] * capacity.workers, avoid=live.left_out)

    def _start_on_nodes(self, live: LiveSlots) -> None:
        n_missing = live.count() - sum(group.n_workers for group in self._groups)
        for node, n in live.by_node().items():
            n_here = min(n_missing, n - sum(group.n_workers for group in self._groups if group.node == node))
            if n_here > 0:
                self._start(live.share(node), n_here, name=live.name(node), node=node)
                n_missing -= n_here

    def _start_exclusive(self, capacity: Capacity, live: LiveSlots, n_tasks: int) -> None:
        assert capacity.exclusive is not None, "the controller asks for exclusive slots where there are some"
        share, workers, nodes = capacity.exclusive, capacity.workers, live.by_node()
        n_wanted = min(n_tasks, capacity.n_exclusive) if nodes else 0
        for _ in range(n_wanted - len(self._groups)):
            self._start(share, workers, name="exclusive", among=nodes, exclusive=True, together=workers > 1)

    def _start(
        self,
        share: Share,
        n_workers: int,
        *,
        name: str,
        node: str = "",
        among: Collection[str] = (),
        exclusive: bool = False,
        together: bool = False,
    ) -> None:
        if self._clock() < self._setbacks.get(node, Setback()).until:
            return
        self._names[name] += 1
        work = GroupWork(
            broker=self.broker,
            group=f"{name}#{self._names[name]}",
            n_threads=max(1, int(share.cpus)),
            gpus=share.gpus,
            together=together,
            exclusive=exclusive,
        )
        group = _Group(
            name=work.group,
            node=node,
            n_workers=n_workers,
            share=share,
            exclusive=exclusive,
            together=together,
            started=_start_training(work, share, n_workers, node=node, among=among, storage=str(self._storage)),
        )
        self._groups.append(group)

    def _close(self, groups: Collection[_Group]) -> None:
        """Tell workers to return; their groups are dropped once they have ended."""
        for group in groups:
            group.is_closed = True
        names = [group.name for group in self._groups if group.is_closed]
        if names:  # again and again: a broker that is started again has forgotten it
            self.broker.close.remote(names)

    def _drop_ended(self, live: LiveSlots) -> None:
        for group in [group for group in self._groups if group.has_ended]:
            self._groups.remove(group)
            self.broker.lose_group.remote(group.name)
            reason = "" if group.is_closed else group.started.why_ended() or "they returned"
            self._forget(group)
            if reason:
                self._set_back(group, reason, live)

    def _set_back(self, group: _Group, reason: str, live: LiveSlots) -> None:
        """Wait a while before another group is started where one has ended by itself."""
        if group.node and group.node not in live.by_node():
            return self._noted(f"node {live.name(group.node)} is lost; its trials go on elsewhere")
        setback = self._setbacks.setdefault(group.node, Setback())
        seconds = setback.add(self._clock())
        refusals = [reason for worker, reason in self._refusals.items() if worker.group == group.name]
        setback.why = next(iter(refusals), reason)
        if group.node and len(refusals) == group.n_workers:
            return self._leave_out(group.node, setback.why, live)
        if refusals and not group.node and setback.n >= _STARTS:  # any node may have it, so none can be left out
            raise ClusterError(f"{_STARTS} groups of workers could not train, the last because: {setback.why}.")
        lost = f"the workers of {group.name} were lost ({setback.why})"
        return self._noted(f"{lost}; others are started in {seconds:.0f} s")

    def _leave_out(self, node: str, why: str, live: LiveSlots) -> None:
        """Use a node no more.

        Raises:
            ClusterError: It was the last.
        """
        live.leave_out(node)
        self._noted(f"node {live.name(node)} is left out, since it cannot train: {why}")
        if not live.by_node():
            raise ClusterError(
                f"No node can train. The last one, {live.name(node)}, says: {why}.\nCorrect it; the same command goes "
                "on where this one stopped, and no trial has been lost."
            )

    def _forget(self, group: _Group) -> None:
        if group.reservation is not None:
            remove_placement_group(group.reservation)
        ray.kill(group.started.controller)

    def _count_workers(self) -> None:
        """Say how many workers have started, until all have."""
        n_wanted = sum(1 if group.together else group.n_workers for group in self._groups)
        if self._n_started < n_wanted:
            n_started = self.n_started()
            if n_started > self._n_started:
                self._noted(f"{n_started} of {n_wanted} workers started")
                self._n_started = n_started

    def _hear_refusals(self) -> None:
        """Say which workers take no more tasks."""
        refusals: dict[WorkerId, str] = self._ask_patiently("refusals") or {}
        for worker in sorted(refusals.keys() - self._refusals.keys()):
            self._noted(f"a worker of {worker.node} takes no more trials, since it cannot train: {refusals[worker]}")
        self._refusals |= refusals

    def _end_hung_workers(self) -> None:
        """End workers that show no sign of life; Ray Train starts others in their places."""
        for handle in self._ask_patiently("hung", self._hang_seconds) or ():
            ray.kill(handle)

    def _reserve_memory(self, group: _Group, share: Share) -> None:
        """Take the memory that was measured once the workers had started, so that no other job plans with it."""
        missing = share.memory - group.share.memory
        if missing > 0 and _same_devices(group.share, share):
            bundle = {"memory": float(missing * group.n_workers)}
            group.reservation = placement_group([bundle], bundle_label_selector=[{NODE_LABEL: group.node}])

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.broker, method).remote(*arguments), timeout=_ANSWER_SECONDS)

    def _ask_patiently(self, method: str, *arguments: Any) -> Any:
        """Return the broker's answer, or None while it is being started again."""
        try:
            return self._ask(method, *arguments)
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            return None


def _fits(group: _Group, capacity: Capacity, live: LiveSlots, *, exclusive: bool) -> bool:
    """Say whether a group is of the kind that is wanted now, with the devices that its workers are to have."""
    if group.is_closed or (group.exclusive, group.together) != (exclusive, capacity.workers > 1):
        return False  # the share on a closed one's node may not be known
    pinned = live.share(group.node) if group.node else capacity.share
    share = capacity.exclusive if exclusive else pinned
    return share is not None and _same_devices(group.share, share)


def _same_devices(one: Share, other: Share) -> bool:
    return (one.cpus, one.gpus) == (other.cpus, other.gpus)


def _start_training(
    work: GroupWork, share: Share, n_workers: int, *, node: str, among: Collection[str], storage: str
) -> Any:
    """Start a Ray Train worker group on a node, or anywhere among some; return it as a StartedGroup at once."""
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig  # takes a second: not at import

    from consilia.tune.train_internals import ApartConfig, GroupTrainer, LossNotice

    environment = {name: str(work.n_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment["RAY_task_events_report_interval_ms"] = str(TASK_EVENTS_MILLISECONDS)
    if work.together:
        from ray.train.torch import TorchConfig

        backend: Any = TorchConfig()
    else:
        backend = ApartConfig()
    place: dict[str, Any] = {"label_selector": {NODE_LABEL: f"in({','.join(sorted(among))})"}}
    if node:
        place = {"label_selector": {NODE_LABEL: node}, "placement_strategy": "STRICT_PACK"}
    trainer = GroupTrainer(
        serve,
        train_loop_config={"work": work},
        backend_config=backend,
        scaling_config=ScalingConfig(
            num_workers=n_workers, use_gpu=share.gpus > 0, resources_per_worker=share.resources, **place
        ),
        run_config=RunConfig(
            name=work.group,
            storage_path=storage,
            # Without room Ray Train would try for ever, and who started it would not learn of it.
            failure_config=FailureConfig(max_failures=_MAX_FAILURES, controller_failure_limit=0),
            callbacks=[LossNotice(work.broker, work.group)],
            worker_runtime_env={"env_vars": environment},
        ),
        node=node,
    )
    return trainer.fit()
