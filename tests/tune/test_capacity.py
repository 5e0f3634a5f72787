"""Slots are computed, never more than can be scheduled, and a study that never can be is refused with the numbers."""

import pytest
from capacity_records import GB, cluster, node, step
from hypothesis import given
from hypothesis import strategies as st

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.tune.capacity import (
    Capacity,
    Node,
    Share,
    describe_capacity,
    first_demand,
    most_slots,
    places,
    plan_capacity,
)
from consilia.tune.demand import Demand, worker_demand


def plan(
    nodes: dict[str, Node], *, gpus: float = 0, memory: float = 0, n_trials: int = 100, **profile: object
) -> Capacity:
    demand = Demand(gpus=gpus, memory=int(memory * GB))
    return plan_capacity(nodes, ClusterProfile.model_validate(profile), demand=demand, n_trials=n_trials)


def n_slots(*nodes: Node, **arguments: object) -> int:
    return plan(cluster(*nodes), **arguments).n_slots


def test_every_cpu_is_a_slot_on_a_machine_without_gpus():
    assert n_slots(node(cpus=2)) == 2


def test_a_gpu_a_slot_where_trials_need_whole_gpus():
    assert n_slots(node(cpus=32, gpus=4), gpus=1) == 4


def test_a_worker_does_not_span_nodes():
    assert n_slots(node(cpus=3), node(cpus=3), cpus_per_slot=2) == 2


def test_fractions_of_a_gpu_pack_trials():
    assert n_slots(node(cpus=8, gpus=1), gpus=0.1) == 8  # bounded by the CPUs
    assert n_slots(node(cpus=16, gpus=1), gpus=0.1) == 10  # 1 / 0.1 is not 10 in binary


def test_a_fraction_lies_on_one_gpu():
    assert n_slots(node(gpus=2), gpus=0.6) == 2  # 2 / 0.6 is 3, but the third would lie on both
    assert n_slots(node(gpus=2, busy_gpus=0.4), gpus=0.6) == 2
    assert n_slots(node(gpus=2, busy_gpus=0.6), gpus=0.6) == 1


def test_host_memory_bounds_the_slots_of_a_node():
    assert n_slots(node(cpus=8, memory=16), memory=5) == 3
    assert n_slots(node(cpus=8, memory=16, busy_memory=4), node(cpus=1, memory=16), memory=5) == 3


def test_exactly_as_much_memory_as_the_node_has_leaves_room_for_what_slots_reserve_themselves():
    capacity = plan(cluster(node(cpus=8, memory=20)), memory=10)
    assert capacity.n_slots == 2
    assert 2 * capacity.share.resources["memory"] + capacity.n_slots < 20 * GB


def test_the_workers_of_a_slot_may_lie_on_several_nodes():
    assert n_slots(node(cpus=3), node(cpus=3), node(cpus=1), workers_per_trial=2) == 3
    assert plan(cluster(node(gpus=1), node(gpus=1)), gpus=1, workers_per_trial=2).workers == 2


def test_no_more_slots_than_trials_or_than_the_profile_allows():
    assert n_slots(node(cpus=8), n_trials=3) == 3
    assert n_slots(node(cpus=8), max_slots=2) == 2


H100 = node(cpus=128, gpus=8, memory=1000, model="H100")
T4 = node(cpus=48, gpus=4, memory=180, model="T4")
STEPS = {  # what the same step was measured to take; all GB
    "H100": step(device=10, of=80, context=1, host=3),
    "T4": step(device=10, of=16, context=1, host=3),
    "": step(host=3),
}
WORKER = 3.7  # GB of main memory: 1.1 x 3 + 0.4


