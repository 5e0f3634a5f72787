"""The count of slots follows the nodes that live."""

from capacity_records import cluster, node
from hypothesis import given
from hypothesis import strategies as st

from consilia.tune.capacity import Capacity, Node, Share
from consilia.tune.live import LiveSlots


class Cluster:
    """Nodes that a test adds and removes, and a clock that it moves."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = cluster(*nodes)
        self.now = 1000.0
        self.n_asked = 0

    def __call__(self) -> dict[str, Node]:
        self.n_asked += 1
        return dict(self.nodes)

    def live(self, *, workers: int = 1, limit: int = 100) -> LiveSlots:
        share = Share(cpus=1, gpus=0, memory=0)
        capacity = Capacity(n_slots=1, workers=workers, share=share, exclusive=None)
        return LiveSlots(capacity, self, limit=limit, seen=dict(self.nodes), clock=lambda: self.now, poll_seconds=2)

    def wait(self) -> None:
        self.now += 2


def test_a_node_that_appears_adds_its_slots_and_one_that_is_lost_takes_them_away():
    there = Cluster(node(cpus=4))
    live = there.live()
    assert live.count() == 4
    there.nodes["new"] = node(cpus=3, busy_cpus=1)
    there.wait()
    assert live.count() == 6
    del there.nodes["id0"]
    there.wait()
    assert live.count() == 2


def test_slots_of_our_own_on_a_node_do_not_lower_its_count():
    there = Cluster(node(cpus=4))
    live = there.live()
    there.nodes["id0"] = node(cpus=4, busy_cpus=4)
    there.wait()
    assert live.count() == 4


def test_a_node_that_comes_back_has_the_places_that_it_had():
    there = Cluster(node(cpus=4), node(cpus=2))
    live = there.live()
    gone = there.nodes.pop("id0")
    there.wait()
    assert live.count() == 2
    there.nodes["id0"] = Node(name=gone.name, free={"CPU": 0}, total=gone.total)
    there.wait()
    assert live.count() == 6


def test_a_cluster_that_has_lost_all_nodes_holds_no_slot():
    there = Cluster(node(cpus=4))
    live = there.live()
    there.nodes.clear()
    there.wait()
    assert live.count() == 0


def test_places_of_several_nodes_make_up_a_slot_of_several_workers():
    there = Cluster(node(cpus=1))
    live = there.live(workers=2)
    assert live.count() == 0
    there.nodes["new"] = node(cpus=3)
    there.wait()
    assert live.count() == 2


def test_each_living_node_holds_its_own_workers_whatever_the_limit_is():
    there = Cluster(node(cpus=4), node(cpus=2))
    live = there.live(limit=3)
    assert live.by_node() == {"id0": 4, "id1": 2}
    del there.nodes["id0"]
    there.nodes["full"] = node(cpus=1, busy_cpus=1)
    there.nodes["new"] = node(cpus=1)
    there.wait()
    assert live.by_node() == {"id1": 2, "new": 1}


def test_a_node_has_its_name_even_when_it_is_lost():
    there = Cluster(node(name="10.0.0.1"))
    live = there.live()
    del there.nodes["id0"]
    there.nodes["new"] = node(name="10.0.0.2")
    there.wait()
    assert list(live.by_node()) == ["new"]
    assert [live.name("id0"), live.name("new")] == ["10.0.0.1", "10.0.0.2"]


def test_no_more_slots_than_are_wanted():
    assert Cluster(node(cpus=8)).live(limit=3).count() == 3


def test_the_cluster_is_asked_no_more_often_than_every_other_second():
    there = Cluster(node())
    live = there.live()
    for _ in range(8):
        there.now += 0.5
        live.count()
    assert there.n_asked == 2


def test_a_new_node_counts_once_its_room_is_seen_although_a_waiting_slot_had_taken_it_first():
    there = Cluster(node(cpus=1))
    live = there.live()
    there.nodes["new"] = node(cpus=1, busy_cpus=1)
    there.wait()
    assert live.count() == 1
    there.nodes["new"] = node(cpus=1)  # the slot was given up
    there.wait()
    assert live.count() == 2


SMALL, LARGE = (Share(cpus=2, gpus=gpus, memory=0) for gpus in (0.25, 1.0))


def test_a_node_of_another_kind_counts_once_its_share_is_known_and_is_measured_only_while_slots_are_missing():
    first, late = node(gpus=1, model="H100"), node(gpus=4, model="T4", name="10.0.0.2")
    there, known, asked = Cluster(first), {}, []

    def measure(key: str, node: Node) -> Share | None:
        asked.append((key, node.name))
        return known.get(key)

    def counts(limit: int) -> LiveSlots:
        capacity = Capacity(n_slots=4, workers=1, share=None, exclusive=None, measured={first.kind: SMALL})
        clock = lambda: there.now  # noqa: E731
        return LiveSlots(capacity, there, limit=limit, seen=dict(there.nodes), measure=measure, clock=clock)

    full, live = counts(4), counts(6)
    there.nodes["new"] = late
    there.wait()
    assert (full.count(), asked) == (4, [])
    assert (live.count(), live.n_missing(), asked) == (4, 2, [("new", "10.0.0.2")])
    assert live.devices_per_slot() == 0.25
    known["new"] = LARGE
    there.wait()
    assert (live.count(), live.n_missing()) == (6, 0)
    assert live.by_node() == {"id0": 4, "new": 4}
    assert (live.share("id0"), live.share("new")) == (SMALL, LARGE)
    assert live.devices_per_slot() == (4 * 0.25 + 2 * 1) / 6  # only six are wanted


def test_a_slot_of_several_workers_holds_the_devices_of_all_of_them():
    there = Cluster(node(cpus=8))
    assert there.live(workers=3).devices_per_slot() == 3
    there.nodes.clear()
    assert there.live(workers=3).devices_per_slot() == 3


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=20))
def test_the_count_is_the_sum_of_the_most_that_each_living_node_ever_had(events: list[tuple[str, int]]):
    there = Cluster(node(cpus=1))
    live, most = there.live(), {"id0": 1}
    for name, cpus in events:  # a node comes if it was away, and goes if it was there
        if there.nodes.pop(name, None) is None:
            there.nodes[name] = node(cpus=cpus)
            most[name] = max(most.get(name, 0), cpus)
        there.wait()
        assert live.count() == sum(most[each] for each in there.nodes)
