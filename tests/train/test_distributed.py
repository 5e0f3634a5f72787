"""Two workers compute what one does, act as one, and leave nobody waiting."""

import copy
import errno
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.config.study import TrainingPlan
from consilia.data.folds import make_folds
from consilia.errors import PlanError
from consilia.train.batch_norm import share_batch_norms
from consilia.train.cross_validation import cross_validate
from consilia.train.distributed import ALONE
from consilia.train.input import network_input
from consilia.train.network_files import read_weights
from consilia.train.networks.factory import build_model
from consilia.train.order import check_workers
from consilia.train.refit import refit
from consilia.train.tables import read_fold_logits, read_history
from worker_pair import Disturbance, UnpicklableError, WorkerPair, add_up, normalise, take_part, train

POLLS = 5 + 3  # of the first worker in an epoch: 45 images in batches of 9; 22 or 23 to validate, 9 at a time
EXACT = {"drop_path": 0.0, "head_dropout": 0.0, "architecture": "test_resnet", "lr": 1e-3}


@pytest.fixture(scope="module")
def pairs():
    pairs = []
    yield pairs
    for pair in pairs:
        pair.close()


@pytest.fixture
def pair(pairs, tmp_path):
    """Two workers that live through many tests, as a slot's live through many trials."""
    if not pairs or not pairs[-1].is_alive:
        pairs.append(WorkerPair(tmp_path))
    return pairs[-1]


@pytest.fixture(scope="module")
def folds(toy_store):
    return make_folds(toy_store, k=2, seed=0, test="auto", test_fraction=0.2)


@pytest.fixture
def context(make_context, folds):
    return make_context(folds=folds, training=TrainingPlan(epochs=2, batch_size=9))


@pytest.fixture
def folders(tmp_path):
    """Each worker has a folder of its own, so that it shows who writes."""
    return [tmp_path / "first", tmp_path / "second"]


def together(pair, task, context, folders, *disturbances):
    each = [(folder, *disturbances[rank : rank + 1]) for rank, folder in enumerate(folders)]
    return pair.call(train, task, context, each=each)


def in_folder(context, folder):
    return replace(context, trials=folder).trial(0)


def run_alone(task, context, folder):
    heard = []
    outcome = cross_validate(task, replace(context, trials=folder), report=heard.append, stopped=lambda: False)
    return outcome, heard


def assert_close_files(context, mine, theirs):
    """Compare two trainings that round differently.

    AdamW divides a gradient by its own size, so where it is rounding alone a step is as long as any other. One worker
    with another convolution routine differs by as much: 0.01 in a weight, 0.006 in a logit.
    """
    for fold in range(context.folds.k):
        one, two = (in_folder(context, folder).fold(fold) for folder in (mine, theirs))
        ids, logits = read_fold_logits(one.oof)
        assert ids.tolist() == context.folds.validation(fold).tolist()  # each image once
        np.testing.assert_allclose(logits, read_fold_logits(two.oof)[1], atol=2e-2)
        weights, expected = load_file(one.weights), load_file(two.weights)
        assert weights.keys() == expected.keys()
        for name in weights:
            torch.testing.assert_close(
                weights[name], expected[name], atol=3e-2, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )
        losses = [read_history(files.history)["train_loss"] for files in (one, two)]
        np.testing.assert_allclose(*losses, rtol=2e-3)


@pytest.mark.parametrize(
    "options",
    [{"mixup": 0.4}, {"mixup": 0.0, "imbalance": "sqrt_sampling", "architecture": "test_efficientnet"}],
)
def test_two_workers_train_a_trial_as_one_worker_does(pair, context, make_task, folders, tmp_path, options):
    task = make_task(**{**EXACT, **options})
    alone, heard = run_alone(task, context, tmp_path / "alone")
    first, second = together(pair, task, context, folders)
    assert first.outcome.state == alone.state == "finished", first.outcome
    assert_close_files(context, folders[0], tmp_path / "alone")
    assert first.epochs == [(report.fold, report.epoch) for report in heard]
    assert [report.images for report in first.heard] == [report.images for report in heard]
    assert second.outcome.folds == first.outcome.folds