@pytest.mark.parametrize(
    ("nodes", "cpus_per_slot", "expected", "n_slots"),
    [
        # A GPU has memory for 80 / (1.2 x 10 + 1) = 6 trials, and CPUs for 128 / (8 x 4) = 4: 4 on each of 8.
        pytest.param([H100], 4, {"H100": (0.25, WORKER)}, 32, id="8 H100 alone"),
        # With CPUs to spare memory decides: 6 on each of 8.
        pytest.param([H100], 2, {"H100": (0.1666, WORKER)}, 48, id="8 H100 alone, more CPUs a GPU"),
        # A T4 holds 16 / 13 = 1. The H100s hold what they held: 32 and 4.
        pytest.param([H100, T4], 4, {"H100": (0.25, WORKER), "T4": (1, WORKER)}, 36, id="8 H100 with 4 T4"),
        # The first node counts for nothing, neither for slots nor for shares.
        pytest.param([node(cpus=0, memory=30), H100], 4, {"H100": (0.25, WORKER)}, 32, id="head without CPUs"),
        # CPUs allow 64 / 4 = 16, main memory 256 / 3.7 = 69.
        pytest.param([node(cpus=64, memory=256)], 4, {"": (0, WORKER)}, 16, id="64 CPUs without GPU"),
        # Main memory allows 100 / 3.7 = 27, CPUs 64.
        pytest.param([node(cpus=64, memory=100)], 1, {"": (0, WORKER)}, 27, id="64 CPUs, little memory"),
        # CPUs beside GPUs train nothing: a trial there would take a hundred times as long.
        pytest.param([H100, node(cpus=64, memory=256)], 4, {"H100": (0.25, WORKER)}, 32, id="8 H100 with 64 CPUs"),
    ],
)
def test_each_kind_of_node_has_a_share_of_its_own(
    nodes: list[Node], cpus_per_slot: float, expected: dict[str, tuple[float, float]], n_slots: int
):
    profile = ClusterProfile(cpus_per_slot=cpus_per_slot)
    demands = {
        each.kind: worker_demand(profile, [each.total], measured=[STEPS[each.kind.gpu]], images_bytes=0)
        for each in nodes
        if each.kind.gpu in expected
    }
    capacity = plan_capacity(cluster(*nodes), profile, measured=demands, n_trials=1000)
    assert capacity.n_slots == n_slots
    assert {kind.gpu: (share.gpus, share.memory / GB) for kind, share in capacity.measured.items()} == expected
    assert {share.cpus for share in capacity.measured.values()} == {cpus_per_slot}


def test_nodes_of_a_kind_differ_neither_in_gpus_nor_in_cpus_and_hardly_in_memory():
    assert node(cpus=8, memory=60.1).kind == node(cpus=8, memory=60.9, busy_cpus=3, name="10.0.0.2").kind
    others = [H100, T4, node(gpus=8, cpus=128, memory=1000), node(), node(cpus=4), node(memory=60)]
    assert len({each.kind for each in others}) == len(others)
    assert [str(each.kind) for each in others[:4]] == ["8 H100", "4 T4", "8 GPU", "8 CPU"]


def test_an_exclusive_slot_has_more_than_any_other_has_on_any_kind_of_node():
    demands = {H100.kind: Demand(gpus=0.25, memory=4 * GB), T4.kind: Demand(gpus=1, memory=5 * GB)}
    capacity = plan_capacity(cluster(H100, T4), ClusterProfile(), measured=demands, n_trials=100)
    assert (capacity.exclusive, capacity.n_exclusive) == (Share(cpus=1, gpus=1, memory=10 * GB), 12)
    del demands[T4.kind]  # a step does not fit there
    assert plan_capacity(cluster(H100, T4), ClusterProfile(), measured=demands, n_trials=100).n_exclusive == 8


def test_ray_is_asked_for_what_a_worker_takes_and_for_nothing_else():
    assert Share(cpus=2, gpus=0.5, memory=0).resources == {"CPU": 2, "GPU": 0.5}
    assert Share(cpus=2, gpus=0, memory=3 * GB).resources == {"CPU": 2, "memory": 3 * GB - 2**20}


amounts = st.fixed_dictionaries(
    {
        "CPU": st.integers(0, 8).map(float),
        "GPU": st.integers(0, 3).map(float),
        "memory": st.integers(0, 12).map(lambda gigabytes: float(gigabytes * GB)),
    }
)
shares = st.builds(
    Share,
    cpus=st.sampled_from([0.5, 1.0, 3.0]),
    gpus=st.sampled_from([0.0, 0.1, 0.25, 0.3333, 0.4, 0.6, 1.0, 2.0]),
    memory=st.sampled_from([0, GB, 3 * GB]),
)


def packed_by_hand(resources: dict[str, float], share: Share) -> int:
    """Place one worker after the other on the first GPU with room; since all are equal, no order does better."""
    cpus, memory = round(resources["CPU"] * 10), resources["memory"]
    gpus = [10_000] * int(resources["GPU"])
    need = round(share.gpus * 10_000)
    n = 0
    while cpus >= round(share.cpus * 10) and memory >= share.memory:
        taken = 0
        for index, free in enumerate(gpus):
            part = min(need - taken, free)
            if part == min(need, 10_000):  # a fraction from one GPU, or whole ones
                gpus[index] -= part
                taken += part
        if taken < need:
            return n
        cpus, memory, n = cpus - round(share.cpus * 10), memory - share.memory, n + 1
    return n


@given(resources=amounts, share=shares)
def test_a_node_holds_exactly_as_many_workers_as_can_be_placed_one_after_the_other(
    resources: dict[str, float], share: Share
):
    assert places(resources, share) == packed_by_hand(resources, share)


