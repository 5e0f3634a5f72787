"""An audit as one HTML file that needs no network, with a picture of every suspect."""

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from consilia.audit.document import Audit, Shortcut, Shortcuts
from consilia.data.store.image_store import ImageStore
from consilia.files import write_text
from consilia.report.audit_cases import render_cases
from consilia.report.audit_style import STYLE
from consilia.report.audit_table import count_cases, counts_of_parts, headline, list_counts
from consilia.report.html_page import make_page, make_table

_MOST_ROWS = 200  # of one list of names


def write_page(path: Path, audit: Audit, store: ImageStore) -> None:
    """Write the page.

    Args:
        path: Replaced in one step.
        audit: What to show.
        store: The audited data set, for the pictures.
    """
    write_text(path, render_page(audit, store))


def render_page(audit: Audit, store: ImageStore) -> str:
    """Return the page's HTML; names of files, patients and classes are escaped."""
    parts = (_head(audit), _findings(audit), _cases(audit, store), _shortcuts(audit), _counts(audit), _lists(audit))
    return make_page(f"Audit of {audit.card}", (line for part in parts for line in part), style=STYLE)


def _head(audit: Audit) -> Iterator[str]:
    yield f"<h1>Audit of {escape(audit.card)}</h1>"
    yield f"<p>{escape(headline(audit).partition(': ')[2])}</p>"
    yield f'<p class="soft">Data <code>{audit.digest[:16]}</code>. '
    yield "This page may hold pictures and names of patients: keep it where the data may be kept.</p>"


def _findings(audit: Audit) -> Iterator[str]:
    yield "<h2>Findings</h2>"
    for each in audit.findings:
        yield f'<div class="finding {each.severity}"><b>{each.severity}</b><div><p>{escape(each.sentence)}</p>'
        yield f'<p class="soft">{_code(each.action)}</p></div></div>'
    if not audit.findings:
        yield "<p>None.</p>"


def _code(text: str) -> str:
    """Escape, and set what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _cases(audit: Audit, store: ImageStore) -> Iterator[str]:
    yield "<h2>The same picture more than once</h2>"
    if not audit.duplicates.cases:
        yield "<p>None was found.</p>"
        return
    parts = (("exact groups", audit.duplicates.exact), ("near pairs", audit.duplicates.near))
    counts = {name: count_cases(cases) for name, cases in parts}
    rows = [[name, *(f"{count:,}" for count in each.values())] for name, each in counts.items()]
    yield from make_table(["", *counts["near pairs"]], rows, align="lrrrrr")
    yield '<p class="soft">Exact: the stored pixels are equal. Near: alike by perceptual hash and confirmed on pixels; '
    yield "the difference is 1 - the correlation at low resolution.</p>"
    yield from render_cases(audit.duplicates.cases, store)


def _counts(audit: Audit) -> Iterator[str]:
    yield "<h2>Images by class, split and fold</h2>"
    parts = counts_of_parts(audit)
    rows = [[name, *(f"{counts[name]:,}" for counts in parts.values())] for name in audit.classes]
    rows.append(["all", *(f"{sum(counts.values()):,}" for counts in parts.values())])
    yield from make_table(["class", *parts], rows, align="l" + "r" * len(parts))
    if audit.counts.no_folds:
        yield f"<p>No folds can be made: {escape(audit.counts.no_folds)}</p>"
    yield "<h3>Files</h3>"
    widths, heights = audit.widths, audit.heights
    facts = [
        ["width", f"{widths.low:g} to {widths.high:g} pixels, median {widths.median:g}"],
        ["height", f"{heights.low:g} to {heights.high:g} pixels, median {heights.median:g}"],
        ["sizes", f"{audit.n_sizes:,}"],
        ["formats", list_counts(audit.formats)],
        ["pixel types", list_counts(audit.modes)],
    ]
    facts += [["left out", f"{each.count:,}: {each.reason}"] for each in audit.left_out]
    yield from make_table(["", ""], facts, align="ll")
    yield "<h3>Grey values as stored, 0 to 1</h3>"
    greys = [[e.split, e.label, f"{e.n_images:,}", f"{e.mean:.3f}", f"{e.std:.3f}"] for e in audit.intensities]
    yield from make_table(["split", "class", "images", "mean", "deviation"], greys, align="llrrr")
    if audit.columns:
        yield "<h3>Columns of the table, and DICOM tags</h3>"
        columns = [
            [e.name, e.origin, f"{e.n_filled:,}", f"{e.n_distinct:,}", list_counts(e.commonest)] for e in audit.columns
        ]
        yield from make_table(["name", "from", "filled", "values", "commonest"], columns, align="llrrl")


def _shortcuts(audit: Audit) -> Iterator[str]:
    found = audit.shortcuts
    if found is None:
        return
    yield "<h2>What predicts the label without the finding</h2>"
    if found.not_tried:
        yield f"<p>Not looked for: {escape(found.not_tried)}.</p>"
        return
    yield f'<p class="soft">{_explain(found)}</p>'
    titles = ["alone", "from", "AUC", "95 % interval", "best class", "its AUC", ""]
    yield from make_table(titles, map(_shortcut_cells, found.tried), align="llrllrm")
    if found.skipped:
        yield "<h3>Columns that were not tried</h3>"
        yield from make_table(["column", "why"], [[each.name, each.reason] for each in found.skipped], align="ll")


def _explain(found: Shortcuts) -> str:
    return (
        f"Cross-validated by patient on {found.n_images:,} of the {found.n_pool:,} images outside "
        "the test split. AUC is the mean of one class against the rest; 0.5 is chance. It warns "
        "above 0.6 where the lower 95 % bound lies above chance, for the mean or for the best class, whose bound "
        "allows for the choice."
    )


def _shortcut_cells(each: Shortcut) -> list[str]:
    verdict = ("nearly the label" if each.is_label else "warning") if each.warns else ""
    auc, best = each.auc, each.best_auc
    interval = f"{auc.low:.2f} to {auc.high:.2f}"
    return [each.name, each.origin, f"{auc.value:.2f}", interval, each.best_class, f"{best.value:.2f}", verdict]


def _lists(audit: Audit) -> Iterator[str]:
    if audit.crossing_patients:
        yield "<h2>Patients in several splits</h2>"
        rows = [
            [
                each.patient,
                "; ".join(f"{split or 'no split'}: {', '.join(files)}" for split, files in each.files.items()),
            ]
            for each in audit.crossing_patients
        ]
        yield from _list(["patient", "files"], rows)
    if audit.quarantine:
        yield "<h2>Files that could not be read</h2>"
        yield from _list(["file", "reason"], [[each.file, each.reason] for each in audit.quarantine])


def _list(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from make_table(titles, rows[:_MOST_ROWS], align="ll")
    if len(rows) > _MOST_ROWS:
        yield f"<p>and {len(rows) - _MOST_ROWS:,} more, listed in audit.json</p>"
