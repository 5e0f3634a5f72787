"""An audit on the terminal: findings first, then counts, copies and shortcuts."""

from collections.abc import Iterator, Mapping

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from consilia.audit.document import Audit, Case, Finding, Shortcuts

_STYLE = {"error": "bold red", "warning": "yellow", "note": "dim"}
_MOST_SHORTCUTS = 12


def print_audit(console: Console, audit: Audit) -> None:
    """Print an audit without its long lists, which are in its files."""
    console.print(headline(audit), soft_wrap=True)
    for part in (findings_table(audit.findings), *_parts(audit)):
        console.print(part)


def print_brief(console: Console, audit: Audit) -> None:
    """Print the findings, one line each, and how to see more."""
    for each in audit.findings:
        action = "" if each.severity == "note" else f" {each.action}"
        line = Text.assemble((f"{each.severity:9}", _STYLE[each.severity]), each.sentence + action)
        console.print(line, soft_wrap=True)
    console.print(
        f"{'audit':9}{_total(audit)}; consilia data audit shows pictures and looks for shortcuts", soft_wrap=True
    )


def headline(audit: Audit) -> str:
    """Return one line: what it is, how much, and how many findings."""
    counts = audit.counts
    patients = "no patients known" if counts.n_patients is None else f"{counts.n_patients:,} patients"
    if counts.images_per_patient is not None:
        each = counts.images_per_patient
        patients += f" (images each: median {each.median:g}, most {each.high:g})"
    return f"{audit.card}: {audit.n_images:,} images, {patients}; {_total(audit)}"


def findings_table(findings: tuple[Finding, ...]) -> Table:
    """Return one row per finding: severity, what was found, what to do."""
    table = Table("", Column("found", ratio=3), Column("what to do", ratio=2), expand=True, show_lines=True)
    for each in findings:
        table.add_row(_styled(each), each.sentence, each.action)
    if not findings:
        table.add_row("", "nothing", "")
    return table


def counts_of_parts(audit: Audit) -> dict[str, Mapping[str, int]]:
    """Return the number of images by split or fold, and class; a test split that was drawn comes after the folds."""
    drawn = "test drawn"
    folds = {drawn if name == "test" else name: counts for name, counts in audit.counts.by_fold.items()}
    if "test" in audit.counts.by_split:
        folds.pop(drawn, None)
    return {**audit.counts.by_split, **folds}


def counts_table(counts: Mapping[str, Mapping[str, int]], *, title: str) -> Table:
    """Return one row per class and one column per split, with totals.

    Args:
        counts: Images by split and class.
        title: Above the table.
    """
    table = Table("class", title=title, title_justify="left")
    for split in counts:
        table.add_column(split, justify="right")
    for name in dict.fromkeys(name for by_class in counts.values() for name in by_class):
        table.add_row(name, *(str(by_class.get(name, 0)) for by_class in counts.values()))
    table.add_section()
    table.add_row("all", *(str(sum(by_class.values())) for by_class in counts.values()))
    return table


def duplicates_table(audit: Audit) -> Table:
    """Return how many copies there are, by where they lie and whether their labels agree."""
    table = Table("same picture", *map(_right, _CASE_COUNTS), title="Duplicates", title_justify="left")
    parts = (("exact groups", audit.duplicates.exact), ("near pairs", audit.duplicates.near))
    for name, cases in parts:
        table.add_row(name, *(f"{count:,}" for count in count_cases(cases).values()))
    return table


def count_cases(cases: tuple[Case, ...]) -> dict[str, int]:
    """Return the number of cases by what is wrong with them."""
    return {
        "all": len(cases),
        "images": len({image.image_id for case in cases for image in case.images}),
        "across test": sum(case.reaches_test for case in cases),
        "across other splits": sum(case.crosses_splits and not case.reaches_test for case in cases),
        "label conflicts": sum(case.conflicts for case in cases),
    }


def shortcuts_table(shortcuts: Shortcuts) -> Table:
    """Return one row for each thing that was tried, most predictive first."""
    title = "What predicts the label without the finding, outside the test split"
    if shortcuts.n_images < shortcuts.n_pool:
        title += f" ({shortcuts.n_images:,} of {shortcuts.n_pool:,} images, drawn by group)"
    names = ("alone", "AUC", "95 % interval", "best class", "its AUC", "")
    table = Table(*names, title=title, title_justify="left")
    for each in shortcuts.tried[:_MOST_SHORTCUTS]:
        interval = f"{each.auc.low:.2f} ... {each.auc.high:.2f}"
        verdict = Text("nearly the label" if each.is_label else "warning", _STYLE["warning"]) if each.warns else ""
        name = f"{each.name} (tag)" if each.origin == "tag" else each.name
        table.add_row(name, f"{each.auc.value:.2f}", interval, each.best_class, f"{each.best_auc.value:.2f}", verdict)
    return table


def _parts(audit: Audit) -> Iterator[RenderableType]:
    counts = audit.counts
    yield counts_table(counts_of_parts(audit), title="Images by class, split and fold")
    if counts.no_folds:
        yield f"no folds: {counts.no_folds}"
    yield _facts(audit)
    yield duplicates_table(audit) if audit.duplicates.cases else "duplicates  none"
    if audit.shortcuts is None:
        return
    if audit.shortcuts.not_tried:
        yield f"shortcuts were not looked for: {audit.shortcuts.not_tried}"
        return
    yield shortcuts_table(audit.shortcuts)
    more = len(audit.shortcuts.tried) - _MOST_SHORTCUTS
    if more > 0:
        yield f"and {more} less predictive ones, in audit.json"
    if audit.shortcuts.skipped:
        yield Text("not tried: " + "; ".join(f"{each.name}, {each.reason}" for each in audit.shortcuts.skipped), "dim")


def _facts(audit: Audit) -> str:
    widths, heights = audit.widths, audit.heights
    sizes = (
        f"{widths.low:g} ... {widths.high:g} wide (median {widths.median:g}), "
        f"{heights.low:g} ... {heights.high:g} high (median {heights.median:g}), {_count('size', audit.n_sizes)}"
    )
    return f"files  {sizes}; {list_counts(audit.formats)}; {list_counts(audit.modes)}"


def list_counts(counts: Mapping[str, int]) -> str:
    """Return "PNG 12, JPEG 3"."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _total(audit: Audit) -> str:
    return ", ".join(_count(severity, audit.count(severity)) for severity in ("error", "warning", "note"))


def _count(word: str, number: int) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _styled(finding: Finding) -> Text:
    return Text(finding.severity, _STYLE[finding.severity])


def _right(name: str) -> Column:
    return Column(name, justify="right")


_CASE_COUNTS = tuple(count_cases(()))
