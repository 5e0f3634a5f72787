"""What predicts the label without the finding: columns, file properties, and the border of the picture.

Source: docs/methods.md section 9.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import CategoricalNB

from consilia.audit.border import border_features
from consilia.audit.columns import ColumnFeature, one_hot, read_columns
from consilia.audit.document import Shortcut, Shortcuts
from consilia.audit.probe import ProbeImages, make_probe_images, probe
from consilia.config.records import Rows
from consilia.data.groups import GroupIds
from consilia.data.store.image_store import ImageStore

MOST_IMAGES = 20_000  # that are tried; more would not change what is above 0.6
ALL_COLUMNS, BORDER = "all columns together", "border of the picture"
_BORDER_STRENGTH = 0.01  # some 70 features that hang together, often of few patients


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


def _probe_border(store: ImageStore, images: ProbeImages) -> Shortcut | None:
    features = border_features(store, images.rows)
    model = _logistic_regression(_BORDER_STRENGTH)
    return probe(images, features, model, name=BORDER, origin="border", n_values=features.shape[1])


def _probe_column(images: ProbeImages, column: ColumnFeature) -> Shortcut | None:
    """Ask how frequent each value is in each class, with one more of everything."""
    codes = np.unique(column.codes, return_inverse=True)[1]
    model = CategoricalNB(alpha=1.0, fit_prior=False, min_categories=column.n_values)
    return probe(images, codes[:, None], model, name=column.name, origin=column.origin, n_values=column.n_values)


def _probe_together(images: ProbeImages, columns: Sequence[ColumnFeature]) -> Shortcut | None:
    n_values = sum(each.n_values for each in columns)
    model = _logistic_regression(1.0)
    return probe(images, one_hot(columns), model, name=ALL_COLUMNS, origin="all", n_values=n_values)


def _logistic_regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=300)


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
