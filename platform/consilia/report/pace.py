"""How fast something goes, and how long the rest takes, by the last minute."""

from collections import deque

_SECONDS = 60.0  # older observations say little about the time left


class Pace:
    """The speed of a count that grows."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # time, items done

    def add(self, now: float, done: int) -> None:
        """Take down how many items are done."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > _SECONDS:
            self._seen.popleft()

    def describe(self, total: int, unit: str) -> str:
        """Return "412 images/s, about 3 min left", or nothing before any time has passed."""
        if not self._seen:
            return ""
        (start, first), (now, done) = self._seen[0], self._seen[-1]
        if now <= start or done <= first:
            return ""
        rate = (done - first) / (now - start)
        return f"{describe_rate(rate, unit)}, about {describe_seconds((total - done) / rate)} left"


def describe_rate(per_second: float, unit: str) -> str:
    """Return "412 images/s", or "412/s" where there is no word for what is counted."""
    number = f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"
    return f"{number} {unit}/s" if unit else f"{number}/s"


def describe_seconds(seconds: float) -> str:
    """Return "12 s", "5 min" or "1 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
