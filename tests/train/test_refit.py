"""A refit from the outside: what it sees, what it leaves, and that it repeats itself bit for bit."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import consilia.train.refit as refit_module
from consilia.config.record_files import read_refit_result, write_refit_result
from consilia.config.records import ALL_FOLDS
from consilia.errors import PlanError, StudyError
from consilia.train.batches import MappedImages
from consilia.train.fold import open_fold
from consilia.train.job import make_job
from consilia.train.network_files import read_network_metadata
from consilia.train.optimiser import lr_factor
from consilia.train.order import check_refit_workers
from consilia.train.refit import read_refit, refit
from training_listener import KilledError, Listener

N_POOL, BATCH, EPOCHS = 90, 16, 3
BATCHES = 6  # of an epoch


def run(task, context, listener=None):
    listener = listener or Listener()
    return refit(task, context, report=listener.report, stopped=listener.stopped), listener


@pytest.fixture(scope="module")
def shared():
    return {}


@pytest.fixture
def undisturbed(shared, make_context, make_task, tmp_path_factory):
    """One refit from start to end: outcome, listener, context."""
    if not shared:
        context = make_context(trials=tmp_path_factory.mktemp("undisturbed"))
        shared["found"] = (*run(make_task(), context), context)
    return shared["found"]


def test_every_epoch_shows_each_training_image_once_and_no_image_of_the_test_split(
    make_context, make_task, monkeypatch
):
    seen = []

    class Recorder(MappedImages):
        def batches(self, parts):
            seen.append(np.concatenate(parts))
            yield from super().batches(parts)

    monkeypatch.setattr(refit_module, "open_images", lambda store, device: Recorder(store.pixels, device))
    context = make_context()
    outcome, _ = run(make_task(), context)
    assert outcome.state == "finished"
    assert len(seen) == EPOCHS
    for rows in seen:
        assert sorted(rows.tolist()) == context.folds.pool.tolist()
        assert set(rows.tolist()).isdisjoint(context.folds.test.tolist())
    assert len({rows.tobytes() for rows in seen}) == EPOCHS  # in another order each time


def test_normalisation_is_that_of_exactly_the_images_it_trains_on(undisturbed):
    _, _, context = undisturbed
    _, preprocessing = read_network_metadata(context.trial(0).refit.weights)
    pixels = context.store.pixels[context.folds.pool].astype(np.float64) / 255
    assert preprocessing.mean == pytest.approx((pixels.mean(),))
    assert preprocessing.std == pytest.approx((pixels.std(),))
    everything = np.asarray(context.store.pixels).astype(np.float64) / 255
    assert preprocessing.mean != pytest.approx((everything.mean(),), rel=1e-9)


def test_the_schedule_runs_over_all_epochs_of_the_study_and_every_epoch_is_reported_without_a_score(undisturbed):
    outcome, listener, context = undisturbed
    assert outcome.state == "finished"
    assert [(report.fold, report.epoch) for report in listener.heard] == [(ALL_FOLDS, n) for n in (1, 2, 3)]
    assert all(np.isnan(report.score) and report.fold_result is None for report in listener.heard)
    assert [report.images for report in listener.heard] == [N_POOL] * EPOCHS
    history = pd.read_parquet(context.trial(0).refit.history)
    ends = [3e-3 * lr_factor(n * BATCHES - 1, n_steps=EPOCHS * BATCHES, warmup=0.05) for n in (1, 2, 3)]
    assert history["lr"].tolist() == pytest.approx(ends)
    assert history["train_loss"].tolist() == [report.train_loss for report in listener.heard]
    assert set(history) == {"epoch", "train_loss", "lr", "seconds", "images"}


def test_it_leaves_weights_history_and_a_result_that_names_its_folds(undisturbed):
    _, _, context = undisturbed
    folder = context.trial(0).refit
    assert sorted(path.name for path in folder.root.iterdir()) == [
        "history.parquet",
        "result.json",
        "weights.safetensors",
    ]
    result = read_refit(context.trial(0), context.folds)
    assert (result.number, result.epochs, result.n_images) == (0, EPOCHS, N_POOL)
    assert result.folds_digest == context.folds.digest


@pytest.mark.parametrize(
    "disturbance",
    [
        {},  # not disturbed: repeated
        {"polls": BATCHES + 2},  # stopped in the middle of epoch 2
        {"reports": 2},  # killed after epoch 2
        {"reports": 3},  # killed when everything was written
    ],
)
def test_a_refit_that_is_repeated_or_resumed_has_the_same_weights_bit_for_bit_whatever_its_number(
    undisturbed, make_context, make_task, disturbance
):
    _, _, reference = undisturbed
    context, task = make_context(), make_task(number=5)
    before = Listener(**disturbance)
    if "reports" in disturbance:
        with pytest.raises(KilledError):
            run(task, context, before)
    else:
        run(task, context, before)
    outcome, after = run(task, context)
    assert outcome.state == "finished"
    assert all(report.is_repeat for report in after.heard[: len(before.heard)])
    mine, theirs = load_file(context.trial(5).refit.weights), load_file(reference.trial(0).refit.weights)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_its_random_numbers_are_those_of_no_fold(make_context, make_task):
    context = make_context()
    jobs = [make_job(make_task(), fold, context) for fold in (*range(3), ALL_FOLDS)]
    first = [open_fold(job).model.get_classifier().weight.detach().numpy().tobytes() for job in jobs]
    assert len(set(first)) == 4


def test_a_stored_refit_is_not_trained_again(make_context, make_task):
    context = make_context(epochs=1)
    run(make_task(), context)
    stamp = context.trial(0).refit.weights.stat().st_mtime_ns
    outcome, listener = run(make_task(), context)
    assert outcome.state == "finished"
    assert listener.heard == []
    assert context.trial(0).refit.weights.stat().st_mtime_ns == stamp


def test_a_refit_of_other_folds_is_refused(make_context, make_task):
    context = make_context(epochs=1)
    run(make_task(), context)
    path = context.trial(0).refit.result
    write_refit_result(path, replace(read_refit_result(path), folds_digest="0" * 64))
    with pytest.raises(StudyError, match="of other folds"):
        run(make_task(), context)


def test_a_checkpoint_of_a_fold_is_no_checkpoint_of_the_refit(make_context, make_task):
    from consilia.train.cross_validation import cross_validate

    context, task = make_context(), make_task()
    cross_validate(task, context, report=[].append, stopped=Listener(polls=8).stopped)  # in epoch 2 of fold 0
    folder = context.trial(0)
    folder.refit.root.mkdir()
    folder.fold(0).checkpoint.rename(folder.refit.checkpoint)
    outcome, listener = run(task, context)
    assert outcome.state == "finished"
    assert "another configuration" in listener.heard[0].note


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_fails_it_and_frees_the_disk(make_context, make_task):
    context = make_context()
    outcome, listener = run(make_task(lr=1e30), context)
    assert outcome.state == "failed"
    assert "in the refit, epoch 1, at lr" in outcome.reason
    assert listener.heard == []
    assert not context.trial(0).refit.result.exists()
    assert not context.trial(0).refit.checkpoint.exists()


def test_more_workers_than_its_batches_hold_are_refused(make_context):
    context = make_context()
    check_refit_workers(7, folds=context.folds, training=context.training)  # 90 images in batches of 15
    with pytest.raises(PlanError, match="refit has 90 training images in batches of 15"):
        check_refit_workers(8, folds=context.folds, training=context.training)
