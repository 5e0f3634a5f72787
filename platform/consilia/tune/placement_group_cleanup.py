"""Placement groups that outlived the process which made them: Ray keeps them, and their CPUs, until the job ends.

Ray Train looks after those of worker groups that have started, by way of the dashboard. One whose controller died while
it was still waiting for its resources is left behind; a slot that is lost at its start leaves one.
"""

import time
from collections.abc import Callable

from ray.util.placement_group import remove_placement_group

from consilia.tune.ray_internals import abandoned_placement_groups


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
    orphans = abandoned_placement_groups()
    for group in orphans:
        remove_placement_group(group)
    return len(orphans)
