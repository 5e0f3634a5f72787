"""How well a few features predict the label, by cross-validation that splits no patient.

Simple models are asked on purpose: they are well known and quick, and a signal that they find, a network finds too.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold

from consilia.audit.area import area_in_folds, mean_interval
from consilia.audit.document import Origin, Shortcut
from consilia.config.records import Labels, Probabilities, Rows
from consilia.data.groups import GroupIds

WARN_ABOVE = 0.6  # area under the curve. Source: docs/methods.md section 9
LABEL_ABOVE = 0.95
CHANCE = 0.5
_FEWEST_GROUPS = 5  # that a class must have to be called the best
_MOST_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeImages:
    """The images that features are tried on, and the folds they are tried with."""

    rows: Rows  # (m,) of the store, ascending, none of the test split
    labels: Labels  # (m,)
    groups: GroupIds  # (m,) images of one group are never parted
    classes: tuple[str, ...]
    folds: tuple[tuple[Rows, Rows], ...]  # training and validation, positions in `rows`

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fold_numbers(self) -> npt.NDArray[np.int64]:
        """Fold that each image is held out in, (m,)."""
        numbers = np.empty(len(self), dtype=np.int64)
        for number, (_, validation) in enumerate(self.folds):
            numbers[validation] = number
        return numbers


def make_probe_images(
    rows: Rows, labels: Labels, groups: GroupIds, *, classes: tuple[str, ...], seed: int
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
    return ProbeImages(rows=rows, labels=labels, groups=groups, classes=classes, folds=folds)


def probe(
    images: ProbeImages, features: Any, model: Any, *, name: str, origin: Origin, n_values: int
) -> Shortcut | None:
    """Predict the label from `features` alone.

    It warns where an area under the curve, of the mean or of the best class, lies above `WARN_ABOVE` and its lower
    95 % bound over patients above chance; of the best class the bound allows for the choice among them.

    Args:
        images: What is predicted.
        features: (m, n_features), dense or sparse.
        model: A scikit-learn classifier with `predict_proba`; it is fitted anew in every fold.
        name: What the features are called.
        origin: Where they come from.
        n_values: Distinct values behind the features.

    Returns:
        None where no area under the curve is defined.
    """
    scores = _predict_out_of_fold(images, features, model).round(9)  # equal features must tie to the last bit
    areas = {
        number: area_in_folds(scores[:, number], images.labels == number, images.fold_numbers, images.groups)
        for number in np.unique(images.labels).tolist()
    }
    known = {number: area for number, area in areas.items() if area is not None}
    if not known:
        return None
    auc = mean_interval(list(known.values()), images.groups)
    large = {number: area for number, area in known.items() if area.n_groups >= _FEWEST_GROUPS} or known
    best = max(large, key=lambda number: large[number].value)
    chosen_among = 1 if len(areas) == 2 else len(large)  # two classes have one area
    best_auc = mean_interval([large[best]], images.groups, chosen_among=chosen_among)
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


def _predict_out_of_fold(images: ProbeImages, features: Any, model: Any) -> Probabilities:
    """Return each image's probabilities by the model that never saw its group, (m, n_classes)."""
    probabilities = np.full((len(images), len(images.classes)), 1.0 / len(images.classes))
    for training, validation in images.folds:
        labels = images.labels[training]
        if len(np.unique(labels)) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a nearly converged probe answers as well
            model.fit(features[training], labels)
        probabilities[np.ix_(validation, model.classes_)] = model.predict_proba(features[validation])
        missing = np.setdiff1d(np.arange(len(images.classes)), model.classes_)
        probabilities[np.ix_(validation, missing)] = 0.0
    return probabilities
