"""What a worker does with a trial that goes wrong; the rows in the dashboard are played by a stand-in."""

import pytest
import torch
from search_records import task

from consilia.config.records import TrialOutcome
from consilia.tune import worker


class Watch:
    """No report is sent and nothing is stopped."""

    def report(self, report: object) -> None:
        """Ignore it."""

    def stopped(self) -> bool:
        return False


def test_an_unforeseen_error_fails_the_trial_and_leaves_the_worker_alive():
    def run_trial(*_: object, **__: object) -> TrialOutcome:
        raise KeyError("no such column\nin the table")

    outcome = worker._run(run_trial, task(7), Watch())
    assert (outcome.number, outcome.state) == (7, "failed")
    assert outcome.reason.startswith("KeyError: 'no such column")
    assert "\n" not in outcome.reason
    assert 'raise KeyError("no such column' in outcome.traceback


def test_a_broken_device_ends_the_process_so_that_a_fresh_one_takes_the_trial_up():
    def run_trial(*_: object, **__: object) -> TrialOutcome:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        worker._run(run_trial, task(7), Watch())


def test_a_trial_has_a_name_that_a_person_understands():
    named = task(12, architecture="densenet121", lr=3e-4)
    assert worker.trial_name(named) == "trial 12 densenet121 lr=3e-04"


def test_what_libraries_keep_after_the_first_trial_is_no_leak_and_what_later_ones_add_is():
    held = iter([104 * 2**20, 104 * 2**20, 140 * 2**20, 190 * 2**20])
    memory = worker.DeviceMemory(lambda: next(held))
    assert [memory.leaks() for _ in range(4)] == [False, False, False, True]
