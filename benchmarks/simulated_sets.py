"""Prediction sets on drawn patients: how many of new patients' images they cover. Source: docs/methods.md section 6."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from consilia.decision.calibrators import Identity, pool_folds
from consilia.decision.sets import Members, conforming_classes
from consilia.ensemble.selection import Truth
from consilia.ensemble.uncertainty import calibrate_sets
from consilia.metrics.patients import patient_weights
from consilia.metrics.scores import softmax

K = 5
FoldProbabilities = npt.NDArray[np.float64]  # (K, n_images, n_classes)
Measure = Callable[[np.random.Generator], float]
Measured = tuple[float, float]  # mean over draws, standard error


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


SET_SIMULATIONS: Mapping[str, Callable[[int], Measured]] = {
    name: partial(_mean, measure)
    for name, measure in {
        "150 patients, three classes, folds err differently": _differing,
        "classifiers that overfit 60 patients": _trained,
        "a class mostly taken for another, judged by itself": partial(_rare, by_class=True),
        "a class mostly taken for another, by the quantile of all": partial(_rare, by_class=False),
        "each fold fails on 6 %: CV+": partial(_failing, plus=True),
        "each fold fails on 6 %: OOF quantile on the average": partial(_failing, plus=False),
    }.items()
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
    """Return the share covered of a random image of a random patient."""
    covered = members[np.arange(len(truth.labels)), truth.labels]
    return float(np.average(covered, weights=patient_weights(truth.patients)))
