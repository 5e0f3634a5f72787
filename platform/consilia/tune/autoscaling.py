"""Slots that are wanted and not there: placement groups wait for them, since that is what Ray's autoscaler looks at."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from consilia.tune.ray_internals import NODE_LABEL

Bundles = Sequence[Mapping[str, float]]

_QUIET_SECONDS = 10.0  # LiveSlots sees new room within two, and a worker group takes it within a few more


class MissingSlots:
    """Keeps a placement group waiting for each missing slot; none ever holds what a worker group needs.

    One that Ray has placed has found room, and that is for a worker group: all of them are removed then, and asked for
    again once that group has had the time to take it. One group a slot, and not one for all, since an autoscaler
    brings either all of a group or nothing.

    Args:
        make: Asks Ray for a placement group; given the bundles of a slot, and ids of nodes that must not have it.
        is_placed: Says whether Ray has found room for it.
        remove: Takes it back.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        make: Callable[[Bundles, Collection[str]], Any] | None = None,
        is_placed: Callable[[Any], bool] | None = None,
        remove: Callable[[Any], None] = remove_placement_group,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._is_placed, self._remove = make or ask_for, is_placed or is_placed_now, remove
        self._clock = clock
        self._waiting: list[Any] = []
        self._asked: tuple[Bundles, Collection[str]] = ((), ())  # for each of them
        self._quiet_until = clock()

    def ask(self, n: int, slot: Bundles, *, avoid: Collection[str] = ()) -> None:
        """Ask for `n` more slots, for now; to be called again and again.

        Args:
            n: Slots.
            slot: What each takes: a bundle for each of its workers.
            avoid: Ids of nodes that must not have it.
        """
        if (slot, avoid) != self._asked:
            self._keep(0)
            self._asked = (slot, avoid)
        if any(self._is_placed(each) for each in self._waiting):
            return self.drop()
        if self._clock() >= self._quiet_until:
            self._keep(n)
        return None

    def drop(self) -> None:
        """Leave all room to worker groups for a while."""
        self._keep(0)
        self._quiet_until = self._clock() + _QUIET_SECONDS

    def _keep(self, n: int) -> None:
        for each in self._waiting[n:]:
            self._remove(each)
        del self._waiting[n:]
        self._waiting += [self._make(*self._asked) for _ in range(n - len(self._waiting))]


def ask_for(bundles: Bundles, avoid: Collection[str] = ()) -> Any:
    """Ask Ray for a placement group, and do not wait for it."""
    # Ray takes no empty list of nodes.
    selectors = [{NODE_LABEL: f"!in({','.join(sorted(avoid))})"}] * len(bundles) if avoid else None
    return placement_group([dict(each) for each in bundles], bundle_label_selector=selectors)


def is_placed_now(group: Any) -> bool:
    """Say whether Ray has found room for a placement group."""
    table: Mapping[str, Any] = placement_group_table(group)
    return table.get("state") == "CREATED"
