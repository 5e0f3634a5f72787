"""Whole trials on a GPU; skipped where there is none."""

import gc

import numpy as np
import pytest
import torch

from consilia.train.cross_validation import cross_validate
from consilia.train.tables import read_out_of_fold
from training_listener import Listener

pytestmark = pytest.mark.gpu

EPOCHS = 20  # enough steps for a capture


@pytest.fixture
def run(make_context, make_task, tmp_path):
    def run(name, listener=None):
        listener = listener or Listener()
        context = make_context(device="cuda", epochs=EPOCHS, trials=tmp_path / name)
        outcome = cross_validate(make_task(), context, report=listener.report, stopped=listener.stopped)
        return outcome, context

    return run


def logits(context):
    store = context.store
    return read_out_of_fold(context.trial(0), context.folds, store.labels, store.patients).logits


def test_a_trial_that_was_stopped_equals_an_undisturbed_one(run):
    _, whole = run("whole")
    stopped, _ = run("resumed", Listener(polls=7 * 4 + 2))
    assert stopped.state == "stopped"
    outcome, resumed = run("resumed")
    assert outcome.state == "finished"
    np.testing.assert_array_equal(logits(resumed), logits(whole))


def test_memory_is_given_back_after_a_trial(run):
    held, reserved = [], []
    for name in ("first", "second", "third"):
        run(name)
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_allocated())
        reserved.append(torch.cuda.memory_reserved())
    assert held[1] == held[0] == held[2]
    assert reserved[2] - reserved[0] <= 4 * 2**20  # a graph that is left keeps 2 MiB at least, and two trials have six


def test_out_of_memory_fails_the_trial_as_such_and_the_process_trains_the_next_one(run):
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        outcome, _ = run("starved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (outcome.state, outcome.fault) == ("failed", "memory")
    assert run("fed")[0].state == "finished"
