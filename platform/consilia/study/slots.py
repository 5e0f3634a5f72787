"""A cluster to train on: connected, its nodes known, its most demanding steps measured, and its slots counted."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from consilia.cluster.connection import connect, joins_cluster
from consilia.config.network import Preprocessing
from consilia.config.space import Choice, Hyperparameters, Value
from consilia.config.study import StudyPlan
from consilia.errors import ClusterError, ConsiliaError
from consilia.study.opened import OpenStudy
from consilia.study.spaces import check_spaces
from consilia.train.context import TrainingContext
from consilia.train.step_case import StepCase, StepMemory
from consilia.tune.capacity import (
    Capacity,
    Kind,
    Node,
    Share,
    describe_capacity,
    describe_share,
    first_demand,
    plan_capacity,
    share_of,
)
from consilia.tune.demand import Demand, needs_measuring, worker_demand
from consilia.tune.live import LiveSlots
from consilia.tune.measuring import largest_network, measure_steps
from consilia.tune.nodes import LateKinds, ask_workers, living_nodes, wait_for_gpus
from consilia.tune.space import Range
from consilia.tune.worker_groups import WorkerGroups

_MORE_IS_LARGER = ("image_size", "drop_path", "head_dropout", "mixup", "augmentation")  # memory grows with these


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What a search, or refits, run in."""

    context: TrainingContext  # for the device of the slots
    capacity: Capacity
    groups: WorkerGroups
    largest_network: int  # bytes of the weights of the study's largest network


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Workers that are starting, with what is known before a step is measured."""

    nodes: Mapping[str, Node]  # before anything of them was taken
    groups: WorkerGroups
    share: Share  # of each worker
    n_tasks: int


class LazySlots:
    """A study's slots for the length of a block: workers that start early, are measured once, and serve refits too.

    Args:
        study: Its view is told where to watch, and how many slots there are.
    """

    def __init__(self, study: OpenStudy) -> None:
        self._study = study
        self._stack = ExitStack()
        self._start: _Start | None = None
        self._slots: Slots | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def close(self) -> None:
        """End them before the block does."""
        self._stack.close()
        self._start = self._slots = None

    def begin(self, *, n_tasks: int) -> None:
        """Connect to the study's cluster and let its workers start; nobody waits for them yet.

        Args:
            n_tasks: More slots than tasks would stand idle.

        Raises:
            ClusterError: The cluster cannot be reached, or cannot hold a single slot.
        """
        study, profile = self._study, self._study.plan.cluster
        study.note("connecting to Ray" if joins_cluster(profile) else "starting Ray")
        connection = self._stack.enter_context(connect(profile))
        study.view.connected(dashboard=connection.dashboard, token_file=connection.token_file)
        wait_for_gpus(profile, study.note)
        nodes = living_nodes()
        if joins_cluster(profile) and profile.gpus == profile.gpus_per_slot == "auto" and not _has_gpus(nodes):
            study.note("no node has a GPU, so trials train on CPUs; cluster.gpus=required would wait for a GPU")
        alone = profile.model_copy(update={"workers_per_trial": 1})
        n_workers = n_tasks if profile.workers_per_trial == 1 else 1  # those that train together start once measured
        first = plan_capacity(nodes, alone, demand=first_demand(profile, nodes), n_trials=n_workers)
        groups = self._stack.enter_context(WorkerGroups(hang_seconds=profile.hang_seconds, noted=study.note))
        groups.settle(first, LiveSlots(first, living_nodes, limit=first.n_slots, seen=nodes))
        study.note(f"starting {first.n_slots} worker{'s' if first.n_slots > 1 else ''}")
        self._start = _Start(nodes=nodes, groups=groups, share=first.shares[0], n_tasks=n_tasks)

    def open(self, *, n_tasks: int) -> Slots:
        """Return the slots: networks checked and steps measured by a worker, once.

        Args:
            n_tasks: As of `begin`, where that has not been called.

        Raises:
            PlanError: A network of the study cannot be built, or refuses an image size.
            ClusterError: As of `begin`, or a step does not fit.
        """
        if self._slots is None:
            if self._start is None:
                self.begin(n_tasks=n_tasks)
            assert self._start is not None, "just begun"
            self._slots = self._measure(self._start)
        return self._slots

    def _measure(self, start: _Start) -> Slots:
        study, profile = self._study, self._study.plan.cluster
        device = "cuda" if start.share.gpus else "cpu"
        look = partial(_examine, study.plan, largest_steps(study), device if needs_measuring(profile) else "")
        answers = ask_workers(start.groups, start.nodes, look)
        findings = {kind: answer for kind, answer in answers.items() if isinstance(answer, _Findings)}
        errors = {kind: answer for kind, answer in answers.items() if isinstance(answer, ClusterError)}
        if needs_measuring(profile) and profile.workers_per_trial == 1:
            demands = self._demands(start, findings, errors)
            capacity = plan_capacity(start.nodes, profile, measured=demands, n_trials=start.n_tasks)
        else:  # one share on all kinds of nodes
            for error in errors.values():
                raise error
            demand = self._demand(start.nodes.values(), *findings.values())
            demands = dict.fromkeys(findings, demand)
            capacity = plan_capacity(start.nodes, profile, demand=demand, n_trials=start.n_tasks)
        study.note(describe_capacity(capacity, demands))
        late = LateKinds(start.share, look, self._late_share, left_out=errors, noted=study.note)
        live = LiveSlots(capacity, living_nodes, limit=start.n_tasks, seen=start.nodes, measure=late)
        start.groups.settle(capacity, live, asks_for_more=joins_cluster(profile))
        return Slots(
            context=study.training_context("cuda" if start.share.gpus else "cpu"),
            capacity=capacity,
            groups=start.groups,
            largest_network=next(iter(findings.values())).largest_network,
        )

    def _demands(
        self, start: _Start, findings: Mapping[Kind, "_Findings"], errors: dict[Kind, ClusterError]
    ) -> dict[Kind, Demand]:
        """Return what a worker needs on each kind of node; kinds that cannot train are added to the errors."""
        demands = {}
        for kind, found in findings.items():
            try:
                demands[kind] = self._demand([node for node in start.nodes.values() if node.kind == kind], found)
            except ClusterError as error:
                errors[kind] = error
        for kind, refusal in errors.items():
            if not demands:
                raise refusal
            self._study.note(f"nodes with {kind} are left out: {str(refusal).partition(chr(10))[0]}")
        return demands

    def _demand(self, nodes: Iterable[Node], *findings: "_Findings") -> Demand:
        return worker_demand(
            self._study.plan.cluster,
            [node.total for node in nodes],
            measured=[step for each in findings for step in each.steps],
            images_bytes=self._study.store.pixels.nbytes,
        )

    def _late_share(self, node: Node, found: "_Findings") -> Share:
        """Return each worker's share on a node whose kind has joined late."""
        demand = self._demand([node], found)
        share = share_of(demand, self._study.plan.cluster)
        self._study.note(f"on nodes with {node.kind} slots of {describe_share(share, demand)}")
        return share