@given(nodes=st.lists(amounts, min_size=1, max_size=4), more=amounts, share=shares, workers=st.integers(1, 3))
def test_another_node_never_lowers_the_number_of_slots(
    nodes: list[dict[str, float]], more: dict[str, float], share: Share, workers: int
):
    if workers > 1 and 0 < share.gpus < 1:
        return
    before = _count_or_zero(nodes, share, workers)
    after = _count_or_zero([*nodes, more], share, workers)
    assert before <= after <= before + (places(more, share) + workers - 1) // workers


def _count_or_zero(nodes: list[dict[str, float]], share: Share, workers: int) -> int:
    profile = ClusterProfile(cpus_per_slot=share.cpus, workers_per_trial=workers)
    known = cluster(*(Node(name="n", free=each, total=each) for each in nodes))
    try:
        return plan_capacity(known, profile, demand=Demand(gpus=share.gpus, memory=share.memory), n_trials=1000).n_slots
    except ClusterError:
        return 0


def test_where_slots_share_a_gpu_an_exclusive_slot_has_a_whole_one_and_twice_the_memory_if_a_node_has_it():
    assert plan(cluster(node(gpus=1, memory=10)), gpus=0.5, memory=3).exclusive == Share(cpus=1, gpus=1, memory=6 * GB)
    assert plan(cluster(node(gpus=1, memory=5)), gpus=0.5, memory=3).exclusive == Share(cpus=1, gpus=1, memory=3 * GB)


def test_without_gpus_an_exclusive_slot_has_twice_the_memory_if_some_node_has_it():
    assert plan(cluster(node(memory=4), node(memory=6)), memory=3).exclusive == Share(cpus=1, gpus=0, memory=6 * GB)
    assert plan(cluster(node(memory=5), node(memory=5)), memory=3).exclusive is None


def test_no_slot_is_exclusive_than_a_whole_gpu():
    assert plan(cluster(node(gpus=4, memory=100)), gpus=1, memory=3).exclusive is None


def test_as_many_exclusive_slots_are_counted_as_could_run_at_a_time():
    gpus = cluster(node(cpus=8, gpus=2, memory=20), node(cpus=8, gpus=1, memory=5))
    shared = plan(gpus, gpus=0.25, memory=3)
    assert (shared.exclusive, shared.n_exclusive) == (Share(cpus=1, gpus=1, memory=6 * GB), 2)
    assert plan(cluster(node(cpus=8, memory=13)), memory=3).n_exclusive == 2
    assert plan(cluster(node(cpus=8, memory=13)), memory=3, workers_per_trial=2).n_exclusive == 1
    assert plan(cluster(node(memory=5)), memory=3).n_exclusive == 0


def first(*nodes: Node, **profile: object) -> Demand:
    return first_demand(ClusterProfile.model_validate(profile), cluster(*nodes))


def test_workers_that_start_before_a_step_is_measured_have_a_whole_gpu_where_there_is_one():
    assert first(node(), node(gpus=2)).gpus == 1
    assert first(node(gpus=2, busy_gpus=1)).gpus == 1
    assert first(node()) == Demand(gpus=0, memory=GB)


def test_no_worker_has_a_gpu_where_none_is_to_be_used():
    assert first(node(gpus=2, busy_gpus=2), gpus="none") == Demand(gpus=0, memory=GB)
    assert first(node(gpus=2), gpus="required").gpus == 1


def test_numbers_in_the_profile_stand_before_a_step_is_measured():
    assert first(node(gpus=1), gpus_per_slot=0.5, memory_per_slot=2.5) == Demand(gpus=0.5, memory=2_500_000_000)
    assert first(node(gpus=1, busy_gpus=0.5), gpus_per_slot=0.5) == Demand(gpus=0.5, memory=GB)
    assert first(node(gpus=1, busy_gpus=1), gpus_per_slot=0) == Demand(gpus=0, memory=GB)


def test_a_cluster_that_has_no_whole_gpu_free_to_measure_on_is_refused_with_the_numbers():
    busy = node(gpus=2, busy_gpus=1.5), node(cpus=4, name="10.0.0.2")
    with pytest.raises(ClusterError, match=r"(?s)10\.0\.0\.1 0\.5 of 2, 10\.0\.0\.2 0 of 0.*Wait until"):
        first(*busy)