def test_two_workers_train_a_refit_as_one_does_and_only_the_first_writes(pair, context, make_task, folders, tmp_path):
    task = make_task(**EXACT)
    first, second = pair.call(partial(train, how=refit), task, context, each=[(folder,) for folder in folders])
    alone = []
    refit(task, replace(context, trials=tmp_path / "alone"), report=alone.append, stopped=lambda: False)
    assert first.outcome.state == second.outcome.state == "finished", first.outcome
    assert (len(first.heard), second.heard, folders[1].exists()) == (2, [], False)
    losses = [[report.train_loss for report in heard] for heard in (first.heard, alone)]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    weights, expected = (
        load_file(in_folder(context, folder).refit.weights) for folder in (folders[0], tmp_path / "alone")
    )
    for name in expected:  # twice the steps of a fold: see `assert_close_files`
        torch.testing.assert_close(weights[name], expected[name], atol=6e-2, rtol=0)


def first_step(context, folder):
    """Return the whole batch's gradients and the network's running statistics after the only step of epoch 1."""
    state = torch.load(in_folder(context, folder).fold(0).checkpoint, weights_only=True)
    # AdamW's first moment after one step is a tenth of the gradient.
    gradients = [each["exp_avg"] * 10 for each in state["optimiser"]["state"].values()]
    statistics = {name: tensor for name, tensor in state["model"].items() if "running" in name}
    return gradients, statistics, state["history"][0]["train_loss"]


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.0},
        {"mixup": 0.4},
        {"mixup": 0.4, "imbalance": "sqrt_sampling", "augmentation": 0.0, "label_smoothing": 0.1},
        {"mixup": 0.0, "imbalance": "focal", "image_size": 24},
    ],
)
def test_the_gradients_of_two_workers_are_those_of_one_on_an_odd_batch(
    pair, make_context, make_task, folds, folders, tmp_path, architecture, options
):
    assert len(folds.training(0)) % 2 == 1
    context = make_context(folds=folds, training=TrainingPlan(epochs=2, batch_size=80))  # one step an epoch
    task = make_task(**{**EXACT, "architecture": architecture, **options})
    polls = iter([False, False, True])  # the step, the validation, the step of epoch 2
    cross_validate(
        task, replace(context, trials=tmp_path / "alone"), report=lambda _: None, stopped=lambda: next(polls)
    )
    together(pair, task, context, folders, Disturbance(polls=2))
    mine, theirs = first_step(context, folders[0]), first_step(context, tmp_path / "alone")
    for one, two in zip(mine[0], theirs[0], strict=True):
        # Where a later norm takes a parameter's effect away, its gradient is rounding alone, 1e-8 large.
        assert (one - two).norm() <= 2e-4 * two.norm() + 2e-6
    torch.testing.assert_close(mine[1:], theirs[1:], rtol=1e-4, atol=1e-6)


def test_both_workers_train_the_same_weights(pair, context, make_task, folders):
    """The second half of the validation images is the second worker's, whose weights nobody stores."""
    together(pair, make_task(), context, folders)
    fold = in_folder(context, folders[0]).fold(1)
    spec, preprocessing, state = read_weights(fold.weights)
    model = build_model(spec).eval()
    model.load_state_dict(state)
    ids, logits = read_fold_logits(fold.oof)
    with torch.inference_mode():
        again = model(network_input(torch.from_numpy(context.store.pixels[ids]), preprocessing))
    np.testing.assert_allclose(logits, again.numpy(), atol=1e-5)