def _has_gpus(nodes: Mapping[str, Node]) -> bool:
    return any(node.total.get("GPU", 0) for node in nodes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """What a worker has seen of a study's networks."""

    steps: tuple[StepMemory, ...]
    largest_network: int  # bytes


def _examine(plan: StudyPlan, cases: Sequence[StepCase], device: str, worker: object) -> _Findings | ConsiliaError:
    """Check the plan's networks in a worker, which has imported timm already, and measure their steps on the device.

    Without a device nothing is measured.
    """
    try:
        check_spaces(plan)
        steps = measure_steps(cases, device_name=device) if device else ()
    except ConsiliaError as error:
        return error
    return _Findings(steps=steps, largest_network=largest_network(cases))


def largest_steps(study: OpenStudy) -> tuple[StepCase, ...]:
    """Return the training step of each architecture of the study at the largest image size that its space allows."""
    context = study.training_context("auto")
    configuration = study.plan.search.configuration
    names = list(study.space.architectures) if configuration is None else [configuration.architecture]
    return tuple(_largest_step(study, context, name) for name in names)


def _largest_step(study: OpenStudy, context: TrainingContext, architecture: str) -> StepCase:
    plan = study.plan

    def choose(name: str, range_: Range) -> Value:
        if name == "architecture":
            return architecture
        return _largest(range_) if name in _MORE_IS_LARGER else range_.default

    drawn = Hyperparameters.model_validate(study.space.draw(choose))
    size = largest_image_size(study, architecture)
    hyperparameters = drawn.model_copy(update={"image_size": size})
    spec = context.model_spec(hyperparameters)
    return StepCase(
        hyperparameters=hyperparameters,
        spec=spec,
        preprocessing=Preprocessing(
            size=study.store.manifest.size,
            channels=spec.channels,
            image_size=size,
            mean=(0.5,) * spec.channels,
            std=(0.25,) * spec.channels,
        ),
        batch_size=max(2, -(-plan.training.batch_size // plan.cluster.workers_per_trial)),
        n_workers=plan.cluster.workers_per_trial,
        precision=plan.training.precision,
    )


def largest_image_size(study: OpenStudy, architecture: str) -> int:
    """Return the largest image size that a trial of this architecture may have, pixels."""
    range_ = study.space.families[architecture].get("image_size")
    if range_ is None or architecture not in range_.when.get("architecture", (architecture,)):
        return study.plan.image_size
    largest = int(_largest(range_))
    return max(largest, study.plan.image_size) if range_.when else largest


def _largest(range_: Range) -> Value:
    return max(range_.values, key=float) if isinstance(range_, Choice) else range_.high
