"""Which of two ways to compute the same is faster, found by trying both for a short time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

BUDGET_SECONDS = 2.0  # for both ways together, but for one pass of either
LEAST_GAIN = 1.1  # times faster; less is not worth other last bits, and may be noise
_ROUNDS = 5
_HEAVY_SHARE = 0.25  # of the budget: a pass that takes this long computes, it does not wait for calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one pass; the least of several, since nothing makes a pass faster than it is."""

    in_turn: float
    together: float | None  # None: passes are so long that nothing could be gained

    @property
    def is_together_faster(self) -> bool:
        """Say whether running together is clearly faster."""
        return self.together is not None and self.in_turn >= LEAST_GAIN * self.together


def compare(
    in_turn: Callable[[], object], together: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Measure both ways in turn, after a pass of each that is not counted.

    Args:
        in_turn: One pass, which returns when the device is done.
        together: The same pass the other way.
        clock: Seconds.
    """

    def seconds(work: Callable[[], object]) -> float:
        started = clock()
        work()
        return clock() - started

    began = clock()
    seconds(in_turn)
    first = seconds(in_turn)
    if first > _HEAVY_SHARE * BUDGET_SECONDS:
        return Timing(in_turn=first, together=None)
    seconds(together)
    pairs = [(first, seconds(together))]
    while len(pairs) < _ROUNDS and clock() - began < BUDGET_SECONDS:
        pairs.append((seconds(in_turn), seconds(together)))
    return Timing(in_turn=min(one for one, _ in pairs), together=min(other for _, other in pairs))
