"""What predicts the label without the finding: columns, file properties, and the border of the picture.

A few features at a time predict the label in a cross-validation that splits no patient. Simple models are asked on
purpose: they are well known and quick, and a signal that they find, a network finds too.
Source: docs/methods.md section 9.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.naive_bayes import CategoricalNB

from consilia.audit.area import area_in_folds, mean_interval
from consilia.audit.document import Origin, Shortcut, Shortcuts
from consilia.audit.features import ColumnFeature, border_features, one_hot, read_columns
from consilia.config.records import Labels, Probabilities, Rows
from consilia.data.groups import GroupIds
from consilia.data.store.image_store import ImageStore

WARN_ABOVE = 0.6  # area under the curve. Source: docs/methods.md section 9
LABEL_ABOVE = 0.95
CHANCE = 0.5
_FEWEST_GROUPS = 5  # that a class must have to be called the best
_MOST_FOLDS = 5
MOST_IMAGES = 20_000  # that are tried; more would not change what is above 0.6
ALL_COLUMNS, BORDER = "all columns together", "border of the picture"
_BORDER_STRENGTH = 0.01  # about 70 correlated features, often of few patients


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


def find_shortcuts(
    store: ImageStore, pool: Rows, groups: GroupIds, *, seed: int = 0, most_images: int = MOST_IMAGES
) -> Shortcuts:
    """Predict the label from each column, from all together, and from the border alone.

    Args:
        store: The data set.
        pool: Rows outside the test split, (m,), ascending.
        groups: Group of each image of the store, (n,); a group is never parted.
        seed: Of the folds, and of the groups that are drawn where there are more than `most_images`.
        most_images: About how many images are tried at most.
    """
    rows = _draw_groups(pool, groups, most_images=most_images, seed=seed)
    try:
        images = make_probe_images(rows, store.labels[rows], groups[rows], classes=store.classes, seed=seed)
    except ValueError as error:
        return Shortcuts(n_images=0, n_pool=len(pool), tried=(), skipped=(), not_tried=str(error))
    features, skipped = read_columns(store.index.iloc[rows])
    tried = [_probe_column(images, each) for each in features]
    if len(features) > 1:
        tried.append(_probe_together(images, features))
    tried.append(_probe_border(store, images))
    found = sorted((each for each in tried if each is not None), key=_rank)
    return Shortcuts(n_images=len(rows), n_pool=len(pool), tried=tuple(found), skipped=tuple(skipped), not_tried="")


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
        raise ValueError(f"images of two classes are needed, but there are images of {len(present)}")
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


def _probe_border(store: ImageStore, images: ProbeImages) -> Shortcut | None:
    features = border_features(store, images.rows)
    model = _logistic_regression(_BORDER_STRENGTH)
    return probe(images, features, model, name=BORDER, origin="border", n_values=features.shape[1])


def _probe_column(images: ProbeImages, column: ColumnFeature) -> Shortcut | None:
    """Predict from the frequency of each value in each class, with one added to every count."""
    codes = np.unique(column.codes, return_inverse=True)[1]
    model = CategoricalNB(alpha=1.0, fit_prior=False, min_categories=column.n_values)
    return probe(images, codes[:, None], model, name=column.name, origin=column.origin, n_values=column.n_values)


def _probe_together(images: ProbeImages, columns: Sequence[ColumnFeature]) -> Shortcut | None:
    n_values = sum(each.n_values for each in columns)
    model = _logistic_regression(1.0)
    return probe(images, one_hot(columns), model, name=ALL_COLUMNS, origin="all", n_values=n_values)


def _logistic_regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=300)


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


def _draw_groups(pool: Rows, groups: GroupIds, *, most_images: int, seed: int) -> Rows:
    """Return all of `pool`, or whole groups of it in random order until there are enough images."""
    if len(pool) <= most_images:
        return pool
    names, numbers = np.unique(groups[pool], return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(numbers)[order]
    chosen = order[np.cumsum(sizes) <= most_images]
    rows: Rows = pool[np.isin(numbers, chosen)]
    return rows


def _rank(shortcut: Shortcut) -> tuple[bool, bool, float]:
    return (not shortcut.warns, not shortcut.is_label, -max(shortcut.auc.value, shortcut.best_auc.value))
