"""Figures of a search: scores as they came, what was tried, how trials learned, what an ensemble gains by its size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from consilia.bundle.evaluation import EnsembleSize
from consilia.config.space import Value
from consilia.metrics.scores import METRICS
from consilia.report.figures import COLOURS
from consilia.report.trials import TrialBoard, TrialRow

_GREY = "#8a949e"  # seen on white and on black
_LESS = {"stopped": "s", "failed": "x"}
_MOST_PANELS = 6
_SHORT = 3.0  # hours that are shown in minutes
_ROBUST = 1.5  # a score that is so many times the finished ones' range away is drawn at the edge


@dataclass(frozen=True, slots=True)
class _Axis:
    """One hyperparameter of the parallel coordinates."""

    name: str
    places: Mapping[int, float]  # by trial, 0 ... 1; trials that did not have it are left out
    ticks: Mapping[float, str]  # what is written at which place


def draw_scores(board: TrialBoard, hours: Mapping[int, float]) -> Figure:
    """Draw each trial's score over the time at which it ended, and the best so far.

    Args:
        board: With a finished trial.
        hours: By trial, when it ended; a trial without is drawn at its number.
    """
    timed = all(row.record.number in hours for row in _scored(board))
    at = {row.record.number: hours[row.record.number] if timed else row.record.number for row in _scored(board)}
    is_short = max(at.values()) < _SHORT
    if timed and is_short:
        at = {number: 60 * hour for number, hour in at.items()}
    unit = "minutes" if is_short else "hours"
    figure, axes = _axes(5.0, 4.0, f"{unit} since the search began, pauses included" if timed else "trial")
    sign = 1.0 if METRICS[board.metric].higher_is_better else -1.0
    finished = sorted((row for row in _scored(board) if row.state == "finished"), key=lambda r: at[r.record.number])
    scores = [float(row.record.objective or 0.0) for row in finished]
    times = [at[row.record.number] for row in finished]
    best = sign * np.maximum.accumulate(sign * np.array(scores))
    axes.step(
        [*times, max(at.values())], [*best, best[-1]], where="post", color=COLOURS[0], lw=1.5, label="best so far"
    )
    axes.plot(times, scores, "o", color=COLOURS[0], ms=5, label="finished")
    limits = _robust(scores)
    for state, marker in _LESS.items():
        others = [row for row in _scored(board) if row.state == state]
        if not others:
            continue
        shown = np.clip([float(row.record.objective or 0.0) for row in others], *limits)
        axes.plot(
            [at[row.record.number] for row in others], shown, marker, color=_GREY, ms=4.5, mfc="none", label=state
        )
    axes.set_ylabel(METRICS[board.metric].title)
    figure.legend(frameon=False, ncols=4, loc="outside upper left", fontsize=9)
    return figure


def draw_importance(shares: Mapping[str, float]) -> Figure:
    """Draw a bar for each hyperparameter's share, the largest at the top."""
    names = list(shares)[::-1]
    figure, axes = _axes(5.0, 0.9 + 0.27 * len(names), "share of the importance")
    axes.barh(np.arange(len(names)), [shares[name] for name in names], height=0.6, color=COLOURS[0])
    axes.set_yticks(np.arange(len(names)), [_spell(name) for name in names])
    axes.tick_params(axis="y", length=0)
    return figure


