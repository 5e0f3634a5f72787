"""Where a predictor is worse: metrics of groups of images, and their gap to all others.

A patient may have images on both sides of a gap, so both sides are scored on the same draws of all patients.
Source: docs/methods.md section 8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.config.records import Labels, Probabilities
from consilia.metrics.bootstrap import bootstrap_scores, with_interval
from consilia.metrics.estimates import Estimate, defined_or_none
from consilia.metrics.groups import Groups
from consilia.metrics.paired import judge, subtract
from consilia.metrics.patients import FEWEST_PATIENTS
from consilia.metrics.scores import Scores, metric

SUBGROUP_METRICS = ("macro_auc", "accuracy", "log_loss", "brier", "signed_gap")
DRAWS = 1000  # a column of ten groups takes ten times as long as the whole
_MEANS_OF_CLASSES = ("macro_auc", "balanced_accuracy")  # over other classes they are other metrics
# Of the others, those that are over-confident and those that are under-confident cancel; and fewer images, more ECE.
_WITHOUT_GAP = ("ece", "signed_gap")


class Subgroup(Frozen):
    """The images of one value or band of a column."""

    name: str
    images: int
    patients: int
    by_class: dict[str, int]  # images
    metrics: dict[str, Estimate | None]  # None: undefined on these labels
    gaps: dict[str, Estimate | None]  # to all other images: this group minus those; None: not comparable
    worse: tuple[str, ...]  # metrics whose gap is on the bad side beyond chance, at 95 %
    warnings: tuple[str, ...]


class Subgroups(Frozen):
    """All images by one column; they add up to the whole."""

    column: str
    groups: tuple[Subgroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """What one predictor says of some images, and what they are."""

    probabilities: Probabilities  # (n_images, n_classes)
    labels: Labels  # (n_images,)
    patients: npt.NDArray[np.str_]  # (n_images,)
    classes: tuple[str, ...]


def score_subgroups(
    scored: Scored,
    groups: Groups,
    *,
    metric_names: Sequence[str] = SUBGROUP_METRICS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Subgroups:
    """Return each group's metrics and their gaps to all other images.

    Args:
        scored: All images.
        groups: Of these images.
        metric_names: Names of METRICS.
        draws: Number of bootstrap samples, the same for every group and its others.
        seed: Of the draws.

    Raises:
        PlanError: An unknown metric.
        ValueError: Unequal lengths, no image, or NaN among the probabilities.
    """
    found = []
    for number, name in enumerate(groups.names):
        inside = groups.codes == number
        here, there = (_score(scored, rows, metric_names, draws=draws, seed=seed) for rows in (inside, ~inside))
        values = {each: with_interval(*pair) for each, pair in here.items()}
        compared = [each for each in here if each in there and each not in _WITHOUT_GAP]
        gaps = {each: subtract(each, here[each], there[each]) for each in compared}
        found.append(_subgroup(name, scored, inside, metrics=defined_or_none(values), gaps=defined_or_none(gaps)))
    return Subgroups(column=groups.column, groups=tuple(found))


def _score(
    scored: Scored, rows: npt.NDArray[np.bool_], metric_names: Sequence[str], *, draws: int, seed: int
) -> dict[str, tuple[float, Scores]]:
    """Return each metric of the images in `rows`, and its scores by draw; nothing where there are none."""
    if not rows.any():
        return {}
    probabilities, labels = scored.probabilities, scored.labels
    scores = bootstrap_scores(
        metric_names, probabilities, labels, scored.patients, weights=rows.astype(np.float64), draws=draws, seed=seed
    )
    return {name: (metric(name).function(probabilities[rows], labels[rows]), scores[name]) for name in scores}


def _subgroup(
    name: str,
    scored: Scored,
    inside: npt.NDArray[np.bool_],
    *,
    metrics: dict[str, Estimate | None],
    gaps: dict[str, Estimate | None],
) -> Subgroup:
    n_patients, n_others = (len(np.unique(scored.patients[rows])) for rows in (inside, ~inside))
    counts, others = (np.bincount(scored.labels[rows], minlength=len(scored.classes)) for rows in (inside, ~inside))
    if not np.array_equal(counts > 0, others > 0):
        gaps = {each: None if each in _MEANS_OF_CLASSES else gap for each, gap in gaps.items()}
    fewest = min(n_patients, n_others)
    return Subgroup(
        name=name,
        images=int(inside.sum()),
        patients=n_patients,
        by_class=dict(zip(scored.classes, counts.tolist(), strict=True)),
        metrics=metrics,
        gaps=dict.fromkeys(metrics) | gaps,
        worse=tuple(each for each, gap in gaps.items() if judge(each, gap, n_patients=fewest) == "worse"),
        warnings=tuple(_warnings(scored.classes, counts, n_patients=n_patients)),
    )


def _warnings(classes: Sequence[str], counts: npt.NDArray[np.int64], *, n_patients: int) -> Iterator[str]:
    if n_patients < FEWEST_PATIENTS:
        yield f"{n_patients} patients, under {FEWEST_PATIENTS}: too few for a claim"
    if missing := [name for name, count in zip(classes, counts, strict=True) if count == 0]:
        yield f"no image of class {', '.join(missing)}"
