"""Figures of an evaluation: each is drawn from numbers that are written beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consilia.config.records import Labels, Probabilities
from consilia.metrics.diagrams import (
    Curve,
    Numbers,
    confusion,
    error_correlation,
    loss_by_size,
    precision_recall_curve,
    reliability,
    roc_curve,
)
from consilia.metrics.patients import BY_PATIENT
from consilia.metrics.risk_coverage import risk_coverage

CurveOf = Callable[[Numbers, npt.NDArray[np.bool_], npt.NDArray[np.str_]], Curve | None]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito: for all eyes
_SIZE = (5.0, 4.5)  # inches
_TITLE_WIDTH = 55  # characters that fit
_BAND = 0.18  # opacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure and the numbers behind it."""

    figure: Figure
    numbers: pd.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the figures show: an ensemble's predictions of images whose classes are known."""

    probabilities: Probabilities  # calibrated, (n_images, n_classes)
    labels: Labels  # (n_images,)
    patients: npt.NDArray[np.str_]  # (n_images,)
    classes: tuple[str, ...]
    members: Probabilities  # what each member says, before calibration, (n_members, n_images, n_classes)
    weights: Numbers  # of the members, (n_members,)
    trials: tuple[int, ...]  # their numbers
    title: str  # which images, of how many patients
    positive: int = 1  # of two classes, the number of the one that curves are of


def draw_figures(shown: Shown) -> Iterator[tuple[str, Drawing]]:
    """Yield every figure that these predictions allow, each with the name of its files."""
    for kind in kinds_of(shown):
        yield kind, FIGURES[kind](shown)


def kinds_of(shown: Shown) -> tuple[str, ...]:
    """Return the names of the figures that these predictions allow; those of members only where there are several."""
    left_out = set() if len(shown.members) > 1 else {"error_correlation", "loss_by_size"}
    return tuple(kind for kind in FIGURES if kind not in left_out)


def _draw_reliability(shown: Shown) -> Drawing:
    found = reliability(shown.probabilities, shown.labels, shown.patients)
    figure, axes = _axes(shown, "Reliability of the most probable class", "confidence", "share that is right")
    axes.fill_between(
        found.confidence, found.low, found.high, color=COLOURS[0], alpha=_BAND, lw=0, label="95 % range if calibrated"
    )
    axes.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
    axes.plot(found.confidence, found.accuracy, "o-", color=COLOURS[0], ms=4, label="found, in bins of equal size")
    least = min(float(found.confidence[0]), float(found.accuracy.min()), float(found.low.min()))
    axes.set(xlim=(max(0, least - 0.05), 1.01), ylim=(max(0, least - 0.05), 1.01))
    axes.legend(frameon=False, loc="upper left")
    names = ("confidence", "accuracy", "low", "high", "images")
    return Drawing(figure=figure, numbers=pd.DataFrame({name: getattr(found, name) for name in names}))


def _draw_curves(
    shown: Shown,
    curve_of: CurveOf,
    *,
    title: str,
    x: str,
    y: str,
    chance: tuple[tuple[float, float], tuple[float, float]] | None,
) -> Drawing:
    """Draw one curve a class; of two classes, that of the positive one, which the title names."""
    is_binary = len(shown.classes) == 2
    figure, axes = _axes(shown, f"{title}, positive: {shown.classes[shown.positive]}" if is_binary else title, x, y)
    if chance is not None:
        axes.plot(*chance, color="0.6", lw=1, ls="--")
    numbers = []
    kinds = (shown.positive,) if is_binary else range(len(shown.classes))
    for place, number in enumerate(kinds):
        found = curve_of(shown.probabilities[:, number], shown.labels == number, shown.patients)
        if found is None:
            continue  # these images hold no such class, or nothing else
        colour = COLOURS[place % len(COLOURS)]
        axes.fill_between(found.x, found.low, found.high, color=colour, alpha=_BAND, lw=0)
        axes.plot(found.x, found.y, color=colour, lw=1.5, label=shown.classes[number])
        columns = {x: found.x, y: found.y, "low": found.low, "high": found.high}
        numbers.append(pd.DataFrame({"class": shown.classes[number], **columns}))
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if numbers:
        axes.legend(frameon=False, loc="lower right" if chance is not None else "lower left", title="95 % bands")
    return Drawing(figure=figure, numbers=pd.concat(numbers) if numbers else pd.DataFrame())


