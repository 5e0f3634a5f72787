"""What commands print at their end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table

from consilia.audit.document import Audit
from consilia.bundle.document import BundleDocument
from consilia.bundle.evaluation import Evaluation
from consilia.bundle.text import describe_members
from consilia.config.augmentation import POLICIES
from consilia.config.card import DataCard
from consilia.config.study import StudyPlan, WeightsSource
from consilia.data.store.image_store import ImageStore
from consilia.decision.promises import PROMISES_SEEN, promise_rows
from consilia.files import sha256_of_file
from consilia.metrics.patients import BY_IMAGE, count_in_words
from consilia.metrics.scores import METRICS
from consilia.metrics.subgroups import Subgroups
from consilia.report.audit_tables import counts_table, print_audit, print_brief
from consilia.report.confirmations import confirmation_lines
from consilia.report.console import make_console
from consilia.report.estimate_tables import comparison_table, honesty_table, subgroups_table
from consilia.report.progress import PrepareProgress, StudyProgress

if TYPE_CHECKING:  # what only some commands need: torch, timm and matplotlib take seconds to import
    from consilia.cluster.listing import JobSummary
    from consilia.study.cards import AuditFiles, Preview
    from consilia.study.combine import StudyResult
    from consilia.study.measure import Comparison

_HEADLINE = ("macro_auc", "accuracy", "balanced_accuracy", "log_loss", "brier", "ece")


def watch(plan: StudyPlan) -> StudyProgress:
    """Return the view of a study on this terminal, or of lines where there is none."""
    console = make_console(stderr=True)  # so that what is printed at the end can be piped
    return StudyProgress(console, metric=plan.search.metric, epochs=plan.training.epochs, n_folds=plan.folds.k)


@contextmanager
def prepare_bar() -> Iterator[PrepareProgress]:
    """Show how many images are decoded, for the length of a block."""
    progress = PrepareProgress(make_console(stderr=True))
    try:
        yield progress
    finally:
        progress.close()


def show_store(store: ImageStore, audit: Audit) -> None:
    """Print what a prepared data set holds, and in brief what its audit found."""
    console = make_console()
    index = store.index
    splits = [split for split in ("train", "val", "test", "") if (index["split"] == split).any()]
    counts = {
        split or "no split": {
            name: int(((index["label"] == label) & (index["split"] == split)).sum())
            for label, name in enumerate(store.classes)
        }
        for split in splits
    }
    patients = f"{index['patient_id'].nunique()} patients" if store.manifest.has_patients else "no patients known"
    console.print(f"{store.manifest.card}: {len(store)} images, {patients}", soft_wrap=True)
    console.print(counts_table(counts, title=""))
    for bad in store.manifest.quarantine:
        console.print(f"left out {bad.file}: {bad.reason}", soft_wrap=True)
    print_brief(console, audit)
    console.print(f"{'store':9}{store.folder}", soft_wrap=True)


def show_audit(files: "AuditFiles") -> None:
    """Print an audit, and where its files lie."""
    console = make_console()
    print_audit(console, files.audit)
    console.print(f"pictures  {files.page}\ndetails   {files.json}", soft_wrap=True)


def show_preview(card: DataCard, preview: "Preview", *, strength: float) -> None:
    """Print what the card's augmentation may do, where that is not as usual, and where the picture lies."""
    from consilia.report.sheets import describe_policy

    usual = POLICIES[card.modality]
    origin = "as usual" if card.augmentation == usual else "changed by the card"
    console = make_console()
    table = Table("may", "within", title=f"Augmentation of {card.modality}, {origin}, at strength {strength:g}")
    table.title_justify = "left"
    before = dict(describe_policy(usual, strength))
    for what, limits in describe_policy(card.augmentation, strength):
        note = "" if limits == before[what] else f"   (usual: {before[what]})"
        table.add_row(what, limits + note)
    console.print(table)
    console.print(f"image     {preview.file}, {preview.label}\npicture   {preview.path}", soft_wrap=True)


def show_jobs(jobs: "Sequence[JobSummary]") -> None:
    """Print jobs, one a line; nothing stands where a job has not said it."""
    table = Table(box=None, pad_edge=False)
    for name in ("job", "study", "state", "best", "trials"):
        table.add_column(name, no_wrap=True, overflow="ignore")
    for each in jobs:
        best = "" if each.best is None else f"{each.metric} {each.best:.4f}"
        done = "" if each.n_done is None else f"{each.n_done}/{each.n_trials or '?'}"
        table.add_row(each.job, each.study, each.state, best, done)
    make_console().print(table, soft_wrap=True)


def show_weights(models: Sequence[str], folder: Path) -> int:
    """Print which models have weights in a folder.

    Returns:
        1 if some have none, else 0.
    """
    from consilia.train.networks.weights import find_weights

    source = WeightsSource(kind="folder", path=folder.absolute())
    table = Table("model", "file", "MB", "sha256", title=f"pretrained weights in {folder}", title_justify="left")
    n_missing = 0
    for name in models:
        file = find_weights(name, source)
        n_missing += file is None
        if file is None:
            table.add_row(name, "missing", "", "")
        else:
            table.add_row(name, file.name, f"{file.stat().st_size / 1e6:.1f}", sha256_of_file(file)[:16])
    console = make_console()
    console.print(table)
    if n_missing:
        console.print(
            f"{n_missing} of {len(models)} are missing. Where there is internet: consilia weights fetch SPACE... "
            f"--to {folder}",
            soft_wrap=True,
        )
    return 1 if n_missing else 0


