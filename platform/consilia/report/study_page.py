"""The report of a study as one HTML file: read without network or script, on a phone, in the dark, on paper."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from consilia.audit.document import Finding
from consilia.bundle.document import BundleDocument
from consilia.bundle.evaluation import Evaluation
from consilia.bundle.text import THRESHOLDS
from consilia.config.space import Value
from consilia.config.study import StudyPlan
from consilia.decision.promises import PROMISES_SEEN, promise_rows
from consilia.metrics.diagrams import error_correlation
from consilia.metrics.patients import BY_IMAGE, BY_PATIENT
from consilia.metrics.scores import METRICS
from consilia.metrics.subgroups import Subgroups
from consilia.report import study_figures as search_figures
from consilia.report import study_tables as tables
from consilia.report.confirmations import confirmation_lines
from consilia.report.figures import FIGURES, Shown
from consilia.report.html import Rows, page_environment
from consilia.report.svg import inline_svg, page_style
from consilia.report.trials import TrialBoard

_CURVES = {
    "roc": "The share of images of a class that is found, against the share of the others that is called it wrongly.",
    "precision_recall": "The share of calls that are right, against the share of images of the class that is found.",
    "reliability": "How often predictions of about one confidence are right. On the dashed line they are as often "
    "right as they say; a point outside the band is not chance.",
    "risk_coverage": "How often answers are wrong if only the surest images are answered and people look at the rest.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image that people should look at."""

    picture: str  # data URI: the image, and beside it the same under its heat map
    truth: str
    label: str  # what the ensemble says
    confidence: float  # of the label
    of_truth: float  # what it gives the truth
    file: str
    patient: str  # "" where the data name none
    remark: str  # how strong the strongest place is, or why there is no heat map


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Pictures, or why there are none."""

    wrong: tuple[Case, ...] = ()  # the farthest from the truth first
    unsure: tuple[Case, ...] = ()  # the least sure first, right or wrong
    absent: str = ""  # a sentence on why there are none
    remark: str = ""  # what the heat maps are of, where it is not plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An ensemble, and what it says of the images that it is measured on."""

    document: BundleDocument
    shown: Shown
    subgroups: tuple[Subgroups, ...]
    cases: Cases

    @property
    def is_tested(self) -> bool:
        """Whether these images are a locked test."""
        return any(each.split == "test" for each in self.document.evaluations)

    @property
    def evaluation(self) -> Evaluation:
        """Of these images."""
        split = "test" if self.is_tested else "cross_fitted"
        return next(each for each in self.document.evaluations if each.split == split)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """Everything that the report shows, as it lies in the study's folder."""

    plan: StudyPlan
    board: TrialBoard
    ended_by: str  # which limit ended the search; "": it is not over
    counts: Rows  # by class: images and patients of the folds, of the test, left out
    leaks: tuple[str, ...]  # what ties images together, and what was done about it
    findings: tuple[Finding, ...] | None  # of the last audit of these data; None: there is none
    openings: int  # of the locked test
    hours: Mapping[int, float]  # by trial: when it ended, since the first began
    drawn: Mapping[int, Mapping[str, Value]]  # by trial: the hyperparameters that were drawn for it
    histories: Mapping[int, pd.DataFrame]  # of the best trials
    importance: Mapping[str, float] | None  # None: too few trials have finished
    seconds: Mapping[str, float]  # by purpose, see `tune.ledger`
    device_seconds: float  # of GPUs that slots held; of CPUs where they held none
    provenance: tuple[tuple[str, str], ...]  # what decides the result, each with its name
    measured: Measured | None  # None: there is no ensemble yet
    refresh: int | None = None  # seconds after which a browser shall load the page again


@dataclass(frozen=True, slots=True, kw_only=True)
class Figured:
    """A figure of the page."""

    svg: Markup
    caption: str
    is_wide: bool = False


def render_study(facts: StudyFacts) -> str:
    """Return the page, in which names of classes, files and patients are escaped; equal facts give equal bytes."""
    measured = facts.measured
    with page_style():
        figures = list(_curves(measured)) if measured else []
        search = list(_search_figures(facts))
        sizes = list(_member_figures(measured)) if measured else []
    return (
        page_environment()
        .get_template("study.html.j2")
        .render(
            facts=facts,
            plan=facts.plan,
            board=facts.board,
            measured=measured,
            tables=tables,
            asked=list(tables.describe_plan(facts.plan)),
            by_image=BY_IMAGE,
            by_patient=BY_PATIENT,
            curves=figures,
            search_figures=search,
            member_figures=sizes,
            metric=METRICS[facts.plan.search.metric].title,
            confirmed=confirmation_lines(facts.board.confirmations, metric=facts.plan.search.metric),
            **(_of_ensemble(measured) if measured else {}),
        )
    )