def draw_parallel(board: TrialBoard, drawn: Mapping[int, Mapping[str, Value]]) -> Figure | None:
    """Draw each trial as a line through its hyperparameters and its score.

    Args:
        board: Of the study.
        drawn: By trial, the hyperparameters that were drawn for it, by name.

    Returns:
        None where no hyperparameter differs between trials.
    """
    rows = _scored(board)
    names = dict.fromkeys(name for row in rows for name in drawn[row.record.number])
    found = (
        _make_axis(name, {row.record.number: drawn[row.record.number].get(name) for row in rows}) for name in names
    )
    axes_of = [axis for axis in found if axis is not None]
    if not axes_of:
        return None
    axes_of.append(_score_axis(board, rows))
    figure = Figure(figsize=(1.05 * len(axes_of) + 0.6, 4.2), layout="constrained")
    axes = figure.subplots()
    finished = [row.record.number for row in board.rows if row.state == "finished"]
    best = set(finished[: max(1, len(finished) // 4)])
    for row in reversed(rows):  # the best on top
        number = row.record.number
        points = [(k, axis.places[number]) for k, axis in enumerate(axes_of) if number in axis.places]
        colour = COLOURS[1] if number in best else COLOURS[0] if row.state == "finished" else _GREY
        style = "-" if row.state == "finished" else ":"
        axes.plot(*zip(*points, strict=True), style, color=colour, lw=1.8 if number in best else 1.0, alpha=0.85)
    for k, axis in enumerate(axes_of):
        axes.axvline(k, color=_GREY, lw=0.6, zorder=0)
        for place, text in axis.ticks.items():
            across, up = {0.0: (0, -0.03), 1.0: (0, 1.03)}.get(place, (0.06, place))
            align = {0.0: ("center", "top"), 1.0: ("center", "bottom")}.get(place, ("left", "center"))
            axes.text(k + across, up, text, ha=align[0], va=align[1], fontsize=8)
    titles = [_spell(axis.name).replace(" ", "\n") for axis in axes_of]
    axes.set_xticks(np.arange(len(axes_of)), titles, fontsize=8)
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set(yticks=[], ylim=(-0.02, 1.02))
    axes.spines[:].set_visible(False)
    return figure


def draw_histories(histories: Mapping[int, pd.DataFrame], *, metric: str) -> Figure:
    """Draw a panel a trial: its score on each fold, epoch by epoch, and the mean loss in training.

    Args:
        histories: By trial, as of `Study.history`; the first six are drawn.
        metric: The study's.
    """
    shown = dict(list(histories.items())[:_MOST_PANELS])
    n_columns = min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = Figure(figsize=(2.8 * n_columns + 0.4, 2.5 * n_rows + 0.4), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    for axes, (number, history) in zip(panels, shown.items(), strict=False):
        scored = history.dropna(subset=[metric])
        for fold in sorted(int(each) for each in scored["fold"].unique()):
            rows = scored[scored["fold"] == fold]
            axes.plot(rows["epoch"], rows[metric], color=COLOURS[fold % 6], lw=1.2, label=f"fold {fold + 1}")
        axes.set_title(f"trial {number}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylim(*_usual_range(pd.concat(list(shown.values()))[metric]))
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes in panels[::n_columns]:
        axes.set_ylabel(METRICS[metric].title, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=6, loc="outside upper left", fontsize=9)
    return figure


def draw_sizes(sizes: Sequence[EnsembleSize]) -> Figure:
    """Draw the cross-fitted loss against the number of members."""
    figure, axes = _axes(5.0, 3.4, "members, by weight")
    counts = [size.members for size in sizes]
    axes.plot(counts, [size.loss for size in sizes], "o-", color=COLOURS[0], ms=5)
    axes.set_xticks(counts)
    axes.set_ylabel("log loss, cross-fitted")
    return figure


def _axes(width: float, height: float, x: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _scored(board: TrialBoard) -> list[TrialRow]:
    """Return the trials that have ended with a score."""
    return [row for row in board.rows if row.record.has_ended and row.record.objective is not None]


def _robust(scores: Sequence[float]) -> tuple[float, float]:
    """Return within which limits scores are drawn, so that one that diverged does not flatten all others."""
    low, high = min(scores), max(scores)
    margin = _ROBUST * (high - low) if high > low else abs(high)
    return low - margin, high + margin


def _usual_range(scores: pd.Series) -> tuple[float, float]:
    """Return the limits of a panel in which nearly all scores lie; a loss that jumps leaves it for a few epochs."""
    low, high = (float(end) for end in np.nanpercentile(scores, (0, 95)))
    margin = 0.12 * (high - low) or 0.1
    return low - margin, high + margin


def _make_axis(name: str, values: Mapping[int, Value | None]) -> _Axis | None:
    """Return the axis of a hyperparameter; None where all trials that had it had the same."""
    known: dict[int, Any] = {number: value for number, value in values.items() if value is not None}
    different = sorted(set(known.values()))
    if len(different) < 2:
        return None
    if isinstance(different[0], str):
        steps = {value: place / (len(different) - 1) for place, value in enumerate(different)}
        places = {number: steps[value] for number, value in known.items()}
        return _Axis(name, places, {place: _cut(value) for value, place in steps.items()})
    is_log = different[0] > 0 and different[-1] / different[0] > 20
    scale = np.log if is_log else np.asarray
    low, high = (float(scale(end)) for end in (different[0], different[-1]))
    places = {number: (float(scale(value)) - low) / (high - low) for number, value in known.items()}
    return _Axis(name, places, {0.0: f"{different[0]:.2g}", 1.0: f"{different[-1]:.2g}"})


def _score_axis(board: TrialBoard, rows: Sequence[TrialRow]) -> _Axis:
    """Return the axis of the score, the better the higher."""
    sign = 1.0 if METRICS[board.metric].higher_is_better else -1.0
    finished = [float(row.record.objective or 0.0) for row in rows if row.state == "finished"]
    limits = _robust(finished or [float(rows[0].record.objective or 0.0)])
    scores = {row.record.number: float(np.clip(float(row.record.objective or 0.0), *limits)) for row in rows}
    worst, best = sorted((min(scores.values()), max(scores.values())), key=lambda score: sign * score)
    span = (best - worst) or 1.0
    return _Axis(
        METRICS[board.metric].title,
        {number: (score - worst) / span for number, score in scores.items()},
        {0.0: f"{worst:.3g}", 1.0: f"{best:.3g}"},
    )


def _spell(name: str) -> str:
    return name.replace("_", " ")


def _cut(text: str) -> str:
    return text if len(text) <= 18 else f"{text[:16]}..."
