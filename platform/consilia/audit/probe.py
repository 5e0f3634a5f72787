"""How well a few features predict the label, by cross-validation that splits no patient.

A linear model is asked on purpose: it is well known, quick, and a signal that it finds, a network finds too.
"""

import warnings
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from consilia.audit.document import Origin, Shortcut
from consilia.records import Interval, Labels, Probabilities, Rows
from consilia.scoring.bootstrap import patient_bootstrap

WARN_ABOVE = 0.6  # area under the curve. Source: docs/methods.md section 9
LABEL_ABOVE = 0.95
CHANCE = 0.5
_DRAWS = 500  # of patients; fewer than for a reported metric, since the bound only guards against chance
_MOST_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeImages:
    """The images that features are tried on, and the folds they are tried with."""

    rows: Rows  # (m,) of the store, ascending, none of the test split
    labels: Labels  # (m,)
    groups: npt.NDArray[np.str_]  # (m,) images of one group are never parted
    classes: tuple[str, ...]
    folds: tuple[tuple[Rows, Rows], ...]  # training and validation, positions in `rows`

    def __len__(self) -> int:
        return len(self.rows)


def make_probe_images(
    rows: Rows, labels: Labels, groups: npt.NDArray[np.int64], *, classes: tuple[str, ...], seed: int
) -> ProbeImages:
    """Divide the images into folds by group, stratified by class.

    Args:
        rows: Of the store, (m,).
        labels: Class numbers, (m,).
        groups: Patients, merged where they share pictures, (m,).
        classes: Their names.
        seed: Of the folds.

    Raises:
        ValueError: Fewer than two classes have images, or a class has a single group.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError(f"images of two classes are needed, but there are those of {len(present)}")
    smallest = min((len(np.unique(groups[labels == each])), classes[each]) for each in present)
    if smallest[0] < 2:
        raise ValueError(f"outside the test split class {smallest[1]!r} has a single patient (group)")
    splitter = StratifiedGroupKFold(n_splits=min(_MOST_FOLDS, smallest[0]), shuffle=True, random_state=seed)
    folds = tuple(splitter.split(labels, labels, groups))
    return ProbeImages(rows=rows, labels=labels, groups=groups.astype(np.str_), classes=classes, folds=folds)


def probe(
    images: ProbeImages, features: Any, *, name: str, origin: Origin, n_values: int, strength: float = 1.0
) -> Shortcut | None:
    """Predict the label from `features` alone.

    It warns where an area under the curve, of the mean or of the best class, lies above `WARN_ABOVE` and its lower
    95 % bound (bootstrap over patients) above chance; of the best class the bound allows for the choice among them.

    Args:
        images: What is predicted.
        features: (m, n_features), dense or sparse, of about unit scale.
        name: What the features are called.
        origin: Where they come from.
        n_values: Distinct values behind the features.
        strength: Inverse of the penalty on the weights.

    Returns:
        None where no area under the curve is defined.
    """
    probabilities = _predict_out_of_fold(images, features, strength)
    auc = _auc(probabilities, images.labels, images.groups)
    by_class = {number: _auc_of_class(probabilities, images, number) for number in np.unique(images.labels).tolist()}
    best = max(by_class, key=lambda number: by_class[number].value)
    best_auc = _allow_for_choice(by_class[best], 1 if len(by_class) == 2 else len(by_class))
    if not np.isfinite([auc.value, auc.low, best_auc.value, best_auc.low]).all():
        return None
    warns = any(each.value > WARN_ABOVE and each.low > CHANCE for each in (auc, best_auc))
    return Shortcut(
        name=name,
        origin=origin,
        n_values=n_values,
        auc=auc,
        best_class=images.classes[best],
        best_auc=best_auc,
        warns=warns,
        is_label=warns and origin != "border" and auc.value >= LABEL_ABOVE,
    )


def _predict_out_of_fold(images: ProbeImages, features: Any, strength: float) -> Probabilities:
    """Return each image's probabilities by the model that never saw its group, (m, n_classes)."""
    probabilities = np.full((len(images), len(images.classes)), 1.0 / len(images.classes))
    for training, validation in images.folds:
        labels = images.labels[training]
        if len(np.unique(labels)) < 2:
            continue
        # Balanced, so that a fold's own class frequencies do not order images of different folds.
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a nearly converged probe answers as well
            model.fit(features[training], labels)
        probabilities[np.ix_(validation, model.classes_)] = model.predict_proba(features[validation])
        missing = np.setdiff1d(np.arange(len(images.classes)), model.classes_)
        probabilities[np.ix_(validation, missing)] = 0.0
    return probabilities


def _auc(probabilities: Probabilities, labels: Labels, groups: npt.NDArray[np.str_]) -> Interval:
    # Rounded: features that are equal must tie, whatever the last bits of a sum say.
    return patient_bootstrap(["macro_auc"], probabilities.round(9), labels, groups, draws=_DRAWS)["macro_auc"]


def _auc_of_class(probabilities: Probabilities, images: ProbeImages, number: int) -> Interval:
    one = probabilities[:, number]
    labels = (images.labels == number).astype(np.int64)
    return _auc(np.column_stack([1.0 - one, one]), labels, images.groups)


def _allow_for_choice(interval: Interval, n_classes: int) -> Interval:
    """Widen a 95 % interval as Bonferroni does for the best of `n_classes`, on the normal scale."""
    normal = NormalDist()
    factor = normal.inv_cdf(1 - 0.025 / n_classes) / normal.inv_cdf(0.975)
    low = interval.value - factor * (interval.value - interval.low)
    high = interval.value + factor * (interval.high - interval.value)
    return replace(interval, low=max(0.0, low), high=min(1.0, high))
