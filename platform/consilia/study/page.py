"""The report of a study, gathered from what lies in its folder and written as one HTML file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd

from consilia.audit.document import Finding, read_audit
from consilia.bundle.document import BundleDocument
from consilia.bundle.reading import read_bundle
from consilia.config.records import TrialRecord
from consilia.config.space import Value
from consilia.config.study import StudyPlan
from consilia.data.folds import FoldPlan, load_folds
from consilia.errors import StudyError
from consilia.files import write_text
from consilia.report.html import Rows
from consilia.report.study_page import Cases, Measured, StudyFacts, render_study
from consilia.report.trials import TrialBoard
from consilia.study.cards import JSON
from consilia.study.end import is_over, read_end
from consilia.study.opened import OpenStudy
from consilia.study.trials import TrialReader, history_frame
from consilia.tune.importance import importances
from consilia.tune.journal import hours_to_end, whole_lines
from consilia.tune.ledger import device_seconds, read_ledger, seconds_by_purpose

_MOST_HISTORIES = 6
_UNNAMED = "`audit.html` says what, and names files and patients, which this page does not."
NO_PICTURES = "Pictures were left out, so that this page may travel farther than the images."


def write_study_page(
    study: OpenStudy, *, pictures: bool = True, out: Path | None = None, refresh: int | None = None
) -> Path:
    """Write what the study's files hold now as one page; a search may be at work in it.

    Args:
        study: Any; what it does not have yet is said on the page.
        pictures: Show images and heat maps, and name files and patients.
        out: The page; None: report.html in the study's folder.
        refresh: Seconds after which a browser shall load the page again; None: never.

    Raises:
        StudyError: A file of the study is damaged; names it.
        BundleError: The ensemble is damaged.
    """
    path = study.folder.page if out is None else out
    write_text(path, render_study(gather_facts(study, pictures=pictures, refresh=refresh)))
    return path


def gather_facts(study: OpenStudy, *, pictures: bool, refresh: int | None = None) -> StudyFacts:
    """Read everything that the page shows."""
    plan, folder = study.plan, study.folder
    board = TrialReader(plan, folder, elsewhere=None if study.mirror is None else study.mirror.is_held)()
    end = read_end(folder) if is_over(study) else None
    measured = _measured(study, pictures=pictures, is_held=board.is_held)
    folds = load_folds(folder.folds) if folder.folds.is_file() else None
    table = pd.read_parquet(folder.folds) if folds else pd.DataFrame()
    ledger = read_ledger(folder.ledger) if folder.ledger.is_file() else None
    is_search = plan.search.configuration is None
    return StudyFacts(
        plan=plan,
        board=board,
        ended_by="" if end is None else end.ended_by,
        counts=_count(table, plan.data.classes or (measured.document.classes if measured else ())),
        leaks=tuple(describe_leaks(plan.data.group, folds, table)) if folds else ("The images are not divided yet.",),
        findings=_findings(study, folds, names=pictures),
        openings=_count_lines(folder.test_openings),
        hours=hours_to_end(whole_lines(folder.journal.read_bytes())) if folder.journal.is_file() else {},
        drawn={number: _drawn(study, record) for number, record in study.records().items()},
        histories=_histories(study, board, measured),
        importance=importances(study.records().values(), study.space, metric=plan.search.metric) if is_search else None,
        seconds={} if ledger is None else seconds_by_purpose(ledger),
        device_seconds=0.0 if ledger is None else device_seconds(ledger),
        provenance=tuple(_describe_provenance(plan, folds, measured.document if measured else None)),
        measured=measured,
        refresh=refresh,
    )


def _drawn(study: OpenStudy, record: TrialRecord) -> dict[str, Value]:
    values = record.hyperparameters.model_dump()
    return study.space.draw(lambda name, _: values[name])


def _measured(study: OpenStudy, *, pictures: bool, is_held: bool) -> Measured | None:
    """Return the ensemble of the study's own recipe as report.json has it; None: it is not built.

    torch is imported only where there is an ensemble: a page of a running search is written beside its workers.
    """
    recipe = study.plan.ensemble.name
    if not study.folder.bundle(recipe).is_dir() or not study.folder.report.is_file():
        return None
    from consilia.study.cases import show_cases
    from consilia.study.image_scores import read_scores, read_subgroups

    document = read_bundle(study.folder.bundle(recipe))
    scores = read_scores(study, document)
    if scores is None and is_held:
        return None  # it is just being measured
    if scores is None:
        raise StudyError(
            f"{study.folder.predictions(recipe)} is missing: the ensemble was built by an older consilia. "
            f"`consilia ensemble {study.plan.name} --recipe {recipe}` writes it."
        )
    return Measured(
        document=document,
        shown=scores.shown,
        subgroups=read_subgroups(study, document) or (),
        cases=show_cases(study, scores) if pictures else Cases(absent=NO_PICTURES),
    )


def _count(table: pd.DataFrame, classes: tuple[str, ...]) -> Rows:
    """Return for each class the images, and their patients, of every part of the data."""
    if table.empty:
        return []

    def cell(rows: pd.DataFrame) -> str:
        return f"{len(rows):,} ({rows['patient_id'].nunique():,})" if len(rows) else "-"

    def line(name: str, rows: pd.DataFrame) -> list[str]:
        return [name, *(cell(rows[rows["split"] == split]) for split in ("train", "test", "left out"))]

    labels = range(len(classes) or int(table["label"].max()) + 1)
    names = classes or tuple(f"class {label}" for label in labels)
    lines = [line(name, table[table["label"] == label]) for label, name in zip(labels, names, strict=True)]
    return [*lines, line("all", table)]


def describe_leaks(group: Literal["patient", "none"], folds: FoldPlan, table: pd.DataFrame) -> Iterator[str]:
    """Say what the locked test and the folds share, and what was done about it.

    Args:
        group: The card's; with "none" nothing is promised of patients, since the data do not name them.
        folds: The study's.
        table: `group` and `patient_id` of each image.
    """
    shared = "a patient or a picture" if group == "patient" else "a picture"
    if len(folds.test) == 0:
        yield "There is no locked test: all images took part in the search."
    elif len(folds.dropped):
        yield (
            f"{len(folds.dropped):,} images share {shared} with the locked test. They were left out, of training as of "
            "the test (on_leak: drop_train)."
        )
    elif len(folds.bound):
        yield (
            f"{len(folds.bound):,} images of the locked test share {shared} with the training. They were kept "
            "(on_leak: keep), so the test flatters."
        )
    elif group == "patient":
        yield "No patient and no picture lies both in the locked test and outside it; such data would be refused."
    else:
        yield "No picture lies both in the locked test and outside it, exactly or nearly; such data would be refused."
    if group == "none":
        yield "The data do not name patients: images of one may lie in several folds, and on both sides of the test."
    joined = table.groupby("group")["patient_id"].nunique()
    if n_joined := int((joined > 1).sum()):
        whose = "patients" if group == "patient" else "images"
        yield f"{n_joined:,} groups of {whose} share a picture, exactly or nearly. Each group stays in one fold."


def _findings(study: OpenStudy, folds: FoldPlan | None, *, names: bool) -> tuple[Finding, ...] | None:
    """Return what the last audit of these data has found, without what names files and patients unless `names`.

    Returns:
        None where there was no audit.
    """
    if folds is None:
        return None
    path = study.stores / "audits" / f"{study.plan.data.name}-{folds.store_digest[:16]}" / JSON
    found = read_audit(path).findings if path.is_file() else None
    if found is None or names:
        return found
    return tuple(each.model_copy(update={"sentence": f"{each.topic}: {_UNNAMED}", "action": ""}) for each in found)


def _histories(study: OpenStudy, board: TrialBoard, measured: Measured | None) -> dict[int, pd.DataFrame]:
    """Return the learning curves of the ensemble's members, then of the best others, then of those that run."""
    members = [member.trial for member in measured.document.members] if measured else []
    numbers = dict.fromkeys([*members, *(row.record.number for row in board.rows if row.state != "failed")])
    found: dict[int, pd.DataFrame] = {}
    for number in numbers:
        history = history_frame(study.plan, study.folder, number)
        if history[study.plan.search.metric].notna().any():
            found[number] = history
        if len(found) == _MOST_HISTORIES:
            break
    return found


def _describe_provenance(
    plan: StudyPlan, folds: FoldPlan | None, document: BundleDocument | None
) -> Iterator[tuple[str, str]]:
    """Yield what decides the result, each with its name."""
    yield "Seed", str(plan.seed)
    yield "Plan", f"`{plan.digest}`"
    if folds is not None:
        yield "Images", f"`{folds.store_digest}`"
        yield "Folds", f"`{folds.digest}`, {folds.k} folds, seed {folds.seed}"
    if document is None:
        return
    source = document.provenance
    yield "Built", f"{source.created} by recipe {source.recipe.name}"
    yield "Packages", ", ".join(f"{name} {version}" for name, version in sorted(source.packages.items()))
    yield (
        "Environment",
        ", ".join(f"{name} {value}" for name, value in document.environment.items() if name not in source.packages),
    )
    for name, origin in sorted(source.weights.items()):
        yield f"Weights of {name}", origin


def _count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
