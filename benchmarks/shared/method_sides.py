"""What `methods.py` compares on one draw: calibrations, prediction sets, selections; what ships is consilia's own."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from consilia.config.recipe import BestSingle, Greedy, SoftVote
from consilia.config.records import Labels, Probabilities
from consilia.decision.calibrators import AnyCalibrator, Identity, calibrate, pool_folds
from consilia.decision.combination import LinearPool, combine
from consilia.decision.sets import CalibrationScores, conforming_classes, prediction_sets
from consilia.ensemble.calibration import (
    choose_calibrator,
    cross_calibrate,
    fit_isotonic,
    fit_temperature,
    fit_temperature_bias,
)
from consilia.ensemble.choice import choose as choose_or_single
from consilia.ensemble.selection import Candidates, CandidateWeights, Truth, select, weigh_in_bags, weighted_log_loss
from consilia.ensemble.thresholds import operating_points
from consilia.ensemble.uncertainty import calibrate_sets
from consilia.metrics.calibration_error import squared_calibration_error
from consilia.metrics.scores import METRICS
from shared.half_draws import Figures, HalfDraw, Sides

TEMPERATURE = "temperature, log pool"  # what recipes ask for
PLUS = "CV+"
AVERAGE = "average of folds"
ON_LOSS = "greedy on log loss"
SENSITIVITY = 0.95

FoldProbabilities = npt.NDArray[np.float64]  # (n_folds, n_images, n_classes)
Chooser = Callable[[HalfDraw], LinearPool]


def calibrations(draw: HalfDraw, *, choose: Chooser) -> Sides:
    """Score each way to calibrate and pool the fold ensembles, on the held-out images."""
    ensemble = choose(draw)
    oof, folds = combine(draw.candidates, ensemble), fold_ensembles(draw, ensemble)
    average = folds.mean(axis=0)
    as_shipped = {kind: choose_calibrator(kind, oof, draw.truth).calibrator for kind in ("temperature", "auto")}
    sides = {
        "average of folds, uncalibrated": average,
        "log pool, uncalibrated": pool_folds(Identity(), folds),
        "OOF temperature on the average": calibrate(fit_temperature(oof, draw.truth), average),
        TEMPERATURE: pool_folds(as_shipped["temperature"], folds),
        "temperature + bias, log pool": pool_folds(fit_temperature_bias(oof, draw.truth), folds),
        "isotonic, log pool": pool_folds(fit_isotonic(oof, draw.truth), folds),
        "auto, log pool": pool_folds(as_shipped["auto"], folds),
        "auto, however few images": pool_folds(_auto_without_limits(oof, draw.truth), folds),
        "best temperature, seen on the held-out images": calibrate(fit_temperature(average, draw.held_out), average),
    }
    return {name: _calibration_figures(probabilities, draw.held_out.labels) for name, probabilities in sides.items()}


def sets(draw: HalfDraw, *, choose: Chooser, alpha: float) -> Sides:
    """Score prediction sets by CV+, and those of an out-of-fold quantile that is put on the average of the folds."""
    ensemble = choose(draw)
    oof = combine(draw.candidates, ensemble)
    calibrator = choose_calibrator("temperature", oof, draw.truth).calibrator
    oof, folds = calibrate(calibrator, oof), calibrate(calibrator, fold_ensembles(draw, ensemble))
    pooled = pool_folds(Identity(), folds)[None]
    plus = calibrate_sets(oof, draw.truth, alpha=alpha)
    quantile = calibrate_sets(oof, _one_fold(draw.truth), alpha=alpha)
    return {
        PLUS: _set_figures(plus, folds, draw.held_out.labels),
        "OOF quantile on the average": _set_figures(quantile, pooled, draw.held_out.labels),
        "OOF quantile on one fold": _mean_figures(
            [_set_figures(quantile, fold[None], draw.held_out.labels) for fold in folds]
        ),
    }


def thresholds(draw: HalfDraw, *, choose: Chooser) -> Sides:
    """Score thresholds that were chosen out of fold: sensitivity and specificity of each class."""
    ensemble = choose(draw)
    oof, folds = combine(draw.candidates, ensemble), fold_ensembles(draw, ensemble)
    calibrator = choose_calibrator("temperature", oof, draw.truth).calibrator
    cross_fitted, truth = cross_calibrate(calibrator.kind, oof, draw.truth), draw.truth
    names = [str(number) for number in range(oof.shape[1])]
    points = operating_points(
        cross_fitted, truth.labels, truth.patients, classes=names, goal="sensitivity", target=SENSITIVITY
    )
    limits = [point.threshold for point in points]
    singles = calibrate(calibrator, np.stack(_one_network_an_image(folds)))
    return {
        AVERAGE: _threshold_figures(limits, pool_folds(calibrator, folds), draw.held_out.labels),
        "one network an image": _mean_figures(
            [_threshold_figures(limits, each, draw.held_out.labels) for each in singles]
        ),
    }


def selections(draw: HalfDraw) -> Sides:
    """Score ensembles and single trials, out of fold and on the held-out images."""
    candidates, truth, greedy, seed = draw.candidates, draw.truth, Greedy(), draw.seed
    chosen = {
        ON_LOSS: select(greedy, candidates, truth, seed=seed),
        "greedy on AUC": _pool(select_on_auc(greedy, candidates, truth, seed=seed)),
        "greedy, if it earns its place": choose_or_single(greedy, candidates, truth, seed=seed).combination,
        "soft vote of 5": select(SoftVote(), candidates, truth, seed=seed),
        "best single": select(BestSingle(), candidates, truth, seed=seed),
    }
    sides = {name: _selection_figures(draw, ensemble) for name, ensemble in chosen.items()}
    sides["any trial"] = _mean_figures([_selection_figures(draw, _pool(each)) for each in np.eye(len(candidates))])
    return sides


def select_on_auc(greedy: Greedy, candidates: Candidates, truth: Truth, *, seed: int) -> CandidateWeights:
    """Select greedily in bags, as consilia does on the log loss, on the AUC; arguments as of `select`, two classes."""
    assert candidates.shape[2] == 2
    scores, labels = candidates[:, :, 1], truth.labels
    pool = np.sort(np.argsort(-aucs(scores, labels), kind="stable")[: greedy.pool])
    return weigh_in_bags(
        pool,
        greedy,
        lambda bag: _add_greedily(scores[bag], labels, additions=greedy.additions),
        n_candidates=len(scores),
        seed=seed,
    )


def aucs(scores: npt.NDArray[np.float64], labels: Labels) -> npt.NDArray[np.float64]:
    """Return the AUC of each row of `scores`, (n_rows, n_images); ties count a half."""
    positive = labels == 1
    n, ranks = int(positive.sum()), rankdata(scores, axis=1)
    result: npt.NDArray[np.float64] = (ranks[:, positive].sum(axis=1) - n * (n + 1) / 2) / (n * (len(labels) - n))
    return result


def fold_ensembles(draw: HalfDraw, ensemble: LinearPool) -> FoldProbabilities:
    """Return the probabilities of the held-out images by each fold's networks together."""
    return combine(draw.fold_candidates, ensemble)