def test_only_the_first_worker_writes_and_reports(pair, context, make_task, folders):
    first, second = together(pair, make_task(), context, folders)
    assert len(first.heard) == 4
    assert second.heard == []
    assert not folders[1].exists()
    names = sorted(path.name for path in in_folder(context, folders[0]).fold(1).root.iterdir())
    assert names == ["history.parquet", "oof.parquet", "result.json", "weights.safetensors"]


def test_a_stop_in_the_middle_of_an_epoch_ends_both_and_both_go_on_at_the_first_one_s_checkpoint(
    pair, context, make_task, folders, tmp_path
):
    task = make_task(**EXACT)
    first, second = together(pair, task, context, folders, Disturbance(polls=3 * POLLS + 2))
    assert first.outcome.state == second.outcome.state == "stopped"
    assert first.epochs == [(0, 1), (0, 2), (1, 1)]
    assert in_folder(context, folders[0]).fold(1).checkpoint.exists()
    # The second worker never sees the file: its folder is another one.
    first, second = together(pair, task, context, folders)
    assert first.outcome.state == second.outcome.state == "finished"
    assert [report.is_repeat for report in first.heard] == [True, True, False]
    undisturbed, _ = together(pair, task, context, [tmp_path / "undisturbed", tmp_path / "nobody"])
    assert [fold.metrics for fold in first.outcome.folds] == [fold.metrics for fold in undisturbed.outcome.folds]


def test_one_worker_goes_on_where_two_were_stopped(pair, context, make_task, folders, tmp_path):
    task = make_task(**EXACT)
    together(pair, task, context, folders, Disturbance(polls=POLLS + 2))
    outcome, heard = run_alone(task, context, folders[0])
    assert outcome.state == "finished"
    assert [report.is_repeat for report in heard] == [True, False, False, False]
    run_alone(task, context, tmp_path / "alone")
    assert_close_files(context, folders[0], tmp_path / "alone")


def test_a_loss_that_is_not_finite_fails_the_trial_in_both_alike(pair, context, make_task, folders):
    first, second = together(pair, make_task(lr=1e30), context, folders)
    assert first.outcome.state == "failed"
    assert first.outcome.reason == second.outcome.reason
    assert "the loss became" in first.outcome.reason


def test_a_full_disk_that_the_first_worker_meets_pauses_the_trial_in_both(pair, context, make_task, folders):
    full = Disturbance(reports=1, error=partial(OSError, errno.ENOSPC, "no room"))
    first, second = together(pair, make_task(), context, folders, full)
    for run in (first, second):
        assert (run.outcome.state, run.outcome.fault) == ("paused", "disk")
    assert in_folder(context, folders[0]).fold(0).checkpoint.exists()
    assert together(pair, make_task(), context, folders)[1].outcome.state == "finished"


def test_an_error_of_the_first_worker_s_report_is_raised_in_both(pair, context, make_task, folders):
    first, second = together(
        pair, make_task(), context, folders, Disturbance(reports=1, error=partial(UnpicklableError, 3, "broker"))
    )
    assert str(first.error) == "UnpicklableError: broker 3"
    assert str(second.error) == "UnpicklableError: broker 3"


def test_workers_exchange_flags_sums_logits_gradients_and_weights(pair):
    first, second = pair.call(add_up)
    assert first["any"] == second["any"] == [False, True, True]
    assert (first["sum"], second["sum"]) == ((3.0, 1.0), (3.0, 2.0))
    assert first["gather"] == second["gather"] == [[0, 0], [1, 1], [1, 1]]
    assert first["gradient"] == second["gradient"] == 3.0
    assert first["weight"] == second["weight"]


@pytest.mark.parametrize(
    ("errors", "answers"),
    [
        ((None, None), [(0, 0, 2.0), (1, 0, 2.0)]),
        ((None, PlanError("no")), 2 * [("PlanError: no", 0, 2.0)]),
        ((PlanError("no"), None), 2 * [("PlanError: no", "PlanError: no", 2.0)]),
        ((PlanError("one"), PlanError("two")), 2 * [("PlanError: one", "PlanError: one", 2.0)]),
    ],
)
def test_an_error_that_one_worker_meets_is_raised_in_both_and_they_can_go_on(pair, errors, answers):
    assert pair.call(take_part, errors) == answers


