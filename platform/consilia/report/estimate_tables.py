"""Numbers with intervals on the terminal: the honest report, two predictors compared, and groups of images."""

from collections.abc import Iterator, Sequence

from rich.table import Column, Table
from rich.text import Text

from consilia.metrics.estimates import ESTIMATES, Estimate, HonestReport
from consilia.metrics.paired import PairedMetric
from consilia.metrics.patients import BY_IMAGE, count_in_words
from consilia.metrics.scores import METRICS
from consilia.metrics.subgroups import Subgroup, Subgroups

HEADLINE = ("log_loss", "macro_auc", "accuracy", "brier", "ece")
_DIGITS = 4  # of a number in a line
_STYLES = {"better": "green", "worse": "yellow", "cannot be told": "dim"}


def honesty_table(report: HonestReport) -> Table:
    """Return one row per estimate, from flattering to honest, with the predictor that it describes."""
    counts = f"{report.trials} trials, {report.candidates} of them finished"
    title = f"{counts}: from flattering to honest (95 % intervals; {BY_IMAGE})"
    table = Table(Column("estimate", ratio=2), title=title, title_justify="left", expand=True, show_lines=True)
    for name in HEADLINE:
        table.add_column(METRICS[name].title, ratio=1)
    table.add_column("describes", ratio=3)
    for row in report.rows:
        what = f"{ESTIMATES[row.kind]}\n{count_in_words(row.images, row.patients)}"
        table.add_row(what, *(cell(row.metrics.get(name)) for name in HEADLINE), row.predictor)
    return table


def comparison_table(metrics: Sequence[PairedMetric], *, title: str) -> Table:
    """Return one row per metric: both predictors, their difference, and whether the first is better.

    Where 0 is best, a second row has the distances from 0, which are what is compared. The difference is that of the
    numbers as they are printed; its interval is its own.
    """
    table = Table("metric", "first", "second", "first - second", "the first is", title=title, title_justify="left")
    for each in metrics:
        title, sides = METRICS[each.metric].title, (each.first, each.second)
        cells, values = [one_line(side) for side in sides], [round(side.value, _DIGITS) for side in sides if side]
        if METRICS[each.metric].higher_is_better is None:
            table.add_row(title, *cells, "", "")
            title, values = "its distance from 0", [abs(value) for value in values]
            cells = [f"{value:.{_DIGITS}f}" for value in values] or cells
        difference = each.difference and each.difference.model_copy(update={"value": values[0] - values[1]})
        table.add_row(title, *cells, one_line(difference), Text(each.verdict, _STYLES[each.verdict]))
    return table


def subgroups_table(subgroups: Subgroups) -> Table:
    """Return one row per group: its metrics, the gap of each to all other images, and warnings."""
    title = f"By {subgroups.column}: metrics, and their gap to all other images (95 % intervals; {BY_IMAGE})"
    table = Table(subgroups.column, Column("images", justify="right"), title=title, title_justify="left")
    table.add_column("patients", justify="right")
    names = tuple(dict.fromkeys(name for each in subgroups.groups for name in each.metrics))
    for name in names:
        table.add_column(METRICS[name].title)
    table.add_column("note", overflow="fold")
    for group in subgroups.groups:
        counts = (group.name, f"{group.images:,}", f"{group.patients:,}")
        table.add_row(*counts, *(_with_gap(group, name) for name in names), "; ".join(_notes(group)))
    return table


def cell(estimate: Estimate | None) -> str:
    """Return the value, and its interval in a second line."""
    return "undefined" if estimate is None else f"{estimate.value:.4f}\n{estimate.low:.3f} ... {estimate.high:.3f}"


def one_line(estimate: Estimate | None) -> str:
    """Return the value and its interval."""
    if estimate is None:
        return "undefined"
    value, low, high = (f"{number:.{_DIGITS}f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} ... {high})"


def _with_gap(group: Subgroup, name: str) -> Text:
    estimate, gap = group.metrics[name], group.gaps.get(name)
    text = Text(
        "undefined" if estimate is None else f"{estimate.value:.3f} ({estimate.low:.3f} ... {estimate.high:.3f})"
    )
    if gap is not None:
        style = _STYLES["worse" if name in group.worse else "cannot be told"]
        text.append(f"\n{gap.value:+.3f} ({gap.low:+.3f} ... {gap.high:+.3f})", style)
    return text


def _notes(group: Subgroup) -> Iterator[str]:
    if group.worse:
        yield f"worse: {', '.join(METRICS[name].title for name in group.worse)}"
    yield from group.warnings