def debiased_square(probabilities: Probabilities, labels: Labels) -> float:
    """Return the mean squared calibration error of the most probable class, less what chance adds to it in each bin.

    It may be negative.
    """
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return float(squared_calibration_error(probabilities.max(axis=1), correct, np.ones((1, len(labels))))[0])


def _auto_without_limits(oof: Probabilities, truth: Truth) -> AnyCalibrator:
    """Return what `auto` would choose if temperature + bias had no minimum number of images."""
    fits: dict[str, Callable[[Probabilities, Truth], AnyCalibrator]] = {
        "identity": lambda *_: Identity(),
        "temperature": fit_temperature,
        "temperature_bias": fit_temperature_bias,
    }
    losses = {kind: weighted_log_loss(cross_calibrate(kind, oof, truth), truth) for kind in fits}
    return fits[min(losses, key=lambda kind: losses[kind])](oof, truth)


def _calibration_figures(probabilities: Probabilities, labels: Labels) -> Figures:
    figures = {name: METRICS[name].function(probabilities, labels) for name in ("log_loss", "signed_gap")}
    return {**figures, "debiased_square": debiased_square(probabilities, labels)}


def _selection_figures(draw: HalfDraw, ensemble: LinearPool) -> Figures:
    """Return log loss and AUC of the average of folds, of one network per image, and out of fold."""
    oof, folds, labels = combine(draw.candidates, ensemble), fold_ensembles(draw, ensemble), draw.held_out.labels
    average = pool_folds(fit_temperature(oof, draw.truth), folds)
    singles = _one_network_an_image(folds)
    figures: dict[str, float] = {"members": float(len(ensemble.members))}
    for name, better in (("log_loss", -1), ("macro_auc", 1)):
        score = METRICS[name].function
        figures[f"average_{name}"] = score(average, labels)
        figures[f"single_{name}"] = float(np.mean([score(single, labels) for single in singles]))
        figures[f"oof_{name}"] = score(oof, draw.truth.labels)
        # How much better it looks out of fold. The pool's images may be the easier ones, so sides are compared.
        figures[f"optimism_{name}"] = better * (figures[f"oof_{name}"] - figures[f"single_{name}"])
    return figures


