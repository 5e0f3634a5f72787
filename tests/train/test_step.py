"""The training step: captured steps change what eager ones change, and nothing else."""

import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from consilia.config.augmentation import POLICIES
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.records import ALL_FOLDS
from consilia.config.space import Architecture, Hyperparameters
from consilia.data.folds import make_folds
from consilia.train import fold, inference, loop, step
from consilia.train.batches import open_images
from consilia.train.capture import Capture
from consilia.train.cross_validation import cross_validate
from consilia.train.fold import open_fold
from consilia.train.job import make_job
from consilia.train.loop import train_epoch
from consilia.train.losses import make_loss
from consilia.train.networks.factory import build_model
from consilia.train.optimiser import WeightAverage, make_optimiser
from consilia.train.step import Batch, Step
from consilia.train.warp import draw_warps
from recorded import Recorded

SIDE = 16
SPEC = ModelSpec(
    architecture=Architecture(timm="test_resnet"), n_classes=2, channels=1, head_dropout=0.3, drop_path=0.2
)
OPTIONS = Hyperparameters(architecture="test_resnet", lr=1e-3, mixup=0.4, smallest_layer_lr=0.3)
RECIPE = Preprocessing(size=SIDE, channels=1, image_size=SIDE, mean=(0.5,), std=(0.25,))


