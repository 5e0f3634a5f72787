"""One driver at a time: who holds a study at its URI is judged by signs of life, never by two clocks."""

from collections.abc import Callable

import pytest

from consilia.errors import StudyError
from consilia.study.lease import LASTS_SECONDS, Lease, LeaseLostError, beating, read_claim
from consilia.study.remote import Remote, RemoteError
from stored_objects import Objects, ObjectStore


class World:
    """A store, and seconds that pass in it and on every machine alike; `skew` sets a machine's clock apart."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.remote = Remote(ObjectStore(self.objects), "bucket/studies/own", "memory://own")
        self.notes: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None  # happens while somebody waits

    def lease(self, copy: str, *, skew: float = 0.0) -> Lease:
        return Lease(self.remote, copy, clock=lambda: self.objects.now + skew, wait=self.wait)

    def wait(self, seconds: float) -> None:
        self.objects.now += int(seconds)
        self.meanwhile()

    def take(self, copy: str, *, skew: float = 0.0) -> Lease:
        lease = self.lease(copy, skew=skew)
        lease.take(self.notes.append)
        return lease


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("skew", [0.0, -3600.0, 3600.0])
def test_a_second_driver_is_refused_while_the_first_lives_whatever_their_clocks_say(world, skew):
    first = world.take("one")
    world.meanwhile = first.beat
    with pytest.raises(StudyError, match=r"Another driver works on memory://own: process \d+ on .*stop it there"):
        world.take("two", skew=skew)
    first.beat()


def test_a_dead_driver_is_waited_for_as_long_as_a_lease_lasts_and_then_taken_over(world):
    world.take("one")
    before = world.objects.now
    second = world.take("two")
    assert LASTS_SECONDS <= world.objects.now - before <= LASTS_SECONDS + 10
    assert ["waiting for a sign of life" in world.notes[0], "is taken over" in world.notes[1]] == [True, True]
    second.beat()


def test_a_driver_that_has_long_been_dead_is_not_waited_for(world):
    world.take("one")
    before = world.objects.now = world.objects.now + 1000
    world.take("two")
    assert world.objects.now - before < 5


def test_a_driver_whose_lease_was_taken_over_finds_out_before_its_next_upload(world):
    first = world.take("one")
    world.take("two")
    for step in (first.confirm, first.beat):
        with pytest.raises(LeaseLostError, match=r"was taken over by process \d+ on"):
            step()
    holder = read_claim(world.remote)
    first.release()  # leaves alone what is another's
    assert read_claim(world.remote) == holder


def test_a_lease_that_was_let_go_is_free_at_once_and_still_says_whose_copy_is_the_newest(world):
    world.take("one").release()
    before = world.objects.now
    assert world.lease("two").take(world.notes.append) == "one"
    assert world.objects.now - before < 5


def test_a_driver_that_is_started_again_on_the_same_machine_waits_for_nobody(world):
    world.take("one")
    before = world.objects.now
    assert world.lease("one").take(world.notes.append) == "one"
    assert world.objects.now - before < 5
    assert world.notes == []


def test_of_two_drivers_that_start_together_the_last_writer_holds_the_lease(world):
    other = world.lease("two")

    def start_other() -> None:
        world.meanwhile = lambda: None
        other._write()

    world.meanwhile = start_other
    with pytest.raises(StudyError, match="Another driver works"):
        world.take("one")
    other.beat()


def test_a_block_whose_lease_is_taken_over_ends_as_by_ctrl_c_and_says_who_did_it(world):
    first = world.take("one")

    def work_on() -> None:
        with beating(first, every=0.01):
            world.take("two")
            while True:
                pass

    world.meanwhile = lambda: None
    with pytest.raises(LeaseLostError, match="was taken over"):
        work_on()


def test_a_damaged_lease_is_named(world):
    world.remote.write("lease.json", b"{")
    with pytest.raises(RemoteError, match=r"memory://own/lease\.json is damaged"):
        world.take("one")
