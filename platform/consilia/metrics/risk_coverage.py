"""Abstention: what is still wrong when the least sure images are left to people. Source: docs/methods.md section 6.

An image is answered if its largest calibrated probability is at least a threshold. Coverage is the share answered, the
selective risk the share of wrong among them. AURC: Geifman, Uziel and El-Yaniv, ICLR 2019. AUGRC: Traub et al.,
Overcoming Common Flaws in the Evaluation of Selective Classification Systems, NeurIPS 2024. The choice of a threshold:
Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.config.records import Labels, Probabilities
from consilia.metrics.clustered import CONFIDENCE, Trials, effective_size, sums_before, upper_bound
from consilia.metrics.patients import patient_numbers, patient_weights
from consilia.metrics.scores import Scores, Weightings, check_scorable

LEVELS = 20  # coverages that a threshold may be chosen from: 5 %, 10 % ... 100 %


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiskCoverage:
    """The curve from the strictest threshold to none; images weigh 1 / (images of the patient)."""

    thresholds: npt.NDArray[np.float64]  # (m,) distinct confidences, descending
    coverage: npt.NDArray[np.float64]  # (m,) ascending, ends at 1
    risk: npt.NDArray[np.float64]  # (m,) of the images answered at each threshold
    aurc: float  # lower is better
    augrc: float  # lower is better


class AbstentionPoint(Frozen):
    """The confidence from which on the ensemble answers."""

    target: float  # risk
    threshold: float | None  # None: the data cannot support the target
    coverage: float | None
    risk: float | None
    upper: float | None  # 95 % bound of the risk, for the choice among all LEVELS coverages
    effective: float | None  # independent images that would tell as much as those answered
    patients: int
    reason: str


def risk_coverage(probabilities: Probabilities, labels: Labels, patients: npt.NDArray[np.str_]) -> RiskCoverage:
    """Return the curve and its areas.

    Args:
        probabilities: Calibrated, (n_images, n_classes).
        labels: True class numbers, (n_images,).
        patients: Of each image, (n_images,).
    """
    check_scorable(probabilities, labels)
    weightings = patient_weights(patients)[None]
    thresholds, masses, errors = _blocks(probabilities, labels, weightings)
    coverage, wrong = np.cumsum(masses[0]), np.cumsum(errors[0])
    return RiskCoverage(
        thresholds=thresholds,
        coverage=coverage / coverage[-1],
        risk=wrong / coverage,
        aurc=float(aurc(probabilities, labels, weightings)[0]),
        augrc=float(augrc(probabilities, labels, weightings)[0]),
    )


def aurc(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    """Return the area under the risk-coverage curve for each weighting: the mean over images of the selective risk.

    Each image sets the threshold once; images of equal confidence are answered together. 0 is best; a ranking at
    random has the error rate e, the best one about e + (1 - e) ln(1 - e).
    """
    _, masses, errors = _blocks(probabilities, labels, weightings)
    answered = np.cumsum(masses, axis=1)
    risks = np.divide(np.cumsum(errors, axis=1), answered, out=np.zeros_like(answered), where=answered > 0)
    result: Scores = (masses * risks).sum(axis=1) / answered[:, -1]
    return result


def augrc(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    """Return the area under the generalised risk-coverage curve for each weighting.

    The generalised risk is the share of *all* images that are answered and wrong: the area is the chance that an
    image is a silent failure, over thresholds whose coverage is uniform. 0 is best; a ranking at random has half the
    error rate e, the best one e * e / 2. Equal to (1 - AUROC) e (1 - e) + e * e / 2, where AUROC is that of telling
    right from wrong by confidence; images of equal confidence are joined by a straight line, as there.
    """
    _, masses, errors = _blocks(probabilities, labels, weightings)
    middle = np.cumsum(errors, axis=1) - errors / 2
    result: Scores = (masses * middle).sum(axis=1) / masses.sum(axis=1) ** 2
    return result


def choose_abstention(
    probabilities: Probabilities, labels: Labels, patients: npt.NDArray[np.str_], *, target: float
) -> AbstentionPoint:
    """Return the confidence threshold of the largest coverage whose risk stays under the target.

    20 coverages are tried, 5 % to 100 %, and each bound has 1 - 0.05 / 20 confidence: the best one may be picked, and
    its bound still holds in 95 of 100 data sets (Bonferroni). Unlike a sensitivity, the risk need not fall with the
    threshold, so testing in a fixed order would stop at the first error among the surest images. Bounds are
    Clopper-Pearson on the effective sample size of correlated images (`metrics.clustered`).

    What the bound does not cover: patients unlike these, another predictor than the one that gave
    `probabilities`, and networks that were chosen on these same images.

    Args:
        probabilities: Calibrated, (n_images, n_classes).
        labels: True class numbers, (n_images,).
        patients: Of each image, (n_images,).
        target: Risk between 0 and 1.
    """
    check_scorable(probabilities, labels)
    if not 0 < target < 1:
        raise ValueError(f"a target risk must lie between 0 and 1, but got {target}")
    thresholds, sums, coverage = _levels(probabilities, labels, patients)
    sizes = effective_size(sums)
    uppers = upper_bound(sums.rate, sizes, confidence=1 - (1 - CONFIDENCE) / LEVELS)
    passed = np.flatnonzero(uppers <= target)
    n_patients = len(np.unique(patients))
    if len(passed) == 0:
        least = int(np.ceil(np.log((1 - CONFIDENCE) / LEVELS) / np.log(1 - target)))
        best = int(np.argmin(uppers))
        reason = (
            f"No threshold: a risk of at most {target:g} cannot be shown for any share of these {n_patients} patients' "
            f"images; the nearest is at most {uppers[best]:.3g}, for the surest {100 * coverage[best]:.0f} %. "
            f"At least {least} answered patients are needed, even if none is answered wrongly."
        )
        return AbstentionPoint(
            target=target,
            threshold=None,
            coverage=None,
            risk=None,
            upper=None,
            effective=None,
            patients=n_patients,
            reason=reason,
        )
    last = int(passed[-1])
    return AbstentionPoint(
        target=target,
        threshold=float(thresholds[last]),
        coverage=float(coverage[last]),
        risk=float(sums.rate[last]),
        upper=float(uppers[last]),
        effective=float(sizes[last]),
        patients=n_patients,
        reason=(
            f"With 95 % confidence, at most {uppers[last]:.3g} of the images with a confidence of at least "
            f"{thresholds[last]:.4g} are answered wrongly; they are {100 * coverage[last]:.0f} % of all."
        ),
    )


def _confidence(probabilities: Probabilities, labels: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return each image's confidence and whether it is wrong, (n_images,) each."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) != labels


def _blocks(
    probabilities: Probabilities, labels: Labels, weightings: Weightings
) -> tuple[npt.NDArray[np.float64], Weightings, Weightings]:
    """Return distinct confidences, descending, and for each weighting the weight of their images and of errors."""
    confidence, wrong = _confidence(probabilities, labels)
    order = np.argsort(-confidence, kind="stable")
    starts = np.flatnonzero(np.diff(-confidence[order], prepend=-np.inf))
    masses = np.add.reduceat(weightings[:, order], starts, axis=1)
    errors = np.add.reduceat(weightings[:, order] * wrong[order], starts, axis=1)
    return confidence[order][starts], masses, errors


def _levels(
    probabilities: Probabilities, labels: Labels, patients: npt.NDArray[np.str_]
) -> tuple[npt.NDArray[np.float64], Trials, npt.NDArray[np.float64]]:
    """Return threshold, sums and coverage at the first threshold to reach each of the LEVELS coverages."""
    confidence, wrong = _confidence(probabilities, labels)
    order = np.argsort(-confidence, kind="stable")
    groups = patient_numbers(patients)[0][order]
    weights = patient_weights(patients)[order]
    errors = weights * wrong[order]
    weight_before, errors_before = sums_before(weights, groups), sums_before(errors, groups)
    trials = np.cumsum(weights)
    ends = np.flatnonzero(np.diff(-confidence[order], append=np.inf))  # of each run of equal confidences
    wanted = np.arange(1, LEVELS + 1) / LEVELS * trials[-1]
    reached = np.minimum(np.searchsorted(trials[ends], wanted * (1 - 1e-9)), len(ends) - 1)
    at = ends[np.unique(reached)]
    sums = Trials(
        trials=trials[at],
        events=np.cumsum(errors)[at],
        trials_squared=np.cumsum(2 * weight_before * weights + weights**2)[at],
        events_squared=np.cumsum(2 * errors_before * errors + errors**2)[at],
        trials_events=np.cumsum(weight_before * errors + errors_before * weights + errors * weights)[at],
    )
    return confidence[order][at], sums, trials[at] / trials[-1]