def test_what_is_only_busy_is_refused_with_the_advice_to_wait():
    busy = node(cpus=4, gpus=1, memory=16, busy_gpus=1, busy_cpus=1, busy_memory=2)
    with pytest.raises(ClusterError) as refusal:
        n_slots(busy, gpus=1, memory=3)
    text = str(refusal.value)
    assert "needs 1 CPU, 1 GPU and 3.0 GB of memory on one node" in text
    assert "10.0.0.1: 3 of 4 CPU, 0 of 1 GPU, 14.0 of 16.0 GB of memory" in text
    assert "wait until they have ended" in text


def test_what_the_cluster_never_has_is_refused_with_the_key_to_lower():
    with pytest.raises(ClusterError, match=r"(?s)2 of 2 CPU.*No waiting helps.*lower cluster.cpus_per_slot\."):
        n_slots(node(cpus=2), cpus_per_slot=4)
    with pytest.raises(ClusterError, match=r"(?s)0 of 0 GPU.*No waiting helps.*lower cluster.gpus_per_slot\."):
        n_slots(node(), gpus=1, gpus_per_slot=1)
    with pytest.raises(ClusterError, match=r"(?s)8.0 of 8.0 GB.*No waiting helps.*lower cluster.memory_per_slot\."):
        n_slots(node(memory=8), memory=9, memory_per_slot=9)
    with pytest.raises(ClusterError, match=r"lower training.batch_size or training.image_size"):
        n_slots(node(memory=8), memory=9)
    with pytest.raises(ClusterError, match=r"(?s)3 workers.*cluster.cpus_per_slot or cluster.workers_per_trial\."):
        n_slots(node(cpus=2), workers_per_trial=3)


def test_what_lies_on_different_nodes_is_refused_with_all_that_could_be_lowered():
    with pytest.raises(ClusterError, match=r"lower cluster.cpus_per_slot or cluster.gpus_per_slot\."):
        n_slots(node(cpus=8), node(cpus=1, gpus=1), cpus_per_slot=4, gpus=1)


def test_a_cluster_without_nodes_is_refused():
    with pytest.raises(ClusterError, match="no node"):
        n_slots()


def test_shares_that_ray_or_nccl_cannot_give_are_refused():
    with pytest.raises(ClusterError, match=r"gpus_per_slot must be whole above 1, but is 1\.5"):
        n_slots(node(gpus=4), gpus=1.5)
    with pytest.raises(ClusterError, match=r"2 workers of a trial need a GPU each"):
        n_slots(node(gpus=4), gpus=0.5, workers_per_trial=2)


def test_a_summary_says_how_many_slots_there_are_and_which_step_made_them_so_large():
    most = step(device=6.1, of=80, title="one step of resnet50 at 224 px and 64 images")
    demand = Demand(gpus=0.5, memory=3 * GB, most=most, bound="turns of captured steps")
    there = node(gpus=1, memory=64)
    capacity = plan_capacity(cluster(there), ClusterProfile(), demand=demand, n_trials=9)
    assert describe_capacity(capacity, {there.kind: demand}) == (
        "2 slots of 0.5 GPU (bound by turns of captured steps): "
        "one step of resnet50 at 224 px and 64 images peaks at 6.1 GB of 80.0 GB"
    )
    demand = Demand(gpus=0, memory=2 * GB, most=step(host=1.3, title="one step of x at 28 px and 16 images"))
    capacity = plan_capacity(cluster(node(cpus=1, memory=64)), ClusterProfile(), demand=demand, n_trials=9)
    assert describe_capacity(capacity, {there.kind: demand}) == (
        "1 slot of 1 CPU and 2.0 GB of memory: one step of x at 28 px and 16 images peaks at 1.3 GB"
    )


def test_a_summary_names_the_kinds_of_nodes_where_slots_differ():
    demands = {
        kind: Demand(gpus=gpus, memory=3 * GB, most=step(device=6, of=of, title="one step of x"))
        for kind, gpus, of in ((H100.kind, 0.25, 80), (T4.kind, 1, 16))
    }
    capacity = plan_capacity(cluster(H100, T4), ClusterProfile(), measured=demands, n_trials=100)
    assert describe_capacity(capacity, demands) == (
        "36 slots; on nodes with 8 H100 of 0.25 GPU: one step of x peaks at 6.0 GB of 80.0 GB; "
        "on nodes with 4 T4 of 1 GPU: one step of x peaks at 6.0 GB of 16.0 GB"
    )


@pytest.mark.parametrize(("n_trials", "expected"), [(1, 1), (2, 2), (5, 2), (9, 3), (50, 13), (60, 15)])
def test_at_most_a_quarter_of_the_trials_run_at_a_time_unless_the_profile_says_how_many(n_trials: int, expected: int):
    assert most_slots(ClusterProfile(), n_trials=n_trials) == expected
    assert most_slots(ClusterProfile(max_slots=41), n_trials=n_trials) == min(41, n_trials)
