"""Batches of a size that keeps coming are replayed, and nothing else changes."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

import consilia
from consilia.predict.networks import InTurn, _run
from consilia.predict.replay import WORTH, Replayed
from recorded import Recorded


class Refuses:
    """A device that runs a function, and cannot record it."""

    def __init__(self, error):
        self._error = error

    def __call__(self, run):
        run()
        raise self._error


def batches(predictor, *sizes):
    reading = predictor.document.reading
    draw = np.random.default_rng(3).integers
    return [draw(0, 256, (n, reading.size, reading.size, reading.channels), dtype=np.uint8) for n in sizes]


SIZES = [5] * (WORTH + 3) + [2] + [5, 5, 7] + [2] * (WORTH + 2)  # 2 and 7: odd last batches


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replayed_batches_say_what_eager_ones_do_bit_for_bit(predictor, precision):
    loaded = predictor.networks.loaded
    eager = predictor.networks.running(InTurn(loaded, precision=precision))
    replayed = predictor.networks.running(InTurn(loaded, precision=precision), capture=(recorded := Recorded()))
    given = batches(predictor, *SIZES)
    found = [replayed.logits(pixels) for pixels in given]  # all kept, so that none may be overwritten
    for pixels, mine in zip(given, found, strict=True):
        np.testing.assert_array_equal(mine, eager.logits(pixels))
    assert (recorded.n_recorded, recorded.n_replays) == (1, 5)


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_captured_runs_eagerly_and_the_log_says_why_once(predictor, kind, caplog):
    refuses = Refuses(kind("operation not permitted when stream is capturing\nsecond line"))
    networks = predictor.networks.running(InTurn(predictor.networks.loaded), capture=refuses)
    with caplog.at_level(logging.WARNING, "consilia.predict.replay"):
        for pixels in batches(predictor, *SIZES):
            np.testing.assert_array_equal(networks.logits(pixels), predictor.networks.logits(pixels))
    (message,) = caplog.messages
    assert message.endswith("cannot be captured as a CUDA graph (operation not permitted when stream is capturing)")


def test_threads_that_share_a_recording_get_their_own_results(predictor):
    networks = predictor.networks.running(InTurn(predictor.networks.loaded), capture=(recorded := Recorded()))
    given = batches(predictor, *[5] * 40)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(networks.logits, given))
    for pixels, mine in zip(given, found, strict=True):
        np.testing.assert_array_equal(mine, predictor.networks.logits(pixels))
    assert (recorded.n_recorded, recorded.n_replays) == (1, 40 - WORTH)


def test_what_a_recording_reads_is_kept():
    kept = object()
    replayed = Replayed(lambda images: images + 1, Recorded(), lambda images: kept)
    for _ in range(WORTH + 1):
        replayed(torch.zeros(2))
    assert replayed._kept is kept


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_on_a_gpu_replayed_batches_say_what_eager_ones_do(built_bundle, precision, tolerance):
    networks = consilia.load(built_bundle, device="cuda", precision=precision).networks
    predictor = consilia.load(built_bundle, device="cuda", precision=precision)
    eager = predictor.networks
    eager._pass = partial(_run, eager._program)
    given = batches(predictor, *SIZES)
    found = [networks.logits(pixels) for pixels in given]
    assert networks._pass._images is not None
    largest = max(float(np.abs(mine - eager.logits(pixels)).max()) for pixels, mine in zip(given, found, strict=True))
    print(f"\nlargest difference of logits: {largest:.1e}")
    assert largest <= tolerance
