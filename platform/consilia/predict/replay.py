"""Batches of a size that keeps coming are computed by replaying a recording, which spares a launch for each kernel."""

import logging
import threading
from collections import Counter
from collections.abc import Callable

import torch

from consilia.train.capture import Capture, why_not

logger = logging.getLogger(__name__)

WORTH = 4  # batches of one size before it is recorded: recording takes about as long as four of them


class Replayed:
    """A function of batches, recorded for the first size of batch that keeps coming; it runs as it is for all others.

    One recording, so that memory is bounded. Several threads may call; results are the caller's own.

    Args:
        run: Of images on a device, (n_images, ...); the same work for as many images.
        capture: Records it.
        keeps: Of the recorded images; returns what else `run` reads where it lies, for nobody else to let go of.
    """

    def __init__(
        self, run: Callable[[torch.Tensor], torch.Tensor], capture: Capture, keeps: Callable[[torch.Tensor], object]
    ) -> None:
        self._run, self._capture, self._keeps = run, capture, keeps
        self._n_seen: Counter[int] = Counter()
        self._tried, self._lock = False, threading.Lock()
        self._images: torch.Tensor | None = None  # that the recording reads
        self._replay: Callable[[], torch.Tensor]
        self._kept: object

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return what `run` returns."""
        with self._lock:
            self._n_seen[len(images)] += 1
            if self._n_seen[len(images)] > WORTH and not self._tried:
                self._try_to_capture(images)
            if self._images is not None and len(images) == len(self._images):
                self._images.copy_(images)
                return self._replay().clone()  # the next replay overwrites it
        return self._run(images)

    def _try_to_capture(self, images: torch.Tensor) -> None:
        self._tried, recorded = True, images.clone()
        try:
            self._replay = self._capture(lambda: self._run(recorded))
        except RuntimeError as error:  # of a device whose memory does not suffice too: without a graph it may
            reason = why_not(error, images.device)
            logger.warning("predictions run eagerly: they cannot be captured as a CUDA graph (%s)", reason)
            return
        self._images, self._kept = recorded, self._keeps(recorded)
