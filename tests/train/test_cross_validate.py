"""A trial from the outside: it learns, stops, fails, resumes, and repeats nothing."""

import errno
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from consilia.errors import PlanError
from consilia.metrics.scores import METRICS, score, softmax
from consilia.train.cross_validation import cross_validate
from consilia.train.tables import read_history, read_out_of_fold
from training_listener import KilledError, Listener

POLLS = 4 + 2  # in an epoch: training batches, then batches of the validation


def run(task, context, listener=None):
    listener = listener or Listener()
    return cross_validate(task, context, report=listener.report, stopped=listener.stopped), listener


@pytest.fixture(scope="module")
def shared():
    """What tests of one undisturbed run have in common."""
    return {}


@pytest.fixture
def undisturbed(shared, make_context, make_task, tmp_path_factory):
    if not shared:
        context = make_context(trials=tmp_path_factory.mktemp("undisturbed"))
        shared["outcome"], shared["listener"] = run(make_task(), context)
        shared["context"] = context
    return shared["outcome"], shared["listener"], shared["context"]


def test_a_tiny_network_learns_separable_classes_in_every_fold(make_context, make_task):
    outcome, _ = run(make_task(architecture="test_resnet"), make_context(epochs=12))
    assert outcome.state == "finished"
    assert min(result.metrics["accuracy"] for result in outcome.folds) > 0.95


def test_every_epoch_of_every_fold_is_reported_and_the_last_of_a_fold_with_its_result(undisturbed):
    outcome, listener, context = undisturbed
    assert listener.epochs == [(fold, epoch) for fold in range(3) for epoch in (1, 2, 3)]
    results = [report.fold_result for report in listener.heard]
    assert [result is not None for result in results] == [False, False, True] * 3
    assert tuple(result for result in results if result) == outcome.folds
    for report in listener.heard:
        assert report.images == len(context.folds.training(report.fold))
    assert [report.score for report in listener.heard[2::3]] == [result.metrics["log_loss"] for result in outcome.folds]


def test_each_pool_image_is_predicted_once_and_the_stored_logits_give_the_stored_metrics(undisturbed):
    outcome, _, context = undisturbed
    store = context.store
    predictions = read_out_of_fold(context.trial(0), context.folds, store.labels, store.patients)
    np.testing.assert_array_equal(predictions.image_ids, context.folds.pool)
    np.testing.assert_array_equal(predictions.labels, store.labels[context.folds.pool])
    assert set(predictions.image_ids).isdisjoint(context.folds.test)
    for result in outcome.folds:
        held_out = predictions.folds == result.fold
        assert predictions.image_ids[held_out].tolist() == context.folds.validation(result.fold).tolist()
        metrics = score(softmax(predictions.logits[held_out]), predictions.labels[held_out])
        assert metrics == pytest.approx(dict(result.metrics))
        assert set(metrics) == set(METRICS)


def test_a_finished_fold_leaves_its_files_and_no_checkpoint(undisturbed):
    _, listener, context = undisturbed
    folder = context.trial(0).fold(1)
    names = sorted(path.name for path in folder.root.iterdir())
    assert names == ["history.parquet", "oof.parquet", "result.json", "weights.safetensors"]
    history = pd.read_parquet(folder.history)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["log_loss"].tolist() == [report.score for report in listener.heard[3:6]]
    assert history["lr"].iloc[-1] < 0.1 * 3e-3


@pytest.mark.parametrize(
    "disturbance",
    [
        {"polls": 2 * POLLS + 1},  # stopped in the middle of epoch 3 of fold 0
        {"reports": 5, "error": KilledError()},  # killed after epoch 2 of fold 1
        {"reports": 3, "error": KilledError()},  # killed when fold 0 had been written
    ],
)
def test_a_resumed_trial_ends_bit_for_bit_like_an_undisturbed_one_whatever_its_number(
    undisturbed, make_context, make_task, disturbance
):
    expected, _, reference = undisturbed
    context, task = make_context(), make_task(number=5)
    try:
        first, before = run(task, context, listener := Listener(**disturbance))
        assert first.state == "stopped"
    except KilledError:
        before = listener
    outcome, after = run(task, context)
    assert outcome.state == "finished"
    assert [result.metrics for result in outcome.folds] == [result.metrics for result in expected.folds]
    for fold in range(3):
        mine = load_file(context.trial(5).fold(fold).weights)
        theirs = load_file(reference.trial(0).fold(fold).weights)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert set(before.epochs) | set(after.epochs) == {(f, e) for f in range(3) for e in (1, 2, 3)}


def test_epochs_whose_score_nobody_asks_for_are_not_scored_and_training_does_not_notice(
    undisturbed, make_context, make_task, tmp_path
):
    _, _, reference = undisturbed
    training = reference.training.model_copy(update={"score_every": 3})
    for name, rung, scored in (("no-rung", 0, [3]), ("rung", 2, [2, 3])):
        context = make_context(trials=tmp_path / name, training=training, rung=rung)
        stopped, before = run(make_task(), context, Listener(polls=2 * 4 + 1))  # in epoch 2 or 3 of fold 0
        assert stopped.state == "stopped"
        outcome, after = run(make_task(), context)
        assert outcome.state == "finished"
        for report in (*before.heard, *after.heard):
            assert np.isfinite(report.score) == (report.epoch in scored)
        for fold in range(3):
            mine, theirs = (load_file(each.trial(0).fold(fold).weights) for each in (context, reference))
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
            history = read_history(context.trial(0).fold(fold).history)
            assert history.epoch[history[list(METRICS)].notna().all(axis=1)].tolist() == scored
            assert history.train_loss.notna().all()


