"""A search in virtual time: the same controller, racing and limits as in slots, with trials that are played.

Thousands of trials on hundreds of workers take seconds, so that fairness, budgets and resumption can be tested, and the
driver's own cost measured. After the simulator backend of Salinas et al., Syne Tune, AutoML 2022.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialTask
from consilia.tune.contract import Controller

Play = Callable[[TrialTask], Iterator[tuple[float, TaskTaken | EpochReport | TrialOutcome]]]
"""What a worker does with a trial: (seconds since its last message, message), up to the outcome."""


class VirtualClock:
    """Seconds that pass only when the simulation says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the present second."""
        return self.now


@dataclass(slots=True, kw_only=True)
class SimulatedSearch:
    """What happened."""

    n_messages: int = 0  # each is one decision
    most_running: int = 0


def simulate(
    controller: Controller,
    play: Play,
    *,
    clock: VirtualClock,
    n_slots: Callable[[], int],
    until: float = float("inf"),
) -> SimulatedSearch:
    """Run the controller's trials until it has no more, must leave, or the driver "dies".

    Args:
        controller: Its ledger must read `clock`.
        play: Plays one trial on one worker.
        clock: Moved from message to message.
        n_slots: Trials at a time; asked after each message, so it may change with the clock.
        until: The second at which the driver is killed: trials stay as they are.

    Returns:
        Counts for tests and benchmarks.
    """
    result = SimulatedSearch()
    order = itertools.count()  # a tie goes to who came first
    coming: list[tuple[float, int, int, TaskTaken | EpochReport | TrialOutcome]] = []
    playing: dict[int, Iterator[tuple[float, TaskTaken | EpochReport | TrialOutcome]]] = {}

    def wait_for(number: int) -> None:
        seconds, message = next(playing[number])
        heapq.heappush(coming, (clock.now + seconds, next(order), number, message))

    while not controller.must_leave():
        controller.reserve(n_slots())
        while controller.n_running < n_slots() and (task := controller.next_task()) is not None:
            playing[task.number] = play(task)
            wait_for(task.number)
        result.most_running = max(result.most_running, controller.n_running)
        if not coming or coming[0][0] > until:
            break
        at, _, number, message = heapq.heappop(coming)
        clock.now = at
        result.n_messages += 1
        if hear(controller, message):
            wait_for(number)
        else:
            del playing[number]
    return result


def hear(controller: Controller, message: TaskTaken | EpochReport | TrialOutcome) -> bool:
    """Hand one message to the controller, as Tune's adaptors do; say whether the trial stays in its slot."""
    if isinstance(message, TrialOutcome):
        controller.end(message)
        return False
    if isinstance(message, TaskTaken):
        controller.taken(message)
        return True
    if controller.hear(message) is None:
        return True
    controller.left(message.number)
    return False
