"""A cluster to train on: connected, its nodes known, its most demanding steps measured, and its slots counted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from consilia.cluster.connection import connect
from consilia.config.network import Preprocessing
from consilia.config.space import Choice, Hyperparameters, Value
from consilia.study.opened import OpenStudy
from consilia.train.context import TrainingContext
from consilia.train.memory_probe import StepCase, estimate_step
from consilia.tune.capacity import Capacity, Node, describe_capacity, plan_capacity
from consilia.tune.demand import worker_demand
from consilia.tune.nodes import living_nodes, measure_steps
from consilia.tune.space import Range

_MORE_IS_LARGER = ("image_size", "drop_path", "head_dropout", "mixup", "augmentation")  # memory grows with these
_MEASURED = 3  # steps at most
_NEAR = 0.5  # of the largest estimate; on a CPU, estimates are right within about a tenth


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What a search, or refits, run in."""

    context: TrainingContext  # for the device of the slots
    capacity: Capacity
    nodes: Mapping[str, Node]  # before anything of them is taken


@contextmanager
def open_slots(study: OpenStudy, *, n_tasks: int) -> Iterator[Slots]:
    """Connect to the study's cluster for the length of a block, and measure what a slot needs.

    Args:
        study: Its view is told where to watch, and how many slots there are.
        n_tasks: More slots than tasks would stand idle.

    Raises:
        ClusterError: The cluster cannot be reached, or cannot hold a single slot.
    """
    profile = study.plan.cluster
    with connect(profile) as connection:
        study.view.connected(dashboard=connection.dashboard, token_file=connection.token_file)
        nodes = living_nodes()
        demand = worker_demand(
            profile,
            [node.total for node in nodes.values()],
            measured=measure_steps(demanding_steps(study), profile, nodes),
            images_bytes=study.store.pixels.nbytes,
        )
        capacity = plan_capacity(nodes, profile, demand=demand, n_trials=n_tasks)
        study.note(describe_capacity(capacity, demand))
        context = study.training_context("cuda" if capacity.share.gpus else "cpu")
        yield Slots(context=context, capacity=capacity, nodes=nodes)


def demanding_steps(study: OpenStudy) -> tuple[StepCase, ...]:
    """Return the training steps that may take most memory, in ascending order of their estimates.

    Each architecture of the study has one, at the largest image size that its space allows. At most three are
    returned: those whose estimate (`train.memory_probe.estimate_step`) is at least half of the largest one.
    """
    context = study.training_context("auto")
    cases = [_largest_step(study, context, name) for name in study.space.architectures]
    ranked = sorted(((estimate_step(case), case) for case in cases), key=lambda pair: pair[0])
    enough = _NEAR * ranked[-1][0]
    return tuple(case for estimate, case in ranked[-_MEASURED:] if estimate >= enough)


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
