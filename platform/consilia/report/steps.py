"""What a command of several steps is doing: a bar on a terminal, elsewhere a line every ten seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from consilia.report.console import make_console
from consilia.report.pace import Pace

LINE_SECONDS = 10.0  # between two lines where there is no terminal
_FIRST = "loading torch"  # which every such command does before it can tell a step


class StepsProgress:
    """Shows the step that is at work, how far it is, how fast, and how long the rest takes.

    Args:
        console: Where to show it.
        clock: Returns seconds; tests pass their own.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[far]}"))
        # Without a terminal, rich would leave blank lines where the bar was.
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._console = console
        self._clock = clock
        self._task = self._bar.add_task(_FIRST, total=None, far="")
        self._step, self._done, self._total = _FIRST, 0, 0
        self._pace = Pace()
        self._bar.start()

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        """Say that `done` of `total` items of a step are done; a total of 0: nobody knows how many there are."""
        if step != self._step:
            self._pace = Pace()
        self._step, self._done, self._total = step, done, total
        self._pace.add(self._clock(), done)
        self._bar.update(self._task, description=step, completed=done, total=total or None, far=self._far())

    def say(self) -> None:
        """Print one line, where there is no terminal."""
        if not self._console.is_terminal:
            line = ", ".join(filter(None, [self._step, self._far()]))
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _far(self) -> str:
        if not self._total:
            return ""
        return ", ".join(filter(None, [f"{self._done} of {self._total}", self._pace.describe(self._total, "")]))


@contextmanager
def show_steps() -> Iterator[StepsProgress]:
    """Show on standard error what the steps of a block are, so that its output can be piped."""
    steps = StepsProgress(make_console(stderr=True))
    ended = threading.Event()
    thread = threading.Thread(target=_keep_saying, args=(steps, ended), daemon=True)
    thread.start()
    try:
        yield steps
    finally:
        ended.set()
        thread.join()
        steps.close()


def _keep_saying(steps: StepsProgress, ended: threading.Event) -> None:
    while not ended.wait(LINE_SECONDS):
        steps.say()
