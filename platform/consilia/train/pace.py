"""How often a training's state goes out, to a disk or over a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LONGEST_SECONDS = 30.0  # between two, at most: what a lost process costs, beside the epoch under way
_SHARE = 0.02  # of the time may be spent on it: small states go out more often


class Pace:
    """Says when it is time again: as often as takes 2 % of the time, and every 30 seconds at least.

    Args:
        clock: Seconds; never jumps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock()

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return self._clock() >= self._next

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Enclose what sends the state; where it fails, the time stays as it was."""
        started = self._clock()
        yield
        ended = self._clock()
        self._next = ended + min(_LONGEST_SECONDS, (ended - started) / _SHARE)