def _draw_roc(shown: Shown) -> Drawing:
    return _draw_curves(shown, roc_curve, title="ROC", x="1 - specificity", y="sensitivity", chance=((0, 1), (0, 1)))


def _draw_precision_recall(shown: Shown) -> Drawing:
    return _draw_curves(
        shown, precision_recall_curve, title="Precision and recall", x="recall", y="precision", chance=None
    )


def _draw_risk_coverage(shown: Shown) -> Drawing:
    found = risk_coverage(shown.probabilities, shown.labels, shown.patients)
    figure, axes = _axes(
        shown,
        f"Errors among the most confident images; {BY_PATIENT}",
        "share of images answered",
        "share of answers that are wrong",
    )
    axes.plot(found.coverage, found.risk, color=COLOURS[0], lw=1.5, label=f"AURC {found.aurc:.4f}")
    axes.set(xlim=(0, 1.01), ylim=(0, None))
    axes.legend(frameon=False, loc="upper left")
    columns = {"coverage": found.coverage, "risk": found.risk, "confidence_from": found.thresholds}
    return Drawing(figure=figure, numbers=pd.DataFrame(columns))


def _draw_confusion(shown: Shown) -> Drawing:
    counts = np.array(confusion(shown.probabilities, shown.labels))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = zip(counts, shares, strict=True)
    texts = [[f"{n}\n{s:.0%}" for n, s in zip(*row, strict=True)] for row in rows]
    figure, axes = _axes(shown, "Confusion: images, and the share of their class", "predicted", "true")
    _draw_matrix(axes, shares, texts)
    _name_ticks(axes, shown.classes)
    return Drawing(figure=figure, numbers=pd.DataFrame(counts, index=shown.classes, columns=shown.classes))


def _draw_correlation(shown: Shown) -> Drawing:
    found = error_correlation(shown.members, shown.labels)
    names = [f"trial {number}" for number in shown.trials]
    figure, axes = _axes(shown, "Do members err on the same images?", "", "")
    _draw_matrix(axes, found, [[f"{value:.2f}" for value in row] for row in found])
    _name_ticks(axes, names)
    return Drawing(figure=figure, numbers=pd.DataFrame(found, index=names, columns=names))


def _draw_sizes(shown: Shown) -> Drawing:
    losses = loss_by_size(shown.members, shown.weights, shown.labels, shown.patients)
    sizes = np.arange(1, len(losses) + 1)
    figure, axes = _axes(
        shown, f"Score against the size of the ensemble; {BY_PATIENT}", "members, by weight", "log loss, uncalibrated"
    )
    axes.plot(sizes, losses, "o-", color=COLOURS[0], ms=4)
    axes.set_xticks(sizes)
    return Drawing(figure=figure, numbers=pd.DataFrame({"members": sizes, "log_loss": losses}))


def _axes(shown: Shown, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    lines = "\n".join(fill(line, _TITLE_WIDTH) for line in (title, shown.title))
    figure.suptitle(lines, fontsize=10, x=0.02, horizontalalignment="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_matrix(axes: Axes, values: Numbers, texts: Sequence[Sequence[str]]) -> None:
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
    for row, (line, numbers) in enumerate(zip(texts, values, strict=True)):
        for column, (text, number) in enumerate(zip(line, numbers, strict=True)):
            colour = "white" if number > 0.6 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    places = np.arange(len(names))
    axes.set_xticks(places, names, rotation=30, ha="right")
    axes.set_yticks(places, names)


FIGURES: Mapping[str, Callable[[Shown], Drawing]] = {
    "reliability": _draw_reliability,
    "roc": _draw_roc,
    "precision_recall": _draw_precision_recall,
    "risk_coverage": _draw_risk_coverage,
    "confusion": _draw_confusion,
    "error_correlation": _draw_correlation,
    "loss_by_size": _draw_sizes,
}
"""How each figure is drawn, by the name of its files."""
