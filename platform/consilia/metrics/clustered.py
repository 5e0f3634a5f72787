"""Bounds of a rate when a patient's images go wrong together. Source: docs/methods.md section 6.

Clopper and Pearson, Biometrika 1934, on the effective sample size of Korn and Graubard, Survey Methodology 1998; the
variance is that of a ratio over patients (Rao and Scott, Biometrics 1992).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from consilia.metrics.estimates import Estimate
from consilia.metrics.patients import patient_numbers

CONFIDENCE = 0.95  # of each bound by itself; both together are a 90 % interval

Numbers = npt.NDArray[np.float64]  # (n_steps,)


class Rate(Estimate):
    """A rate over images, each weighted 1 / (images of its patient); `low` and `high` are one-sided 95 % bounds."""

    images: int
    patients: int
    effective: float  # independent images that would tell as much


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Sums over patients after each step; a patient's trials and events are sums of its images' weights."""

    trials: Numbers
    events: Numbers
    trials_squared: Numbers
    events_squared: Numbers
    trials_events: Numbers

    @property
    def rate(self) -> Numbers:
        """Events per trial."""
        return self.events / self.trials


def effective_size(sums: Trials) -> Numbers:
    """Return how many independent images would tell as much of the rate of events.

    The effective number of patients, times what one patient's images are worth: the variance of one image over that
    between patients. It is estimated with one patient added all of whose images are events: a handful of events among
    a few patients cannot show that events come singly, and without any there is nothing to estimate it from. With one
    image a patient, or images that go wrong together, it is the number of patients. Copies of images add nothing.
    """
    trials, events = sums.trials, sums.events
    added = sums.trials_squared / trials  # the added patient is as large as the others
    rate = (events + added) / (trials + added)
    squared = sums.trials_squared + added**2
    between = sums.events_squared + added**2 - 2 * rate * (sums.trials_events + added**2) + rate**2 * squared
    within = rate * (1 - rate) * squared
    # No spread: every image is an event, and the bound is 1 whatever the size.
    worth = np.divide(within, between, out=np.ones(len(trials)), where=between > 0)
    patients = trials**2 / sums.trials_squared
    result: Numbers = patients * np.maximum(worth, 1.0)
    return result


def upper_bound(rate: Numbers, size: Numbers, *, confidence: float = CONFIDENCE) -> Numbers:
    """Return the Clopper-Pearson upper bound of rates seen in `size` trials, which need not be whole numbers."""
    events = rate * size
    inside = events < size * (1 - 1e-12)
    bounds = beta.ppf(confidence, np.where(inside, events, 0.0) + 1, np.where(inside, size - events, 1.0))
    result: Numbers = np.where(inside, bounds, 1.0)
    return result


def clustered_rate(events: npt.NDArray[np.bool_], patients: npt.NDArray[np.str_]) -> Rate | None:
    """Return the rate of `events`, (n_images,), with its bounds; None if there is no image.

    The bounds hold for a rate that was not chosen by looking at these images.
    """
    if len(events) == 0:
        return None
    numbers, n_patients = patient_numbers(patients)
    counts = np.bincount(numbers)
    shares = np.bincount(numbers, events) / counts  # of events, (n_patients,)

    def bound(shares: npt.NDArray[np.float64]) -> tuple[float, float]:
        sums = full_trials(shares.sum()[None], (shares**2).sum()[None], n_patients)
        size = effective_size(sums)
        return float(upper_bound(sums.rate, size)[0]), float(size[0])

    high, effective = bound(shares)
    complement, other = bound(1 - shares)
    return Rate(
        value=float(shares.mean()),
        low=1 - complement,
        high=high,
        images=len(events),
        patients=n_patients,
        effective=min(effective, other),
    )


def full_trials(events: Numbers, events_squared: Numbers, n_patients: int) -> Trials:
    """Return the sums when all images of every patient are trials, at every step."""
    all_patients = np.full(len(events), float(n_patients))
    return Trials(
        trials=all_patients,
        events=events,
        trials_squared=all_patients,
        events_squared=events_squared,
        trials_events=events,
    )


def sums_before(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return for each place, (n,), the sum of the `values` of its group at earlier places."""
    order = np.argsort(groups, kind="stable")
    running = np.cumsum(values[order]) - values[order]
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    lengths = np.diff(starts, append=len(values))
    result = np.empty(len(values))
    result[order] = running - np.repeat(running[starts], lengths)
    return result
