"""Simulations behind docs/methods.md, sections 6 and 7: are promises kept on drawn patients, whose truth is known?

    OMP_NUM_THREADS=1 python benchmarks/guarantees.py [--quick] [--draws 200] [--pools 2000]

`--draws` is the number of cross-validation pools for prediction sets, `--pools` that of each setting for thresholds.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from consilia.decision.calibrators import Identity, pool_folds
from consilia.decision.disagreement import measure_disagreement
from consilia.decision.sets import Members, conforming_classes
from consilia.ensemble.selection import Truth
from consilia.ensemble.thresholds import choose_threshold
from consilia.ensemble.uncertainty import calibrate_sets, disagreement_limit
from consilia.metrics.patients import patient_weights
from consilia.metrics.risk_coverage import choose_abstention
from consilia.metrics.scores import softmax
from shared.figures import print_figures

PATIENTS, CORRELATIONS = (80, 300, 1000), (0.0, 0.5, 0.9)
TARGETS = (0.8, 0.9, 0.95, 0.99)
FOLDS = (1, 3, 5)
RISK = 0.05
TARGET = 0.95
_MEMBERS = np.array([0.5, 0.3, 0.2])
K = 5
FoldProbabilities = npt.NDArray[np.float64]  # (K, n_images, n_classes)
Measure = Callable[[np.random.Generator], float]
Measured = tuple[float, float]  # mean over draws, standard error
TITLES = {
    "sets": "share covered by prediction sets, aim 0.9",
    "thresholds": "share of pools with a true sensitivity below 0.95",
    "disagreement_flags": "share of usual images flagged for disagreement",
    "least_positive_patients": "fewest patients, all found",
    "least_answered_patients": "fewest answered patients, all correct",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 draws and 20 pools")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--pools", type=int)
    arguments = parser.parse_args()
    n_draws = arguments.draws or (5 if arguments.quick else 200)
    n_pools = arguments.pools or (20 if arguments.quick else 2000)
    figures: dict[str, Mapping[str, tuple[float, float | None]]] = {
        "sets": {name: _mean(measure, n_draws) for name, measure in _SET_MEASURES.items()},
        "thresholds": measure_thresholds(n_pools),
        "disagreement_flags": {f"folds: {n}": (disagreement_flags(n), None) for n in FOLDS},
        "least_positive_patients": {f"sensitivity {target:g}": (least_positive(target), None) for target in TARGETS},
        "least_answered_patients": {f"risk {RISK:g}": (least_answered(RISK), None)},
    }
    print_figures(
        f"{n_draws} draws for sets, {n_pools} pools a setting for thresholds",
        ["what", "setting", "found", "standard error"],
        [(TITLES[kind], name, *_words(*found)) for kind, part in figures.items() for name, found in part.items()],
        {"n_draws": n_draws, "n_pools": n_pools, **figures},
    )


def measure_thresholds(n_pools: int) -> dict[str, tuple[float, float]]:
    """Return the share of broken promises in each setting, and its standard error."""
    found = {}
    for patients in PATIENTS:
        for correlation in CORRELATIONS:
            share = share_below_target(n_pools, patients=patients, correlation=correlation)
            error = float(np.sqrt(share * (1 - share) / n_pools))
            found[f"{patients} patients, correlation {correlation:g}"] = share, error
    return found


def _words(value: float, error: float | None) -> tuple[str, str]:
    if isinstance(value, int):
        return str(value), ""
    return f"{value:.3f}", "" if error is None else f"{error:.3f}"


def _differing(rng: np.random.Generator) -> float:
    """Fold ensembles share how hard a patient is, and err each in its own way."""
    pool, truth = _draw(rng, patients=150, shares=[1 / 3] * 3)
    new, new_truth = _draw(rng, patients=200, shares=[1 / 3] * 3)
    return _covered(conforming_classes(calibrate_sets(_out_of_fold(pool, truth), truth), new), new_truth)


def _trained(rng: np.random.Generator) -> float:
    """Nearest-mean classifiers of 30 features are fitted to four fifths of 60 patients."""
    owner = np.repeat(np.arange(260), rng.choice([1, 2, 3], size=260))
    labels, folds = (np.arange(260) // K % 2)[owner], owner % K
    features = rng.normal(size=(260, 30))[owner] + 0.5 * rng.normal(size=(len(owner), 30))
    features[:, 0] += 2.5 * labels
    pool = owner < 60
    answers = []
    for fold in range(K):
        rows = pool & (folds != fold)
        means = np.stack([features[rows & (labels == c)].mean(axis=0) for c in (0, 1)])
        answers.append(softmax(-0.5 * ((features[:, None] - means) ** 2).sum(axis=2)))
    probabilities, truth = np.stack(answers), Truth(labels=labels, patients=owner.astype(str), folds=folds)
    calibration = calibrate_sets(_out_of_fold(probabilities[:, pool], truth.subset(pool)), truth.subset(pool))
    return _covered(conforming_classes(calibration, probabilities[:, ~pool]), truth.subset(~pool))


def _rare(rng: np.random.Generator, *, by_class: bool) -> float:
    """A rare class is called the common one more often than not; what share of it is covered?"""
    pool, truth = _draw(rng, patients=150, shares=[0.85, 0.15], shift=1.5)
    new, new_truth = _draw(rng, patients=200, shares=[0.85, 0.15], shift=1.5)
    rare = new_truth.labels == 1
    if not rare.any():
        return float("nan")
    oof = _out_of_fold(pool, truth)
    if by_class:
        members = conforming_classes(calibrate_sets(oof, truth), new)
    else:
        members = 1 - new[0] <= _quantile(1 - oof[np.arange(len(oof)), truth.labels])
    return _covered(members[rare], new_truth.subset(rare))


def _failing(rng: np.random.Generator, *, plus: bool) -> float:
    """Each fold ensemble fails on its own 6 % of images, so that their average is hurt on far more."""
    n = 600
    wrong = np.where(rng.random((K, n)) < 0.06, 0.9, rng.uniform(0.01, 0.02, size=n))
    folds = np.stack([1 - wrong, wrong], axis=2)
    truth = Truth(labels=np.zeros(n, np.int64), patients=np.arange(n).astype(str), folds=np.arange(n) % K)
    pool = np.arange(n) < 300
    oof, new = _out_of_fold(folds, truth)[pool], folds[:, ~pool]
    if plus:
        return float(conforming_classes(calibrate_sets(oof, truth.subset(pool)), new)[:, 0].mean())
    return float((1 - pool_folds(Identity(), new)[:, 0] <= _quantile(1 - oof[:, 0])).mean())


def _mean(measure: Measure, n_draws: int) -> Measured:
    values = np.array([measure(np.random.default_rng(seed)) for seed in range(n_draws)])
    return float(np.nanmean(values)), float(np.nanstd(values) / np.sqrt(n_draws))


_SET_MEASURES: Mapping[str, Measure] = {
    "150 patients, three classes, folds err differently": _differing,
    "classifiers that overfit 60 patients": _trained,
    "a class mostly taken for another, judged by itself": partial(_rare, by_class=True),
    "a class mostly taken for another, by the quantile of all": partial(_rare, by_class=False),
    "each fold fails on 6 %: CV+": partial(_failing, plus=True),
    "each fold fails on 6 %: OOF quantile on the average": partial(_failing, plus=False),
}


def _draw(
    rng: np.random.Generator, *, patients: int, shares: Sequence[float], shift: float = 0.0
) -> tuple[FoldProbabilities, Truth]:
    """Draw patients of one, two or four images; `shift` is added to the first class's logit."""
    n_classes = len(shares)
    owner = np.repeat(np.arange(patients), rng.choice((1, 2, 4), size=patients))
    labels = rng.choice(n_classes, size=patients, p=shares)[owner]
    logits = 1.5 * np.eye(n_classes)[labels] + rng.normal(size=(patients, n_classes))[owner]
    logits = logits + 0.3 * rng.normal(size=(K, len(owner), n_classes))
    logits[..., 0] += shift
    return softmax(logits), Truth(labels=labels, patients=owner.astype(str), folds=(np.arange(patients) % K)[owner])


