"""Placement groups that outlived the process which made them: Ray keeps them, and their CPUs, until the job ends.

Ray Train looks after those of worker groups that have started, by way of the dashboard. One whose controller died while
it was still waiting for its resources is kept by nobody; a slot that is lost at its start leaves such a one behind.
"""

import time
from collections.abc import Callable

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined] # a generated module
from ray.util.placement_group import PlacementGroup, remove_placement_group


class Orphans:
    """Removes them, now and then.

    Args:
        seconds: Between two looks.
    """

    def __init__(self, *, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last = clock()

    def remove_now_and_then(self) -> None:
        """Remove this job's, if it is time to look."""
        if self._clock() - self._last < self._seconds:
            return
        self._last = self._clock()
        remove_orphans()


def remove_orphans() -> int:
    """Remove this job's placement groups whose creator is dead, and return how many there were."""
    job = ray.get_runtime_context().get_job_id()
    # The public table does not say who made a group.
    accessor = state._connect_and_get_accessor()
    groups = [PlacementGroupTableData.FromString(each) for each in accessor.get_placement_group_table()]
    orphans = [
        group
        for group in groups
        if group.creator_actor_dead
        and not ray.ActorID(group.creator_actor_id).is_nil()  # those of the driver are Tune's
        and group.creator_job_id.hex() == job
        and group.state != PlacementGroupTableData.REMOVED
        and not group.is_detached
    ]
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return len(orphans)