class Played:
    """Stands in for a CUDA graph: a step is computed before it is recorded, and a replay reads the same tensors."""

    def __init__(self, error: Exception | None = None) -> None:
        self.n_replays, self.n_recorded = 0, 0
        self._error = error

    def __call__(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        loss = run().clone()
        run()
        if self._error is not None:
            raise self._error
        self.n_recorded += 1

        def replay() -> torch.Tensor:
            self.n_replays += 1
            return loss.copy_(run())

        return replay


class Training:
    """A small network, and the batches that it is trained on."""

    def __init__(self, device: str = "cpu", *, capture: Capture | None = None, often: tuple[int, ...] = ()) -> None:
        torch.manual_seed(1)
        self.device = torch.device(device)
        self.model = build_model(SPEC).to(self.device, memory_format=torch.channels_last).train()
        self.average = WeightAverage(self.model)
        self.optimiser = make_optimiser(self.model, OPTIONS)
        self.step = Step(
            model=self.model,
            average=self.average,
            optimiser=self.optimiser,
            loss=make_loss(OPTIONS, np.array([3, 5]), self.device),
            preprocessing=RECIPE,
            precision="float32",
            mixes=True,
            often=often,
            capture=capture,
        )

    def train(self, n_steps: int, *, on_device: bool = True) -> list[float]:
        """Take steps on batches of 8 and 7 images in turn; return their losses."""
        rng = np.random.default_rng(0)
        torch.manual_seed(2)
        losses = []
        for number in range(n_steps):
            b = 8 - number % 2
            images = torch.from_numpy(rng.integers(0, 256, (b, SIDE, SIDE, 1), dtype=np.uint8)).to(self.device)
            warps = draw_warps(rng, b, policy=POLICIES["xray"], strength=0.5).to(self.device)
            targets = torch.eye(2)[torch.from_numpy(rng.integers(0, 2, b))].to(self.device)
            rates = [1e-3 * group["scale"] for group in self.optimiser.param_groups]
            numbers = [0.1, rng.random(), 1.0, *rates]
            settings = torch.tensor(numbers, device=self.device) if on_device else numbers
            losses.append(float(self.step(Batch(images, warps, targets, settings), n_own=b)))
        return losses

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that training has changed."""
        moments = {
            f"{name} {key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimiser.state[parameter].items()
        }
        average = {f"average {name}": tensor for name, tensor in self.average.module.state_dict().items()}
        return {**self.model.state_dict(), **average, **moments, "random": torch.get_rng_state()}


def assert_equal(one: Training, other: Training) -> None:
    mine, theirs = one.state(), other.state()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_200_captured_steps_change_what_eager_ones_change_bit_for_bit():
    eager, captured = Training(), Training(capture=(recorded := Recorded()), often=(7, 8))
    losses = eager.train(200)
    assert captured.train(200) == losses
    assert (recorded.n_recorded, recorded.n_replays) == (2, 200)
    assert_equal(eager, captured)
    assert all(one != other for one, other in pairwise(losses))


def test_settings_on_the_device_are_those_in_numbers_but_for_rounding():
    numbers, device = Training(), Training()
    np.testing.assert_allclose(device.train(20), numbers.train(20, on_device=False), rtol=1e-3)


def test_only_sizes_that_come_often_are_captured():
    eager, captured = Training(), Training(capture=(played := Played()), often=(8,))
    assert captured.train(10) == eager.train(10)
    assert (played.n_recorded, played.n_replays) == (1, 5)
    assert_equal(eager, captured)


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError, torch.OutOfMemoryError])
def test_a_step_that_cannot_be_captured_is_taken_eagerly_and_the_log_says_why(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
):
    played = Played(kind("operation not permitted when stream is capturing\nsecond line"))
    eager, captured = Training(), Training(capture=played, often=(7, 8))
    losses = eager.train(10)
    with caplog.at_level(logging.WARNING, "consilia.train.step"):
        assert captured.train(10) == losses
    assert_equal(eager, captured)
    (message,) = caplog.messages
    assert message.endswith("cannot be captured as a CUDA graph (operation not permitted when stream is capturing)")


def test_a_device_that_breaks_while_a_step_is_captured_is_not_taken_for_one_without_graphs(
    monkeypatch: pytest.MonkeyPatch,
):
    def is_lost(device: torch.device) -> None:
        raise torch.AcceleratorError("an illegal memory access")

    monkeypatch.setattr("consilia.train.capture._check", is_lost)
    training = Training(capture=Played(RuntimeError("it cannot be recorded")), often=(8,))
    with pytest.raises(torch.AcceleratorError):
        training.train(1)


class ReadBacks(TorchDispatchMode):
    """Counts how often the host asks the device for a number, each of which a GPU makes wait for all its steps."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_an_epoch_reads_nothing_back_but_the_loss_now_and_then(make_context, make_task):
    context = make_context()
    job = make_job(make_task(mixup=0.2), 0, context)
    state = open_fold(job)
    images = open_images(context.store, job.device)
    with ReadBacks() as read_backs:
        assert train_epoch(job, state, images, epoch=1, stopped=lambda: False) is not None
    assert len(job.batches) > 2
    assert read_backs.n == 1


@pytest.fixture
def on_the_device(monkeypatch: pytest.MonkeyPatch):
    """Let a CPU's settings lie in tensors, as a GPU's do, and batches be worth a capture from the first on."""
    settings = loop._settings
    monkeypatch.setattr(loop, "_settings", lambda *given: torch.tensor(settings(*given)).unbind())
    monkeypatch.setattr(fold, "_WORTH_CAPTURING", 1)


@pytest.mark.usefixtures("on_the_device")
def test_one_capture_serves_all_folds_of_a_trial_and_each_fold_begins_anew(
    monkeypatch: pytest.MonkeyPatch, make_context, make_task, toy_store, tmp_path
):
    # Their training images differ in number, in mean and in the classes' shares.
    folds = make_folds(toy_store, k=4, seed=0, test="auto", test_fraction=0.2)
    task = make_task(mixup=0.3, head_dropout=0.2, imbalance="logit_adjustment", smallest_layer_lr=0.3)

    def train(name: str, make_capture: Callable[[torch.device], Capture | None]) -> Path:
        monkeypatch.setattr(step, "capture_for", make_capture)
        context = make_context(epochs=2, folds=folds, trials=tmp_path / name)
        assert cross_validate(task, context, report=[].append, stopped=lambda: False).state == "finished"
        return context.trial(0).root

    made: list[Recorded] = []

    def record(device: torch.device) -> Recorded:
        made.append(Recorded())
        return made[-1]

    eager, captured = train("eager", lambda device: None), train("captured", record)
    (recorded,) = made  # for one fold after the other
    jobs = [make_job(task, number, make_context(folds=folds)) for number in range(folds.k)]
    sizes = [part.stop - part.start for job in jobs for part in job.batches]
    assert (recorded.n_recorded, recorded.n_replays) == (len(set(sizes)), 2 * len(sizes))
    assert len({job.preprocessing.mean for job in jobs}) == folds.k
    assert len({tuple(job.loss.shift.tolist()) for job in jobs}) > 1
    for number in range(folds.k):
        weights = [load_file(trial / f"fold-{number}" / "weights.safetensors") for trial in (eager, captured)]
        assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []


def test_sizes_are_worth_a_capture_that_come_forty_times_in_a_trial(make_context, make_task):
    def found(number: int, *, epochs: int) -> set[int]:
        job = make_job(make_task(), number, make_context(epochs=epochs))
        assert {part.stop - part.start for part in job.batches} == {15}
        assert len(job.batches) == (6 if number == ALL_FOLDS else 4)
        return fold._frequent_sizes(job)

    for number in range(3):  # of three folds, all of which share it
        assert (found(number, epochs=3), found(number, epochs=4)) == (set(), {15})
    assert (found(ALL_FOLDS, epochs=6), found(ALL_FOLDS, epochs=7)) == (set(), {15})  # a refit


def test_steps_and_scores_keep_to_steady_convolutions_and_scores_that_stay_to_exact_ones(
    monkeypatch: pytest.MonkeyPatch, make_context, make_task
):
    asked: list[tuple[str, bool]] = []

    def listen(who: str):
        return lambda device, *, rounds: asked.append((who, rounds)) or nullcontext()

    monkeypatch.setattr(step, "steady_convolutions", listen("step"))
    monkeypatch.setattr(inference, "steady_convolutions", listen("score"))
    for precision, rounds in (("auto", True), ("float32", False)):
        training = make_context().training.model_copy(update={"precision": precision, "epochs": 1})
        asked.clear()
        cross_validate(make_task(), make_context(training=training), report=[].append, stopped=lambda: False)
        assert set(asked) == {("step", rounds), ("score", False)}
        shutil.rmtree(make_context().trials)


@pytest.mark.gpu
def test_on_a_gpu_200_captured_steps_are_those_of_200_eager_ones():
    eager, captured = Training("cuda"), Training("cuda", often=(7, 8))
    losses, theirs = np.array(eager.train(200)), np.array(captured.train(200))
    assert captured.step.is_captured
    mine, other = eager.state(), captured.state()
    largest = max(float((mine[name].float() - other[name].float()).abs().max()) for name in mine)
    print(f"\nlargest difference: losses {np.abs(losses - theirs).max():.1e}, state {largest:.1e}")
    np.testing.assert_allclose(theirs, losses, atol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_the_same_seed_gives_the_same_numbers_again():
    first, second = (Training("cuda", often=(7, 8)) for _ in range(2))
    assert first.train(200) == second.train(200)
    assert_equal(first, second)
