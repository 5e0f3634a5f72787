"""What a search needs of Ray and Ray does not promise to keep; pyproject.toml therefore bounds Ray's version.

`tests/tune/test_internals.py` names each use and fails by that name where a new version has moved it. Two more uses lie
in `consilia.cluster.connection`, below which this module cannot be: the private arguments of `ray.init`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined] # a generated module
from ray.util.placement_group import PlacementGroup

NODE_LABEL = "ray.io/node-id"  # Ray gives it to every node


def free_resources() -> Mapping[str, Mapping[str, float]]:
    """Return what is free on each living node of the connected cluster, by the node's id.

    The public `ray.available_resources` only has the sum over all nodes. A node that has not reported yet is missing.
    """
    free: Mapping[str, Mapping[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call] # Ray's
    return free


def abandoned_placement_groups() -> list[PlacementGroup]:
    """Return this job's placement groups whose creator, an actor, is dead.

    The public `placement_group_table` does not say who made a group.
    """
    job = ray.get_runtime_context().get_job_id()
    accessor = state._connect_and_get_accessor()
    groups = [PlacementGroupTableData.FromString(each) for each in accessor.get_placement_group_table()]
    return [
        PlacementGroup(ray.PlacementGroupID(group.placement_group_id))
        for group in groups
        if group.creator_actor_dead
        and not ray.ActorID(group.creator_actor_id).is_nil()  # those of the driver are Tune's
        and group.creator_job_id.hex() == job
        and group.state != PlacementGroupTableData.REMOVED
        and not group.is_detached
    ]


def call_in_actor(actor: Any, function: Callable[[Any], Any]) -> Any:
    """Call a function in an actor's process, and return the reference to its result.

    Ray Train's workers have no method of ours to ask whether they live; `__ray_call__` is a developer's interface.
    """
    return actor.__ray_call__.remote(function)
