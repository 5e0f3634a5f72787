"""Where a predictor is worse: images grouped by a column, the metrics of each group, and its gap to all others.

A patient may have images on both sides of a gap, so both sides are scored on the same draws of all patients.
Source: docs/methods.md section 8.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.config.records import Labels, Probabilities
from consilia.errors import DataError
from consilia.metrics.bootstrap import bootstrap_scores, with_interval
from consilia.metrics.estimates import Estimate, defined_or_none
from consilia.metrics.paired import judge, subtract
from consilia.metrics.patients import FEWEST_PATIENTS
from consilia.metrics.scores import Scores, metric

SUBGROUP_METRICS = ("macro_auc", "accuracy", "log_loss", "brier", "signed_gap")
DRAWS = 1000  # a column of ten groups takes ten times as long as the whole
_MEANS_OF_CLASSES = ("macro_auc", "balanced_accuracy")  # over other classes they are other metrics
# Over- and under-confident images among the others cancel in the signed gap; and the ECE's bins go by the images.
_WITHOUT_GAP = ("ece", "signed_gap")
UNKNOWN = "unknown"
_MISSING = frozenset({"", "nan", "na", "n/a", UNKNOWN})
_MOST_GROUPS = 30
_MOST_NUMBERS = 10  # that stand for themselves, such as a grade; more are cut into bands
_BAND = 10
_DICOM_AGE = re.compile(r"(\d{3})([DWMY])")  # DICOM PS3.5 section 6.2, value representation AS
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """The group of each image; every group has at least one."""

    column: str
    names: tuple[str, ...]  # in ascending order of values; "unknown" last
    codes: npt.NDArray[np.int64]  # (n_images,) the number of each image's group


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


def make_groups(column: str, values: Sequence[str], *, edges: Sequence[float] = ()) -> Groups:
    """Group images by the values of a column.

    Numbers, and ages as DICOM writes them (045Y), fall into bands: between the edges, or, without any, of ten where
    there are more than ten different ones. Other values are groups of their own, and missing ones the group "unknown".

    Args:
        column: Its name, for errors.
        values: Cell of each image as text, (n_images,).
        edges: Ascending; each begins a band.

    Raises:
        DataError: Edges for a column of words, or edges that do not ascend; more than 30 groups.
    """
    texts = [value.strip() for value in values]
    known = [text for text in dict.fromkeys(texts) if text.casefold() not in _MISSING]
    words = [text for text in known if _number(text) is None]
    if edges and words:
        raise DataError(
            f"{column}: edges need a column of numbers, but it holds {words[0]!r}. Correct that value in the table, or "
            "leave the edges out."
        )
    if any(high <= low for low, high in pairwise(edges)):
        raise DataError(f"{column}: edges must ascend, but are {', '.join(f'{edge:g}' for edge in edges)}.")
    if words:
        order, band_of = sorted(known), dict(zip(known, known, strict=True))
    else:
        order, band_of = _bands({text: number for text in known if (number := _number(text)) is not None}, edges)
    names = [*order, UNKNOWN]
    place = {name: code for code, name in enumerate(names)}
    codes = np.array([place[band_of.get(text, UNKNOWN)] for text in texts], dtype=np.int64)
    present = np.unique(codes)
    if len(present) > _MOST_GROUPS:
        raise DataError(
            f"{column}: there must be at most {_MOST_GROUPS} groups, but there are {len(present)}. Choose another "
            f"column, or, of numbers, edges ({column}=18,40,65)."
        )
    return Groups(column=column, names=tuple(names[code] for code in present), codes=np.searchsorted(present, codes))


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
    images = (scored.probabilities, scored.labels, scored.patients)
    scores = bootstrap_scores(metric_names, *images, weights=rows.astype(np.float64), draws=draws, seed=seed)
    inside = (scored.probabilities[rows], scored.labels[rows], None, scored.patients[rows])
    return {name: (metric(name).function(*inside), scores[name]) for name in scores}


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


def _bands(numbers: Mapping[str, float], edges: Sequence[float]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the bands in order, and the band of each text."""
    if edges:
        between = [_band(low, high) for low, high in pairwise(edges)]
        names = [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]
        places = np.searchsorted(edges, list(numbers.values()), side="right")
        return names, {text: names[place] for text, place in zip(numbers, places, strict=True)}
    different = sorted(set(numbers.values()))
    if len(different) <= _MOST_NUMBERS:
        return [_exactly(each) for each in different], {text: _exactly(number) for text, number in numbers.items()}
    starts = {text: int(number // _BAND) * _BAND for text, number in numbers.items()}
    names = [_band(start, start + _BAND) for start in sorted(set(starts.values()))]
    return names, {text: _band(start, start + _BAND) for text, start in starts.items()}


def _band(low: float, high: float) -> str:
    return f"{low:g} to under {high:g}"


def _exactly(number: float) -> str:
    return f"{number:.15g}"


def _number(text: str) -> float | None:
    """Return the number that a cell holds, an age in years; None for words."""
    if age := _DICOM_AGE.fullmatch(text):
        return int(age[1]) * _YEARS[age[2]]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
