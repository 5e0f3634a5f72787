"""A lower precision is measured against float32 before it is trusted: on the golden inputs, and on the first batch."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from consilia.config.records import Probabilities
from consilia.decision.calibrators import AnyCalibrator, pool_folds
from consilia.errors import UserError
from consilia.metrics.scores import softmax
from consilia.predict.networks import (
    NOTHING,
    FoldEnsembles,
    InTurn,
    Known,
    Precision,
    Program,
    ShownImages,
    exact_convolutions,
)

LARGEST_MOVE = 1e-2  # of the ensemble's calibrated probabilities


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        UserError: It is unknown; names those that can be had.
    """
    if precision not in get_args(Precision):
        raise UserError(f"precision must be one of {', '.join(get_args(Precision))}, but got {precision!r}.")


def run_in_precision(
    networks: FoldEnsembles, calibrator: AnyCalibrator, images: npt.NDArray[np.uint8], precision: Precision
) -> FoldEnsembles:
    """Return the networks as they are to compute; a precision below float32 is checked on golden inputs first.

    Args:
        networks: As they were loaded.
        calibrator: Of the ensemble, to judge what becomes of its probabilities.
        images: Golden inputs, (n_images, size, size, channels).
        precision: What was asked for.

    Raises:
        UserError: It moves a probability of the golden inputs too far.
    """
    if precision == "float32":
        return networks
    n_members = networks.n_members

    def assess(logits: torch.Tensor) -> Probabilities:
        shaped = logits.cpu().numpy().reshape(n_members, -1, *logits.shape[1:])
        return pool_folds(calibrator, networks.pool(softmax(shaped)))

    fast, exact = InTurn(networks.loaded, precision=precision), InTurn(networks.loaded)
    checked = CheckedPrecision(fast, exact, assess, precision=precision)
    with torch.inference_mode(), exact_convolutions(networks.device):
        checked.check(ShownImages(torch.from_numpy(images).to(networks.device)), of="the golden inputs")
    return networks.running(checked)


class CheckedPrecision:
    """A program of lower precision that also computes its first batch in float32, and refuses to go on if they differ.

    The ensemble's probabilities are compared. Those of later batches are not.
    """

    def __init__(
        self,
        fast: Program,
        exact: Program,
        assess: Callable[[torch.Tensor], Probabilities],
        *,
        precision: Precision,
    ) -> None:
        """Take the program, its float32 counterpart, and what turns logits into the ensemble's probabilities."""
        self._fast, self._exact, self._assess, self._precision = fast, exact, assess, precision
        self._has_seen_images = False

    def __call__(self, shown: ShownImages, known: Known = NOTHING) -> torch.Tensor:
        """Return logits (n_networks, n_images, n_classes).

        Raises:
            UserError: This is the first batch, and a probability differs by more than `LARGEST_MOVE`.
        """
        if self._has_seen_images:
            return self._fast(shown, known)
        logits = self.check(shown, known, of="the first batch of images")
        self._has_seen_images = True
        return logits

    def check(self, shown: ShownImages, known: Known = NOTHING, *, of: str) -> torch.Tensor:
        """Return the logits, as `__call__` does, of images that do not count as the first batch.

        Raises:
            UserError: A probability differs by more than `LARGEST_MOVE`, or is not finite.
        """
        logits = self._fast(shown, known)
        move = float(np.abs(self._assess(logits) - self._assess(self._exact(shown, NOTHING))).max())
        if not move <= LARGEST_MOVE:  # true for NaN too
            raise UserError(
                f"precision={self._precision!r} may move a probability by {LARGEST_MOVE} at most, but on {of} it moves "
                f"one by {move:.3f}. Load this ensemble with precision='float32'."
            )
        return logits
