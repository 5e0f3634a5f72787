"""A cluster to train on: connected, its nodes known, and its slots counted."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from consilia.cluster.connection import connect
from consilia.config.study import StudyPlan
from consilia.study.steps import demanding_steps
from consilia.study.view import StudyView
from consilia.train.context import TrainingContext
from consilia.tune.capacity import Capacity, Node, describe_capacity, plan_capacity
from consilia.tune.demand import worker_demand
from consilia.tune.nodes import living_nodes, measure_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What a search, or refits, run in."""

    context: TrainingContext  # for the device of the slots
    capacity: Capacity
    nodes: Mapping[str, Node]  # before anything of them is taken


@contextmanager
def open_slots(
    plan: StudyPlan, context_on: Callable[[str], TrainingContext], view: StudyView, *, n_tasks: int
) -> Iterator[Slots]:
    """Connect to the plan's cluster for the length of a block, and measure what a slot needs.

    Args:
        plan: The study.
        context_on: Returns what its trials share, on a device of torch's or "auto".
        view: Told where to watch, and how many slots there are.
        n_tasks: More slots than tasks would stand idle.

    Raises:
        ClusterError: The cluster cannot be reached, or cannot hold a single slot.
    """
    with connect(plan.cluster) as connection:
        view.connected(dashboard=connection.dashboard, token_file=connection.token_file)
        nodes = living_nodes()
        anywhere = context_on("auto")
        demand = worker_demand(
            plan.cluster,
            [node.total for node in nodes.values()],
            measured=measure_steps(demanding_steps(plan, anywhere), plan.cluster, nodes),
            images_bytes=anywhere.store.pixels.nbytes,
        )
        capacity = plan_capacity(nodes, plan.cluster, demand=demand, n_trials=n_tasks)
        logger.info("%s", describe_capacity(capacity, demand))
        view.noted(describe_capacity(capacity, demand))
        context = context_on("cuda" if capacity.share.gpus else "cpu")
        yield Slots(context=context, capacity=capacity, nodes=nodes)
