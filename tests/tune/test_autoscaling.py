"""Missing slots are asked for where Ray's autoscaler sees it, and what is asked for keeps no worker group waiting."""

from collections.abc import Collection
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from consilia.tune.autoscaling import Bundles, MissingSlots

SLOT = ({"CPU": 1.0, "GPU": 1.0},)
QUIET = 10.0


@dataclass(eq=False)
class Group:
    """A placement group."""

    bundles: Bundles
    avoid: Collection[str]
    is_placed: bool = False


@dataclass
class FakeRay:
    """Holds placement groups, finds room for some when a test says so, and has a clock."""

    groups: list[Group] = field(default_factory=list)
    now: float = 0.0

    def missing(self) -> MissingSlots:
        return MissingSlots(
            make=self._make, is_placed=lambda group: group.is_placed, remove=self.groups.remove, clock=lambda: self.now
        )

    def find_room(self, n: int) -> None:
        for group in self.groups[-n:]:
            group.is_placed = True

    def _make(self, bundles: Bundles, avoid: Collection[str]) -> Group:
        self.groups.append(group := Group(bundles, avoid))
        return group


def test_as_many_slots_wait_as_are_missing():
    ray = FakeRay()
    missing = ray.missing()
    for n in (3, 5, 5, 2, 0, 1):
        missing.ask(n, SLOT)
        assert [group.bundles for group in ray.groups] == [SLOT] * n


def test_once_ray_has_found_room_all_of_it_is_left_to_worker_groups_for_a_while():
    ray = FakeRay()
    missing = ray.missing()
    missing.ask(4, SLOT)
    ray.find_room(2)
    missing.ask(4, SLOT)
    assert ray.groups == []  # else the two that wait would take the room that the others give back
    ray.now += QUIET - 0.1
    missing.ask(2, SLOT)
    assert ray.groups == []
    ray.now += 0.1
    missing.ask(2, SLOT)
    assert len(ray.groups) == 2


def test_what_was_asked_for_with_another_size_or_other_nodes_is_asked_for_anew():
    ray = FakeRay()
    missing = ray.missing()
    missing.ask(2, SLOT)
    for slot, avoid in ((SLOT * 2, ()), (SLOT * 2, {"bad"})):
        missing.ask(2, slot, avoid=avoid)
        assert [(group.bundles, group.avoid) for group in ray.groups] == [(slot, avoid)] * 2


def test_nothing_is_asked_for_after_a_drop_until_a_while_has_passed():
    ray = FakeRay()
    missing = ray.missing()
    missing.ask(2, SLOT)
    missing.drop()
    assert ray.groups == []
    missing.ask(2, SLOT)
    assert ray.groups == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 20)), max_size=20))
def test_no_room_is_held_beyond_the_next_look(steps: list[tuple[int, int, float]]):
    ray = FakeRay()
    missing = ray.missing()
    for n_missing, n_rooms, seconds in steps:
        missing.ask(n_missing, SLOT)
        assert len(ray.groups) <= n_missing
        assert not any(group.is_placed for group in ray.groups)
        if n_rooms:
            ray.find_room(n_rooms)
        ray.now += seconds
