"""What the report of a study says in words and tables: numbers with their intervals, one weighting a table."""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from consilia.bundle.document import BundleDocument
from consilia.bundle.evaluation import Evaluation
from consilia.config.study import StudyPlan
from consilia.metrics.clustered import Rate
from consilia.metrics.estimates import ESTIMATES, Estimate, HonestReport, HonestRow
from consilia.metrics.patients import count_in_words
from consilia.metrics.scores import METRICS
from consilia.metrics.subgroups import Subgroups
from consilia.report.estimate_tables import HEADLINE
from consilia.report.html import Rows
from consilia.report.pace import describe_seconds
from consilia.report.trials import TrialBoard, TrialRow

MOST_TRIALS = 60  # rows of the table of trials
IN_PLAIN_WORDS = {
    "best_single": "The best single configuration, judged on the very images that made it the best: too good, like an "
    "exam whose questions were known.",
    "in_sample": "The ensemble, judged on images that its members and its calibration were chosen on: too good.",
    "cross_fitted": "Each image is judged by networks, weights and a calibration that have not used it. Only the "
    "search has seen all of these images, so it is slightly too good.",
    "bias_corrected": "As the row above, and the choice among all trials is made again and again on redrawn patients "
    "and judged on those left out, which takes out the luck of the search.",
    "test": "Patients who were locked away from the beginning and used once, at the end: what to expect of other "
    "patients from the same source. Another hospital may differ.",
}
"""What each row of the honest table means to somebody who treats patients."""

_PURPOSES = {
    "useful": "epochs of trials that finished, or are to go on",
    "refit": "training again what a fast build ships",
    "confirmation": "the best trials once more, with other folds and seeds",
    "stopped": "epochs of trials that were stopped early",
    "failed": "epochs of trials that failed",
    "lost": "computed in vain, because a process or node was lost",
    "start-up": "waiting for a worker to take a trial for the first time",
    "overhead": "between epochs: networks, files, messages",
    "idle": "slots held without a trial",
}
_NAMED = Markup("<b>{}</b><br><span class='soft'>{}</span>")
_BY_IMAGE_METRICS = ("macro_auc", "accuracy", "balanced_accuracy", "log_loss", "brier", "ece")


def with_interval(estimate: Estimate | Rate | None, digits: int = 3) -> str:
    """Return "0.932 (0.899 to 0.960)", which breaks before the interval and not within it."""
    if estimate is None:
        return "undefined"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}\u00a0to\u00a0{estimate.high:.{digits}f})"


def fairest_row(report: HonestReport) -> HonestRow:
    """Return the row that flatters least: the last one."""
    return report.rows[-1]


def result_sentence(document: BundleDocument) -> str:
    """Return what was achieved in one sentence, by the fairest number that there is."""
    row = fairest_row(document.honesty)
    accuracy, auc = row.metrics.get("accuracy"), row.metrics.get("macro_auc")
    counts = count_in_words(row.images, row.patients)
    if row.kind == "test":
        where = f"Of {counts} that were locked away until the end"
    else:
        where = f"There is no locked test; estimated on the {counts} that the search has used ({ESTIMATES[row.kind]})"
    right = (
        "the accuracy is undefined"
        if accuracy is None
        else f"the ensemble names the class of {_percent(accuracy)} correctly"
    )
    ranks = "" if auc is None else f"; its AUC, the mean over the classes, is {with_interval(auc)}"
    return f"{where}, {right}{ranks}."


def headline_tiles(row: HonestRow) -> Rows:
    """Return title, value and interval of the row's main numbers."""
    found = ((name, row.metrics.get(name)) for name in ("accuracy", "macro_auc", "log_loss", "ece"))
    return [
        [METRICS[name].title, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}"] for name, each in found if each
    ]


def honest_rows(report: HonestReport) -> Rows:
    """Return one row an estimate, from flattering to honest, in the words of `IN_PLAIN_WORDS`."""
    return [
        [
            _NAMED.format(
                ESTIMATES[row.kind], f"{IN_PLAIN_WORDS[row.kind]} {count_in_words(row.images, row.patients)}."
            ),
            *(with_interval(row.metrics.get(name)) for name in HEADLINE),
        ]
        for row in report.rows
    ]


def honest_titles() -> list[str]:
    """Return the heads of `honest_rows`."""
    return ["estimate, and what it says", *(METRICS[name].title for name in HEADLINE)]


def metric_rows(evaluation: Evaluation) -> Rows:
    """Return each headline metric after and before calibration."""
    return [
        [
            METRICS[name].title,
            with_interval(evaluation.metrics.get(name)),
            with_interval(evaluation.uncalibrated[name]) if name in evaluation.uncalibrated else "",
        ]
        for name in _BY_IMAGE_METRICS
    ]