def _out_of_fold(folds: FoldProbabilities, truth: Truth) -> npt.NDArray[np.float64]:
    return folds[truth.folds, np.arange(len(truth.labels))]


def _quantile(scores: npt.NDArray[np.float64]) -> float:
    """Return the limit of split conformal prediction for 0.9."""
    return float(np.sort(scores)[int(np.ceil((len(scores) + 1) * 0.9)) - 1])


def _covered(members: Members, truth: Truth) -> float:
    """Return the probability that a random image of a random patient is covered."""
    covered = members[np.arange(len(truth.labels)), truth.labels]
    return float(np.average(covered, weights=patient_weights(truth.patients)))


def share_below_target(n_pools: int, *, patients: int, correlation: float) -> float:
    """Return the share of pools whose chosen threshold has a true sensitivity below the target.

    Patients have 3 to 20 positive images each, whose normal scores have this correlation within a patient. In
    uniform scores the share of new images that lie below a threshold is the threshold itself.
    """
    below = 0
    for seed in range(n_pools):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(patients), rng.integers(3, 21, size=patients))
        shared, own = rng.normal(size=patients)[owner], rng.normal(size=len(owner))
        scores = norm.cdf(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
        positive = np.ones(len(scores), dtype=np.bool_)
        point = choose_threshold(scores, positive, owner.astype(str), name="finding", goal="sensitivity", target=TARGET)
        assert point.threshold is not None
        below += 1 - point.threshold < TARGET
    return below / n_pools


def least_positive(target: float) -> int:
    """Return the least number of patients, all of them found, for which a threshold is found."""
    for n in count(1):
        point = choose_threshold(
            np.full(n, 0.9), np.ones(n, bool), np.arange(n).astype(str), name="", goal="sensitivity", target=target
        )
        if point.threshold is not None:
            return n
    raise AssertionError


def least_answered(risk: float) -> int:
    """Return the least number of patients, all answered correctly, for which a confidence threshold is found."""
    for n in count(1):
        probabilities = np.tile([0.1, 0.9], (n, 1))
        point = choose_abstention(probabilities, np.ones(n, np.int64), np.arange(n).astype(str), target=risk)
        if point.threshold is not None:
            return n
    raise AssertionError


def disagreement_flags(n_folds: int, *, n_images: int = 20_000) -> float:
    """Return the share of new images that are flagged, though they come from the distribution that set the limit."""
    rng = np.random.default_rng(7)
    oof = _voices(rng, n_folds=1, n_images=n_images)[:, 0]
    limit = disagreement_limit(oof, _MEMBERS, np.arange(n_images).astype(str))
    assert limit is not None
    new = measure_disagreement(_voices(rng, n_folds=n_folds, n_images=n_images), _MEMBERS)
    return float((new > limit).mean())


def _voices(rng: np.random.Generator, *, n_folds: int, n_images: int) -> np.ndarray:
    """Return three members (3, n_folds, n_images, 3) that differ more about some images than about others."""
    common = rng.normal(size=(n_images, 3)) * 2
    dispute = 0.5 * rng.lognormal(0, 0.7, size=(n_images, 1))
    return softmax(common + dispute * rng.normal(size=(len(_MEMBERS), n_folds, n_images, 3)))


if __name__ == "__main__":
    main()