def _pool(weights: npt.NDArray[np.float64]) -> LinearPool:
    return LinearPool(weights=tuple(weights.tolist()))


def _one_network_an_image(folds: FoldProbabilities) -> list[Probabilities]:
    """Give each image to one fold ensemble, as out of fold, in k ways; (n_images, n_classes) each."""
    images = np.arange(folds.shape[1])
    return [folds[(images + shift) % len(folds), images] for shift in range(len(folds))]


def _set_figures(calibration: CalibrationScores, folds: FoldProbabilities, labels: Labels) -> Figures:
    """Return the coverage that is promised, and that of shipped sets, where an empty set becomes a full one."""
    conforming, shipped = conforming_classes(calibration, folds), prediction_sets(calibration, folds).members
    is_true = np.eye(conforming.shape[1], dtype=np.bool_)[labels]
    covered = conforming[is_true]
    classes = {f"coverage_{number}": covered[labels == number].mean() for number in range(conforming.shape[1])}
    figures = {
        "coverage": covered.mean(),
        **classes,
        "empty": (~conforming.any(axis=1)).mean(),
        "shipped_coverage": shipped[is_true].mean(),
        "size": shipped.sum(axis=1).mean(),
        "alone": (shipped.sum(axis=1) == 1).mean(),
        "alone_right": (shipped & is_true)[shipped.sum(axis=1) == 1].any(axis=1).mean(),
    }
    return {name: float(value) for name, value in figures.items()}


def _threshold_figures(limits: Sequence[float | None], probabilities: Probabilities, labels: Labels) -> Figures:
    """Return both rates of each class; NaN where the pool supports no threshold."""
    figures = {}
    for number, limit in enumerate(limits):
        called = probabilities[:, number] >= (np.nan if limit is None else limit)
        figures[f"sensitivity_{number}"] = np.nan if limit is None else float(called[labels == number].mean())
        figures[f"specificity_{number}"] = np.nan if limit is None else float(1 - called[labels != number].mean())
    return figures


def _mean_figures(figures: list[Figures]) -> Figures:
    return {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}


def _one_fold(truth: Truth) -> Truth:
    """Return the truth as if one fold had held all images out, so that any network is compared with all of them."""
    return Truth(labels=truth.labels, patients=truth.patients, folds=np.zeros_like(truth.folds))


def _add_greedily(scores: npt.NDArray[np.float64], labels: Labels, *, additions: int) -> npt.NDArray[np.int64]:
    """Return how often each row is added, additions after the best one dropped."""
    total = np.zeros(scores.shape[1])
    added: list[int] = []
    reached: list[float] = []
    for _ in range(additions):
        found = np.round(aucs(total + scores, labels), 12)
        added.append(int(np.argmax(found)))
        reached.append(float(found[added[-1]]))
        total = total + scores[added[-1]]
    return np.bincount(added[: int(np.argmax(reached)) + 1], minlength=len(scores))
