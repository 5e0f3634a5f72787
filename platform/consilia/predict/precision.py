"""A lower precision is measured against float32 before it is trusted: on the golden inputs, and on the first batch."""

from collections.abc import Callable

import numpy as np
import torch

from consilia.config.records import Probabilities
from consilia.errors import UserError
from consilia.predict.networks import EnsembleProgram
from consilia.predict.programs import NOTHING, Known, Precision, ShownImages

LARGEST_MOVE = 1e-2  # of the ensemble's calibrated probabilities


class CheckedPrecision:
    """A program of lower precision that also computes its first batch in float32, and refuses to go on if they differ.

    What is compared are the ensemble's probabilities. Those of later batches are no longer compared.
    """

    def __init__(
        self,
        fast: EnsembleProgram,
        exact: EnsembleProgram,
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
