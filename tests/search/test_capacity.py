"""Slots are computed, and a study that can never be scheduled is refused with the numbers."""

import pytest

from consilia.errors import ClusterError
from consilia.plan.study import ClusterProfile
from consilia.search.capacity import plan_capacity


def n_slots(nodes: list[dict[str, float]], n_trials: int = 100, **profile: object) -> int:
    return plan_capacity(nodes, ClusterProfile.model_validate(profile), n_trials=n_trials).n_slots


def test_every_cpu_is_a_slot_on_a_machine_without_gpus():
    assert n_slots([{"CPU": 2.0}]) == 2


def test_a_gpu_a_slot_where_there_are_gpus():
    capacity = plan_capacity([{"CPU": 32.0, "GPU": 4.0}], ClusterProfile(), n_trials=100)
    assert (capacity.n_slots, capacity.gpus_per_slot) == (4, 1.0)


def test_a_slot_does_not_span_nodes():
    assert n_slots([{"CPU": 3.0}, {"CPU": 3.0}], cpus_per_slot=2) == 2


def test_fractions_of_a_gpu_pack_trials():
    assert n_slots([{"CPU": 8.0, "GPU": 1.0}], gpus_per_slot=0.1) == 8  # bounded by the CPUs
    assert n_slots([{"CPU": 16.0, "GPU": 1.0}], gpus_per_slot=0.1) == 10  # 1 / 0.1 is not 10 in binary


def test_no_more_slots_than_trials_or_than_the_profile_allows():
    assert n_slots([{"CPU": 8.0}], n_trials=3) == 3
    assert n_slots([{"CPU": 8.0}], max_slots=2) == 2


def test_a_cluster_that_can_hold_no_slot_is_refused_with_the_numbers():
    with pytest.raises(ClusterError, match=r"(?s)needs 1 CPU and 1 GPU.*free are: 4 CPU, 0 GPU"):
        n_slots([{"CPU": 4.0}], gpus_per_slot=1)
    with pytest.raises(ClusterError, match="no node"):
        n_slots([])
