"""What a worker needs follows the profile, or the measured steps with headroom."""

import pytest
from capacity_records import GB, step
from hypothesis import given
from hypothesis import strategies as st

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.train.step_case import StepMemory
from consilia.tune.demand import HELPER_BYTES, Demand, needs_measuring, trials_per_gpu, worker_demand


def demand(*measured: StepMemory, cpus: float = 64, gpus: float = 1, images: float = 0, **profile: object) -> Demand:
    return worker_demand(
        ClusterProfile.model_validate(profile),
        [{"CPU": cpus, "GPU": gpus}],
        measured=measured,
        images_bytes=int(images * GB),
    )


def test_as_many_trials_share_a_gpu_as_fit_with_headroom_and_a_context_each():
    assert trials_per_gpu(step(device=10, of=80, context=1), images_bytes=0) == 6  # 80 / (12 + 1)
    assert demand(step(device=10, of=80, context=1)).gpus == 0.1666  # six of them do not exceed the GPU


def test_images_that_a_slot_keeps_on_the_gpu_count():
    assert trials_per_gpu(step(device=10, of=80, context=1), images_bytes=13 * GB) == 3  # 80 / (12 + 1 + 13)


def test_images_that_stay_off_the_gpu_do_not_count():
    assert trials_per_gpu(step(device=10, of=80, context=1), images_bytes=20 * GB) == 6  # more than a quarter of it


@given(device=st.floats(0.1, 80), context=st.floats(0, 1), images=st.floats(0, 30))
def test_what_shares_a_gpu_fits_it_unless_it_is_alone(device: float, context: float, images: float):
    found = step(device=device, of=80, context=context)
    n = trials_per_gpu(found, images_bytes=int(images * GB))
    assert n >= 1
    assert n == 1 or n * (device + context) <= 80


def test_no_more_trials_share_a_gpu_than_it_has_cpus_for():
    assert demand(step(device=1, of=80), cpus=16, gpus=2, cpus_per_slot=2).gpus == 0.25


@pytest.mark.parametrize(
    ("flags", "device", "cpus", "n", "bound"),
    [
        ({}, 1, 16, 16, "CPUs"),
        ({}, 10, 16, 6, "memory"),
        ({"is_captured": True}, 1, 16, 2, "turns of captured steps"),
        ({"is_captured": True}, 1, 1, 1, "CPUs"),
        ({"is_captured": True}, 50, 16, 1, "memory"),
        ({"is_captured": True, "by_mps": True}, 1, 16, 16, "CPUs, with MPS"),
        ({"is_captured": True, "by_mps": True}, 10, 16, 6, "memory, with MPS"),
        ({"by_mps": True}, 0.5, 128, 48, "clients, with MPS"),
    ],
)
def test_trials_share_a_gpu_until_the_first_bound_and_it_is_named(
    flags: dict[str, bool], device: float, cpus: float, n: int, bound: str
):
    found = demand(step(device=device, of=80, context=1, **flags), cpus=cpus)
    assert (int(1 / found.gpus), found.bound) == (n, bound)


def test_trials_take_turns_where_all_steps_are_captured_and_the_profile_says_nothing_else():
    captured = step(device=1, of=80, is_captured=True)
    assert demand(captured, step(device=1, of=80), cpus=16).gpus == 0.0625
    assert demand(captured, cpus=16, gpus_per_slot=0.25).gpus == 0.25  # as the profile says


def test_a_gpu_holds_one_trial_even_where_its_cpus_are_fewer_than_a_slot_wants():
    assert demand(step(device=1, of=80), cpus=2, cpus_per_slot=4).gpus == 1


def test_the_gpu_that_holds_fewest_decides():
    assert demand(step(device=10, of=80), step(device=10, of=24)).gpus == 0.5  # 24 / 12


def test_workers_of_one_trial_have_a_gpu_each():
    assert demand(step(device=1, of=80), workers_per_trial=2).gpus == 1


def test_without_gpus_none_is_asked_for():
    assert demand(step(host=2), gpus=0).gpus == 0


def test_no_gpu_is_taken_where_none_is_to_be_used():
    profile = ClusterProfile(gpus="none")
    assert worker_demand(profile, [{"CPU": 8, "GPU": 4}], measured=[step(host=2)], images_bytes=0).gpus == 0
    assert not needs_measuring(ClusterProfile(gpus="none", memory_per_slot=1))


def test_numbers_in_the_profile_stand_and_nothing_is_measured_for_them():
    assert demand(gpus_per_slot=0.3, memory_per_slot=2.5) == Demand(gpus=0.3, memory=2_500_000_000)
    assert not needs_measuring(ClusterProfile(gpus_per_slot=0.3, memory_per_slot=2.5))
    assert needs_measuring(ClusterProfile(gpus_per_slot=0))
    assert needs_measuring(ClusterProfile(memory_per_slot=1))


def test_a_share_that_puts_more_trials_on_a_gpu_than_fit_is_refused_with_one_that_works():
    found = step(device=10, of=80, context=1, title="densenet121 at 224 px")  # six fit: 80 / (12 + 1)
    with pytest.raises(
        ClusterError, match=r"is 0\.125, so that 8 trials .* 6 fit: densenet121 .* Set it to 0\.1667 or"
    ):
        demand(found, gpus_per_slot=0.125)
    assert demand(found, gpus_per_slot=0.1667).gpus == 0.1667
    assert demand(found, gpus_per_slot=1).gpus == 1
    assert demand(step(device=0), gpus_per_slot=0.125, gpus=0).gpus == 0.125  # measured on a CPU: nothing is known


def test_memory_is_the_largest_measured_with_headroom_and_what_a_slots_other_processes_take():
    found = demand(step(host=2), step(host=3), gpus=0)
    assert found.memory == round(1.1 * 3 * GB) + HELPER_BYTES
    assert found.most == step(host=3)


def test_the_step_that_takes_the_largest_part_of_its_gpu_is_named():
    large = step(device=9, of=24, host=1, title="large")
    assert demand(step(device=10, of=80, host=5), large).most == large


def test_a_step_measured_without_a_gpu_decides_nothing_about_gpus():
    with pytest.raises(ClusterError, match=r"set cluster\.gpus_per_slot"):
        demand(step(host=2), gpus=1)