def test_a_resumed_trial_trains_no_finished_fold_again_and_repeats_what_it_has_stored(make_context, make_task):
    context, task = make_context(), make_task()
    _, first = run(task, context, Listener(polls=5 * POLLS + 1))  # into epoch 3 of fold 1
    assert first.epochs == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    stamp = context.trial(0).fold(0).weights.stat().st_mtime_ns
    outcome, second = run(task, context)
    assert second.epochs == [(0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert second.heard[:3] == [replace(report, is_repeat=True) for report in first.heard[2:]]
    assert not any(report.is_repeat for report in (*first.heard, *second.heard[3:]))
    assert context.trial(0).fold(0).weights.stat().st_mtime_ns == stamp
    assert outcome.seconds >= sum(result.seconds for result in outcome.folds[:1])


def test_a_damaged_checkpoint_costs_only_its_fold(make_context, make_task, undisturbed):
    expected, _, _ = undisturbed
    context, task = make_context(), make_task()
    run(task, context, Listener(polls=5 * POLLS + 1))
    context.trial(0).fold(1).checkpoint.write_bytes(b"not a checkpoint")
    outcome, listener = run(task, context)
    assert listener.epochs[:3] == [(0, 3), (1, 1), (1, 2)]
    assert [report.is_repeat for report in listener.heard[:3]] == [True, False, False]
    notes = [report.note for report in listener.heard]
    assert "checkpoint.pt is damaged" in notes[1]
    assert "starts again" in notes[1]
    assert not any(notes[:1] + notes[2:])
    assert [result.metrics for result in outcome.folds] == [result.metrics for result in expected.folds]


def test_a_stop_ends_the_trial_before_the_next_batch(make_context, make_task):
    polls = []

    def stopped() -> bool:
        polls.append(None)
        return len(polls) > 2

    outcome = cross_validate(make_task(), make_context(), report=[].append, stopped=stopped)
    assert outcome.state == "stopped"
    assert outcome.reason == "stopped in fold 1/3"
    assert outcome.folds == ()
    assert len(polls) == 3


def test_a_loss_that_is_not_finite_fails_the_trial_with_fold_epoch_and_lr(make_context, make_task):
    outcome, listener = run(make_task(lr=1e30), make_context())
    assert outcome.state == "failed"
    assert "fold 1/3, epoch 1, at lr" in outcome.reason
    assert "configured: 1.00e+30" in outcome.reason
    assert listener.heard == []
    assert not make_context().trial(0).fold(0).result.exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_running_out_of_memory_fails_the_trial_with_batch_and_image_size(make_context, make_task, error):
    listener = Listener(reports=1, error=error)
    context = make_context()
    outcome, _ = run(make_task(image_size=12), context, listener)
    assert (outcome.state, outcome.fault) == ("failed", "memory")
    assert "batches of 16 images of 12 px" in outcome.reason
    assert not context.trial(0).fold(0).checkpoint.exists()  # nobody will take it up


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_pauses_the_trial_which_goes_on_at_its_checkpoint(make_context, make_task, number):
    context, task = make_context(), make_task()
    outcome, first = run(task, context, Listener(reports=2, error=OSError(number, "no room")))
    assert (outcome.state, outcome.fault) == ("paused", "disk")
    assert first.epochs == [(0, 1), (0, 2)]
    assert context.trial(0).fold(0).checkpoint.exists()
    resumed, second = run(task, context)
    assert resumed.state == "finished"
    assert [report.is_repeat for report in second.heard[:4]] == [True, True, False, False]


def test_a_long_validation_shows_signs_of_life_and_a_stop_in_it_waits_for_its_end(make_context, make_task):
    context = make_context()
    outcome, listener = run(make_task(), context, Listener(polls=5))  # in the validation after epoch 1
    assert outcome.state == "stopped"
    assert listener.epochs == [(0, 1)]


@pytest.mark.parametrize("error", [KilledError(), RuntimeError("something else")])
def test_any_other_error_is_raised_on(make_context, make_task, error):
    with pytest.raises(type(error)):
        run(make_task(), make_context(), Listener(reports=1, error=error))


def test_an_unknown_architecture_is_refused_with_the_known_ones(make_context, make_task):
    with pytest.raises(PlanError, match="test_efficientnet, test_resnet"):
        run(make_task(architecture="resnet81"), make_context())


@pytest.mark.parametrize(
    "options",
    [
        {"imbalance": "sqrt_sampling", "mixup": 0.0, "augmentation": 0.0},
        {"imbalance": "focal", "mixup": 0.4, "label_smoothing": 0.1, "image_size": 24},
        {"imbalance": "logit_adjustment", "tau": 0.5, "smallest_layer_lr": 0.1, "head_lr_factor": 5.0},
        {"image_size": 9},
    ],
)
def test_every_kind_of_configuration_trains(make_context, make_task, options):
    outcome, _ = run(make_task(**options), make_context(epochs=1))
    assert outcome.state == "finished", outcome.reason