def class_rows(evaluation: Evaluation) -> Rows:
    """Return each class's counts, precision, recall and F1."""
    return [
        [
            each.name,
            f"{each.images:,}",
            f"{each.patients:,}",
            *(f"{x:.3f}" for x in (each.precision, each.recall, each.f1)),
        ]
        for each in evaluation.classes
    ]


def member_rows(document: BundleDocument) -> Rows:
    """Return each member's trial, weight, architecture, timm model and number of networks."""
    kind = "refit of trial" if document.build == "fast" else "trial"
    return [
        [
            f"{kind} {each.trial}",
            f"{each.weight:.3f}",
            each.architecture,
            each.model.architecture.timm,
            str(len(each.networks)),
        ]
        for each in document.members
    ]


def threshold_rows(document: BundleDocument) -> Rows:
    """Return each stored threshold with the rates that the data show for it, or why there is none."""
    return [
        [
            point.name,
            f"{point.goal} at least {point.target:g}",
            "none" if point.threshold is None else f"{point.threshold:.4g}",
            "" if point.threshold is None else with_interval(point.sensitivity),
            "" if point.threshold is None else with_interval(point.specificity),
            point.reason,
        ]
        for point in document.safety.operating_points
    ]


def group_titles(subgroups: Subgroups) -> list[str]:
    """Return the heads of `group_rows`."""
    return [subgroups.column, "images", "patients", *(METRICS[name].title for name in _metrics_of(subgroups)), "note"]


def group_rows(subgroups: Subgroups) -> Rows:
    """Return one row a group, its metrics with their intervals, and what is worse in it beyond chance."""
    rows = []
    for group in subgroups.groups:
        worse = (
            [f"worse beyond chance: {', '.join(METRICS[name].title for name in group.worse)}"] if group.worse else []
        )
        numbers = [with_interval(group.metrics[name]) for name in _metrics_of(subgroups)]
        counts = [group.name, f"{group.images:,}", f"{group.patients:,}"]
        rows.append([*counts, *numbers, "; ".join([*worse, *group.warnings])])
    return rows


def trial_rows(board: TrialBoard) -> Rows:
    """Return the first trials of the board: number, state, score, folds, architecture, learning rate, time, reason."""
    return [_trial_row(row, board) for row in board.rows[:MOST_TRIALS]]


def time_rows(seconds: Mapping[str, float]) -> list[tuple[str, str, str, float]]:
    """Return what slots were held for: purpose, its meaning, hours in words, share of all; the largest first."""
    held = seconds.get("reserved", 0.0)
    spent = [(name, seconds.get(name, 0.0)) for name in _PURPOSES]
    shown = sorted((each for each in spent if held > 0 and each[1] > 0), key=lambda each: -each[1])
    return [(name, _PURPOSES[name], describe_seconds(amount), amount / held) for name, amount in shown]


def describe_plan(plan: StudyPlan) -> Iterator[tuple[str, str]]:
    """Yield what was to be searched and how, each with its name."""
    search, training = plan.search, plan.training
    names = [name for space in plan.spaces for name in space.architectures]
    yield "Architectures", ", ".join(dict.fromkeys(names))
    what = "one configuration, without a search" if search.configuration else f"up to {search.trials} configurations"
    yield "Search", f"{what}, each by {plan.folds.k}-fold cross-validation; the better, the {_direction(search.metric)}"
    weights = {"none": "from random weights", "imagenet": "from ImageNet weights"}
    start = weights.get(training.weights, f"from the weights of {training.weights}")
    yield (
        "Training",
        f"{training.epochs} epochs a fold at {plan.image_size} pixels, batches of {training.batch_size}, {start}",
    )
    yield "Ensemble", f"recipe {plan.ensemble.name}"


def _direction(metric: str) -> str:
    return f"{'higher' if METRICS[metric].higher_is_better else 'lower'} the {METRICS[metric].title}"


def _percent(estimate: Estimate) -> str:
    value, low, high = (f"{100 * each:.1f}\u00a0%" for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} (95 % interval: {low} to {high})"


def _metrics_of(subgroups: Subgroups) -> Sequence[str]:
    return tuple(dict.fromkeys(name for group in subgroups.groups for name in group.metrics))


def _trial_row(row: TrialRow, board: TrialBoard) -> list[str]:
    record = row.record
    return [
        str(record.number),
        row.state,
        "" if record.objective is None else f"{record.objective:.4f}",
        f"{record.n_folds}/{board.n_folds}",
        record.hyperparameters.architecture,
        f"{record.hyperparameters.lr:.2g}",
        describe_seconds(record.seconds),
        record.reason,
    ]