def _of_ensemble(measured: Measured) -> dict[str, object]:
    document, evaluation = measured.document, measured.evaluation
    shown = measured.shown
    correlation = error_correlation(shown.members, shown.labels) if len(shown.members) > 1 else None
    return {
        "document": document,
        "evaluation": evaluation,
        "confusion": _shares(evaluation),
        "promises": [list(row) for row in promise_rows(evaluation.promises)] if evaluation.promises else [],
        "promises_seen": PROMISES_SEEN,
        "thresholds_of": THRESHOLDS[document.build],
        "correlation": [] if correlation is None else _correlation(correlation, shown.trials),
    }


def _shares(evaluation: Evaluation) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return each true class with, for each predicted one, the images and their share of the class."""
    names = [each.name for each in evaluation.classes]
    return [
        (name, [(count, count / max(1, sum(row))) for count in row])
        for name, row in zip(names, evaluation.confusion, strict=True)
    ]


def _correlation(found: np.ndarray, trials: tuple[int, ...]) -> list[tuple[str, list[tuple[str, float]]]]:
    return [
        (f"trial {number}", [(f"{value:.2f}", max(0.0, float(np.nan_to_num(value)))) for value in row])
        for number, row in zip(trials, found, strict=True)
    ]


def _curves(measured: Measured) -> Iterator[Figured]:
    """Yield the figures of an evaluation; a curve that these labels leave undefined is left out."""
    for name, words in _CURVES.items():
        drawing = FIGURES[name](measured.shown)
        if drawing.numbers.empty:
            continue
        whole = " ".join(drawing.figure.get_suptitle().split())
        title = whole.removesuffix(" ".join(measured.shown.title.split())).strip()
        drawing.figure.suptitle("")
        drawing.figure.set_size_inches(5.0, 4.0)
        yield _figure(drawing.figure, name=name, title=title, caption=f"{title}. {words}")


def _search_figures(facts: StudyFacts) -> Iterator[Figured]:
    """Yield what the search's trials allow."""
    board, title = facts.board, METRICS[facts.plan.search.metric].title
    n_scored = sum(row.record.has_ended and row.record.objective is not None for row in board.rows)
    if any(row.state == "finished" for row in board.rows) and n_scored > 1:
        yield _figure(
            search_figures.draw_scores(board, facts.hours),
            name="scores",
            title=f"{title} of every trial over time",
            caption=f"Score over time: {title}, the mean over folds. Scores far worse than those that finished are "
            "drawn at the edge.",
        )
    if facts.importance:
        yield _figure(
            search_figures.draw_importance(facts.importance),
            name="importance",
            title="Importance of the hyperparameters",
            caption="What mattered (PED-ANOVA): how differently the values of the best quarter of the finished trials "
            "are spread from those of all. One that only few trials had is uncertain.",
        )
    parallel = search_figures.draw_parallel(board, facts.drawn) if n_scored > 1 else None
    if parallel is not None:
        yield _figure(
            parallel,
            name="parallel",
            title="Hyperparameters and score of every trial",
            caption="What was tried: one line a trial, ending at its score, the better the higher. Orange: the best "
            "quarter; blue: finished; dotted: stopped early.",
            is_wide=True,
        )
    if facts.histories:
        trials = ", ".join(str(number) for number in facts.histories)
        yield _figure(
            search_figures.draw_histories(facts.histories, metric=facts.plan.search.metric),
            name="histories",
            title=f"Learning curves of trials {trials}",
            caption=f"Learning curves: {title} on each validation fold, epoch by epoch. The few highest values lie "
            "above the panels.",
            is_wide=True,
        )


def _member_figures(measured: Measured) -> Iterator[Figured]:
    if len(measured.document.sizes) > 1:
        yield _figure(
            search_figures.draw_sizes(measured.document.sizes),
            name="sizes",
            title="Loss against the number of members",
            caption="What each member adds: cross-fitted log loss of the members of the largest weights; "
            f"{BY_PATIENT}.",
        )


def _figure(figure: Figure, *, name: str, title: str, caption: str, is_wide: bool = False) -> Figured:
    return Figured(
        svg=inline_svg(figure, name=name, title=title, description=caption), caption=caption, is_wide=is_wide
    )
