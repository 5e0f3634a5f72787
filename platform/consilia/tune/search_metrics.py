"""A search in Ray's own metrics: Prometheus reads them, and the board in cluster/grafana draws them.

Ray adds what it knows by itself: how busy a GPU is, and how much of its memory each worker's process holds.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable
from typing import NamedTuple, get_args

from ray.util.metrics import Counter, Gauge

from consilia.config.records import TrialState
from consilia.metrics.scores import METRICS
from consilia.tune.controller import TrialController
from consilia.tune.ledger import seconds_by_purpose
from consilia.tune.worker_groups import WorkerGroups

_SECONDS = 5.0  # between two publications; Prometheus asks every ten


class Served(NamedTuple):
    """A metric of a search, as a node serves it."""

    name: str  # Ray puts ray_ before it, and _total behind a counter's
    description: str
    labels: tuple[str, ...] = ()  # beside the study's name


GAUGES = (
    Served("consilia_best_objective", "Best mean over folds of the study's metric so far.", ("metric",)),
    Served("consilia_trials", "Trials by state.", ("state",)),
    Served("consilia_slots", "Slots that are wanted, have started, and are training.", ("state",)),
    Served("consilia_slot_seconds", "Seconds of all slots together, by what they were spent on.", ("purpose",)),
)
COUNTERS = (
    Served("consilia_epochs", "Epochs trained."),
    Served("consilia_images", "Images seen in training."),
    Served("consilia_losses", "Workers and slots lost, and trials that met a full memory or disk.", ("cause",)),
)


class SearchMetrics:
    """Publishes how far a search has come; each number is labelled with the study's name.

    Args:
        study: Its name.
        metric: Name of its metric.
        controller: Knows trials, losses and time.
        groups: Knows slots.
        clock: Returns seconds and never jumps.
    """

    def __init__(
        self,
        study: str,
        metric: str,
        controller: TrialController,
        groups: WorkerGroups,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._metric = study, metric
        self._controller, self._groups, self._clock = controller, groups, clock
        self._next = clock()
        self._gauges = {each.name: Gauge(each.name, each.description, ("study", *each.labels)) for each in GAUGES}
        self._counters = {each.name: Counter(each.name, each.description, ("study", *each.labels)) for each in COUNTERS}
        self._counted: Tally[tuple[str, str]] = Tally()  # what counters have been told

    def turn(self) -> None:
        """Publish, if it is time to."""
        if self._clock() >= self._next:
            self._next = self._clock() + _SECONDS
            self.publish()

    def publish(self, *, is_over: bool = False) -> None:
        """Publish everything; a search that is over has no slots."""
        records = self._controller.records.values()
        states = Tally(record.state for record in records)
        for state in get_args(TrialState):
            self._set("consilia_trials", states[state], state=state)
        scores = [record.objective for record in records if record.state == "finished" and record.objective is not None]
        if scores:
            best = max if METRICS[self._metric].higher_is_better else min
            self._set("consilia_best_objective", best(scores), metric=self._metric)
        slots = (0, 0, 0) if is_over else self._slots()
        for state, n in zip(("wanted", "started", "training"), slots, strict=True):
            self._set("consilia_slots", n, state=state)
        for purpose, seconds in seconds_by_purpose(self._controller.ledger.table()).items():
            self._set("consilia_slot_seconds", seconds, purpose=purpose)
        totals = self._controller.totals
        self._count("consilia_epochs", totals.epochs)
        self._count("consilia_images", totals.images)
        for cause, n in totals.losses.items():
            self._count("consilia_losses", n, cause=cause)

    def _slots(self) -> tuple[int, int, int]:
        return self._groups.n_wanted(), self._groups.n_started(), self._controller.n_training

    def _set(self, name: str, value: float, **labels: str) -> None:
        self._gauges[name].set(value, tags={"study": self._study, **labels})

    def _count(self, name: str, total: int, **labels: str) -> None:
        key = name, "".join(labels.values())
        if total > self._counted[key]:  # Ray refuses to count nothing
            self._counters[name].inc(total - self._counted[key], tags={"study": self._study, **labels})
            self._counted[key] = total
