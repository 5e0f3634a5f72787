"""A search in Ray's own metrics: Prometheus reads them, and the board in cluster/grafana draws them.

Ray adds what it knows by itself: how busy a GPU is, and how much of its memory each worker's process holds.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

from ray.util import metrics as ray_metrics

from consilia.config.records import TrialState
from consilia.metrics.scores import METRICS
from consilia.tune.controller import TrialController
from consilia.tune.ledger import seconds_by_purpose
from consilia.tune.worker_groups import WorkerGroups

SECONDS = 5.0  # between two publications; Prometheus asks every ten


class Served(NamedTuple):
    """A metric of a search, as a node serves it."""

    name: str  # Ray puts ray_ before it, and _total behind a counter's
    description: str
    labels: tuple[str, ...] = ()  # beside the study's name

    def declared(self) -> tuple[str, str, tuple[str, ...]]:
        """Return what Ray asks for: name, description and all labels."""
        return self.name, self.description, ("study", *self.labels)


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


class Slots(NamedTuple):
    """How many slots there are; a search that is over has none."""

    wanted: int = 0
    started: int = 0
    training: int = 0


Number = tuple[str, dict[str, str], float]
"""Name of a metric, its labels beside the study's name, and its value; of a counter, its total."""


def measure(controller: TrialController, slots: Slots, *, metric: str) -> Iterator[Number]:
    """Yield everything that a search serves.

    Args:
        controller: Knows trials, losses and time.
        slots: As they are now.
        metric: Name of the study's.
    """
    records = controller.records.values()
    states = Counter(record.state for record in records)
    for state in get_args(TrialState):
        yield "consilia_trials", {"state": state}, states[state]
    scores = [record.objective for record in records if record.state == "finished" and record.objective is not None]
    if scores:
        best = max if METRICS[metric].higher_is_better else min
        yield "consilia_best_objective", {"metric": metric}, best(scores)
    for name, n in slots._asdict().items():
        yield "consilia_slots", {"state": name}, n
    for purpose, seconds in seconds_by_purpose(controller.ledger.table()).items():
        yield "consilia_slot_seconds", {"purpose": purpose}, seconds
    totals = controller.totals
    yield "consilia_epochs", {}, totals.epochs
    yield "consilia_images", {}, totals.images
    for cause, n in totals.losses.items():
        yield "consilia_losses", {"cause": cause}, n


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
        self._gauges = {each.name: ray_metrics.Gauge(*each.declared()) for each in GAUGES}
        self._counters = {each.name: ray_metrics.Counter(*each.declared()) for each in COUNTERS}
        self._counted: Counter[tuple[str, ...]] = Counter()  # what counters have been told, by name and labels

    def turn(self) -> None:
        """Publish, if it is time to."""
        if self._clock() >= self._next:
            self._next = self._clock() + SECONDS
            groups = self._groups
            self._publish(Slots(groups.n_wanted(), groups.n_started(), self._controller.n_training))

    def close(self) -> None:
        """Publish what a search has come to that is over."""
        self._publish(Slots())

    def _publish(self, slots: Slots) -> None:
        for name, labels, value in measure(self._controller, slots, metric=self._metric):
            tags, key = {"study": self._study, **labels}, (name, *labels.values())
            if name in self._gauges:
                self._gauges[name].set(value, tags=tags)
            elif value > self._counted[key]:  # Ray refuses to count nothing
                self._counters[name].inc(value - self._counted[key], tags=tags)
                self._counted[key] = int(value)