def show_result(result: "StudyResult") -> None:
    """Print a study's end: members, metrics, and where everything lies."""
    console = make_console()
    document = result.document
    if result.ended_by:
        console.print(f"search    {result.ended_by}{_where_time_went(result.seconds)}", soft_wrap=True)
    for line in confirmation_lines(result.confirmations, metric=result.metric):
        console.print(f"confirmed {line}", soft_wrap=True)
    console.print(f"ensemble  {describe_members(document)}", soft_wrap=True)
    console.print(f"          {document.selection.reason}", soft_wrap=True)
    for evaluation in document.evaluations:
        show_evaluation(evaluation)
    show_honesty(document)
    for warning in document.warnings:
        console.print(f"warning   {warning}", soft_wrap=True)
    console.print(f"bundle    {result.bundle}", soft_wrap=True)
    console.print(f"numbers   {result.report}", soft_wrap=True)
    if result.page.is_file():
        console.print(f"report    {result.page}", soft_wrap=True)


def show_honesty(document: BundleDocument) -> None:
    """Print the search from the most flattering number to the most honest one."""
    make_console().print(honesty_table(document.honesty))


def show_comparison(comparison: "Comparison") -> None:
    """Print two ensembles beside each other, and whether the first is better."""
    console = make_console()
    console.print(f"first     {comparison.first}\nsecond    {comparison.second}", soft_wrap=True)
    title = f"{count_in_words(comparison.images, comparison.patients)}, the same for both (95 % intervals; {BY_IMAGE})"
    console.print(comparison_table(comparison.metrics, title=title))
    for note in comparison.notes:
        console.print(f"note      {note}", soft_wrap=True)


def show_subgroups(subgroups: Sequence[Subgroups]) -> None:
    """Print, for each column, where the ensemble is worse."""
    console = make_console()
    for each in subgroups:
        console.print(subgroups_table(each))
    n_gaps = sum(gap is not None for each in subgroups for group in each.groups for gap in group.gaps.values())
    if n_gaps:
        console.print(
            f"note      {n_gaps} gaps were tested: where there is none in truth, 1 in 40 looks worse by chance",
            soft_wrap=True,
        )


def _where_time_went(seconds: Mapping[str, float]) -> str:
    """Say what shares of the slots' time went to training, to trials that were stopped, and to faults."""
    reserved = seconds.get("reserved", 0.0)
    if reserved <= 0:
        return ""
    share = {name: amount / reserved for name, amount in seconds.items()}
    training = sum(share.get(name, 0.0) for name in ("useful", "refit", "confirmation", "stopped", "failed"))
    parts = [f"{training:.0%} of the slots' {reserved / 3600:.2f} hours in training"]
    parts += [
        f"{share[name]:.0%} {name}"
        for name in ("refit", "confirmation", "stopped", "lost", "start-up")
        if share.get(name, 0.0) >= 0.005
    ]
    return f"; {', '.join(parts)}"


def show_evaluation(evaluation: Evaluation) -> None:
    """Print one evaluation: headline numbers with intervals, before calibration too, each class, and patients."""
    title = f"{evaluation.split}: {count_in_words(evaluation.images, evaluation.patients)}; {BY_IMAGE}"
    _show_level(evaluation, title=title, unit="images")
    if (whole := evaluation.by_patient) is not None:
        _show_level(whole, title=f"{evaluation.split}, patient by patient: {whole.patients} patients", unit="patients")


def _show_level(evaluation: Evaluation, *, title: str, unit: str) -> None:
    console = make_console()
    table = Table("metric", "value", "95 % interval", "uncalibrated", title=title, title_justify="left")
    for name in _HEADLINE:
        estimate, before = evaluation.metrics.get(name), evaluation.uncalibrated.get(name)
        if estimate is None:
            table.add_row(METRICS[name].title, "undefined", "", "")
        else:
            interval = f"{estimate.low:.4f} ... {estimate.high:.4f}"
            table.add_row(
                METRICS[name].title, f"{estimate.value:.4f}", interval, f"{before.value:.4f}" if before else ""
            )
    console.print(table)
    classes = Table("class", unit, "precision", "recall", "F1", *(f"as {each.name}" for each in evaluation.classes))
    for each, row in zip(evaluation.classes, evaluation.confusion, strict=True):
        scores = (f"{score:.3f}" for score in (each.precision, each.recall, each.f1))
        classes.add_row(each.name, str(each.images), *scores, *map(str, row))
    console.print(classes)
    if evaluation.promises is not None and (rows := promise_rows(evaluation.promises)):
        promises = Table("promise", Column(PROMISES_SEEN, overflow="fold"))
        for promise, found in rows:
            promises.add_row(promise, found)
        console.print(promises)
    console.print(f"          {evaluation.predictor}", soft_wrap=True)
    for note in evaluation.notes:
        console.print(f"note      {note}", soft_wrap=True)