def test_alone_there_is_nobody_to_agree_with():
    assert take_part(ALONE, (None,)) == (0, 0, 1.0)
    assert take_part(ALONE, (PlanError("no"),)) == ("PlanError: no", "PlanError: no", 1.0)
    assert ALONE.any(True)
    assert not ALONE.any(False)


@pytest.mark.parametrize("cut", [3, 4, 6])
def test_batch_norms_of_two_workers_are_torch_s_on_the_whole_batch(pair, cut):
    generator = torch.Generator().manual_seed(0)
    images = 3 * torch.randn(7, 5, 4, 3, generator=generator) + 20
    slopes = torch.randn(7, 5, 4, 3, generator=generator)
    norm = nn.Sequential(nn.BatchNorm2d(5), nn.BatchNorm2d(5, momentum=None))
    with torch.no_grad():
        norm[0].weight.copy_(torch.rand(5, generator=generator) + 0.5)
    answers = pair.call(normalise, norm, images, slopes, cut)
    whole = images.clone().requires_grad_()
    expected = norm(whole)
    (expected * slopes).sum().backward()
    torch.testing.assert_close(torch.cat([answer[0] for answer in answers]), expected.detach())
    torch.testing.assert_close(torch.cat([answer[1] for answer in answers]), whole.grad, atol=1e-5, rtol=1e-4)
    for _, _, gradients, state in answers:
        for name, parameter in norm.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(state, norm.state_dict())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "densenet121", "resnet18", "efficientnet_b0"])
def test_every_batch_norm_of_a_network_is_shared_and_nothing_is_renamed(name):
    model = build_model(ModelSpec(architecture=Architecture(timm=name), n_classes=2, channels=1)).eval()
    before = copy.deepcopy(model)
    share_batch_norms(model)
    kinds = {type(module).__name__ for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    assert kinds == {"SharedBatchNorm"}
    assert list(model.state_dict()) == list(before.state_dict())
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), before(images))


def test_a_norm_that_cannot_be_shared_is_refused():
    with pytest.raises(PlanError, match=r"1 \(BatchNorm2d\) is another kind"):
        share_batch_norms(nn.Sequential(nn.Identity(), nn.BatchNorm2d(3, affine=False)))


def test_too_few_images_for_the_workers_are_refused_with_what_to_do(folds):
    plan = TrainingPlan(batch_size=9)
    check_workers(4, folds=folds, training=plan)
    with pytest.raises(PlanError, match=r"fold 1/2 has 45 .+ batches of 9 .+workers_per_trial to 4 or fewer"):
        check_workers(5, folds=folds, training=plan)


def test_a_worker_that_runs_out_of_memory_alone_knows_how_the_trial_ends_and_the_other_one_is_left_with_a_lost_group(
    pair, context, make_task, folders
):
    memory = Disturbance(polls=POLLS + 2, error=partial(torch.OutOfMemoryError, "CUDA out of memory."))
    second = pair.call(train, make_task(), context, each=[(folders[0],), (folders[1], memory)], only=1)
    assert (second.lost_outcome.state, second.lost_outcome.fault) == ("failed", "memory")
    assert "batches of 9 images of 16 px (test_efficientnet) on 2 workers" in second.lost_outcome.reason
    pair.end(1)  # whoever runs the workers replaces all of them
    first = pair.answer(0)
    pair.end(0)
    assert "another worker of this trial is gone" in str(first.error)
    assert first.lost_outcome is None  # as when the other one is killed: the trial can go on
    outcome, heard = run_alone(make_task(), context, folders[0])
    assert outcome.state == "finished"
    assert heard[0].is_repeat
