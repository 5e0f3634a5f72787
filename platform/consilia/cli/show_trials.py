"""What `consilia trials` prints; apart from the rest, since it is asked for again and again and must start at once."""

import time
from collections.abc import Callable

from consilia.report.confirmations import confirmation_lines
from consilia.report.console import make_console
from consilia.report.trials import TrialBoard, hints, leaderboard_table
from consilia.report.watch import TrialWatch


def show_trials(board: TrialBoard) -> None:
    """Print a study's trials, the best first, and how the unfinished ones go on."""
    console = make_console()
    console.print(leaderboard_table(board, width=console.width))
    for line in (*confirmation_lines(board.confirmations, metric=board.metric), *hints(board)):
        console.print(line, soft_wrap=True, highlight=False)


def follow_trials(read: Callable[[], TrialBoard], *, every: float) -> None:
    """Show the trials every so many seconds, until nothing is left to run."""
    with TrialWatch(make_console()) as view:
        while True:
            board = read()
            view.show(board)
            if board.is_over:
                return
            time.sleep(every)
