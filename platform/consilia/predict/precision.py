"""A lower precision is measured against float32 before it is trusted: on the golden inputs, and on the first batch."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from consilia.config.records import Probabilities
from consilia.decision.calibrators import AnyCalibrator, pool_folds
from consilia.errors import UserError
from consilia.metrics.scores import softmax
from consilia.predict.networks import (
    FoldEnsembles,
    InTurn,
    Precision,
    Program,
    ShownImages,
    exact_convolutions,
)

LARGEST_MOVE = 1e-2  # of the ensemble's calibrated probabilities

AskedPrecision = Literal["float32", "bfloat16", "auto"]
"""auto: the fastest of those that the device is made for which moves no probability too far."""


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        UserError: It is unknown; names those that can be had.
    """
    if precision not in get_args(AskedPrecision):
        raise UserError(f"precision must be one of {', '.join(get_args(AskedPrecision))}, but got {precision!r}.")


def fast_precisions(device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions below float32 that the device is made for, the fastest first."""
    if device.type != "cuda":
        return ()
    found: list[Precision] = []
    if torch.cuda.is_bf16_supported(including_emulation=False):
        found.append("bfloat16")
    if torch.cuda.get_device_capability(device) >= (8, 0):
        found.append("tfloat32")
    return tuple(found)


def run_in_precision(
    networks: FoldEnsembles, calibrator: AnyCalibrator, images: npt.NDArray[np.uint8], precision: AskedPrecision
) -> FoldEnsembles:
    """Return the networks as they are to compute; a precision below float32 is checked on golden inputs first.

    Args:
        networks: As they were loaded.
        calibrator: Of the ensemble, to judge what becomes of its probabilities.
        images: Golden inputs, (n_images, size, size, channels).
        precision: What was asked for.

    Raises:
        UserError: It moves a probability of the golden inputs too far, and is not "auto".
    """
    tried = fast_precisions(networks.device) if precision == "auto" else (precision,)
    if tried in ((), ("float32",)):
        return networks
    n_members = networks.n_members

    def assess(logits: torch.Tensor) -> Probabilities:
        shaped = logits.cpu().numpy().reshape(n_members, -1, *logits.shape[1:])
        return pool_folds(calibrator, networks.pool(softmax(shaped)))

    exact = InTurn(networks.loaded)
    programs = [InTurn(networks.loaded, precision=each) for each in tried]
    checked = CheckedPrecision(programs, exact, assess, refuses=precision != "auto")
    with torch.inference_mode(), exact_convolutions(networks.device):
        checked.check(ShownImages(torch.from_numpy(images).to(networks.device)), of="the golden inputs")
    return networks.running(checked)


class CheckedPrecision:
    """A program of lower precision that also computes its first batch in float32, and gives way if they differ.

    The ensemble's probabilities are compared. Those of later batches are not.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        exact: Program,
        assess: Callable[[torch.Tensor], Probabilities],
        *,
        refuses: bool,
    ) -> None:
        """Take what may compute in place of the float32 program `exact`.

        Args:
            programs: The fastest first; each gives way to the next, and the last to `exact`.
            exact: In float32.
            assess: Turns logits into the ensemble's probabilities.
            refuses: Raise where the first program would give way.
        """
        self._programs, self._exact, self._assess, self._refuses = [*programs, exact], exact, assess, refuses
        self._has_seen_images = False

    @property
    def precision(self) -> Precision:
        """That the next batch is computed in."""
        return self._programs[0].precision

    def __call__(self, shown: ShownImages) -> torch.Tensor:
        """Return logits (n_networks, n_images, n_classes).

        Raises:
            UserError: This is the first batch, a probability differs by more than `LARGEST_MOVE`, and nothing may give
                way.
        """
        if self._has_seen_images:
            return self._programs[0](shown)
        logits = self.check(shown, of="the first batch of images")
        self._has_seen_images = True
        return logits

    def check(self, shown: ShownImages, *, of: str) -> torch.Tensor:
        """Return the logits, as `__call__` does, of images that do not count as the first batch.

        Raises:
            UserError: A probability differs by more than `LARGEST_MOVE`, or is not finite, and nothing may give way.
        """
        exact = self._exact(shown)
        expected = self._assess(exact)
        while (program := self._programs[0]) is not self._exact:
            logits = program(shown)
            move = float(np.abs(self._assess(logits) - expected).max())
            if move <= LARGEST_MOVE:  # false for NaN too
                return logits
            if self._refuses:
                raise UserError(
                    f"precision={program.precision!r} may move a probability by {LARGEST_MOVE} at most, but on {of} it "
                    f"moves one by {move:.3f}. Load this ensemble with precision='float32'."
                )
            del self._programs[0]
        return exact
