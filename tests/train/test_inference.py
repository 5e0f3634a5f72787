"""Scores that are only compared may be computed in bfloat16, unless that moves them; what is kept is float32."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from consilia.config.network import Preprocessing
from consilia.train import inference, loop
from consilia.train.batches import MappedImages, open_images
from consilia.train.cross_validation import cross_validate
from consilia.train.inference import predict_logits, scoring_batch
from training_listener import Listener

SIDE, ROWS = 8, np.arange(12)
RECIPE = Preprocessing(size=SIDE, channels=1, image_size=SIDE, mean=(0.5,), std=(0.25,))


class Shifted(nn.Module):
    """A linear layer that adds a number and takes it away: the larger it is, the more digits are lost."""

    def __init__(self, number: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self._layer, self._number = nn.Linear(SIDE * SIDE, 2), number

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._layer(images.flatten(1)) + self._number - self._number


@pytest.fixture
def halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "auto" mean bfloat16 on the CPU, as it does on a GPU."""
    monkeypatch.setattr(inference, "computes_in_bf16", lambda device, precision: precision == "auto")
    monkeypatch.setattr(
        inference, "autocast", lambda device, precision: torch.autocast("cpu", torch.bfloat16, precision == "auto")
    )


def logits(number: float, precision: str) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (len(ROWS), SIDE, SIDE, 1), dtype=np.uint8)
    images = MappedImages(pixels, torch.device("cpu"))
    return predict_logits(Shifted(number), images, ROWS, preprocessing=RECIPE, batch_size=5, precision=precision)


@pytest.mark.usefixtures("halved")
def test_scores_are_in_bfloat16_after_a_first_batch_that_is_computed_in_both():
    exact, found = logits(0.0, "float32"), logits(0.0, "auto")
    np.testing.assert_array_equal(found[:5], exact[:5])
    assert (found[5:] != exact[5:]).any()
    np.testing.assert_allclose(found, exact, atol=0.05)


@pytest.mark.usefixtures("halved")
def test_a_network_whose_probabilities_bfloat16_moves_is_scored_in_float32(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "consilia.train.inference"):
        found = logits(200.0, "auto")
    np.testing.assert_array_equal(found, logits(200.0, "float32"))
    (message,) = caplog.messages
    assert message.startswith("scored in float32: bfloat16 moves a probability by 0.")


def test_the_last_epoch_whose_logits_are_kept_is_scored_in_float32(
    make_context, make_task, monkeypatch: pytest.MonkeyPatch
):
    asked, listener = [], Listener()

    def spy(*arguments: object, precision: str, **named: object) -> np.ndarray:
        asked.append(precision)
        return predict_logits(*arguments, precision=precision, **named)

    monkeypatch.setattr(loop, "predict_logits", spy)
    cross_validate(make_task(), make_context(epochs=3), report=listener.report, stopped=listener.stopped)
    assert asked == ["auto", "auto", "float32"] * 3


def test_a_gpu_scores_four_training_batches_at_a_time_up_to_512_images_and_a_cpu_one():
    sizes = {b: (scoring_batch(b, torch.device("cpu")), scoring_batch(b, torch.device("cuda"))) for b in (16, 64, 200)}
    assert sizes == {16: (16, 64), 64: (64, 256), 200: (200, 512)}
    assert scoring_batch(1000, torch.device("cuda")) == 1000


def test_a_process_keeps_the_images_that_it_has_opened_last(make_context):
    store, device = make_context().store, torch.device("cpu")
    first = open_images(store, device)
    assert open_images(store, device) is first
    other = type(store).open(make_context().store_folder)
    assert open_images(other, device) is not first
    assert open_images(store, device) is not first
