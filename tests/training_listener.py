"""Who listens to a training, and may disturb it."""


class KilledError(Exception):
    """The process is gone."""


class Listener:
    """Keeps what is reported; stops after so many polls or dies after so many reports, if asked to."""

    def __init__(self, *, polls: int | None = None, reports: int | None = None, error: Exception | None = None):
        self.heard = []
        self._polls, self._reports, self._error = polls, reports, error or KilledError()

    def report(self, report) -> None:
        self.heard.append(report)
        if self._reports == len(self.heard):
            raise self._error

    def stopped(self) -> bool:
        if self._polls is None:
            return False
        self._polls -= 1
        return self._polls < 0

    @property
    def epochs(self) -> list[tuple[int, int]]:
        return [(report.fold, report.epoch) for report in self.heard]
