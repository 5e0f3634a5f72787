"""An audit as one HTML file that needs no network, with a picture of every suspect."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from consilia.audit.document import Audit, Case, Image, Shortcut
from consilia.data.store.image_store import ImageStore
from consilia.files import write_text
from consilia.report.audit_tables import count_cases, counts_of_parts, headline, list_counts
from consilia.report.html import Rows, embed_png, page_environment

MOST_CASES = 500  # with pictures; the rest stand in audit.json
MOST_IMAGES = 12  # of one case
_MOST_ROWS = 200  # of one list of names
_SIDE = 128  # pixels of a thumbnail at most

_SECTIONS: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("Exact duplicates across splits", lambda case: case.kind == "exact" and case.crosses_splits),
    ("Near duplicates across splits", lambda case: case.crosses_splits),
    ("One picture, several labels", lambda case: case.conflicts),
    ("Near duplicates", lambda case: case.kind == "near"),
    ("Exact duplicates", lambda case: True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """Cases of one importance."""

    title: str
    n_cases: int
    shown: list[Case]  # with pictures


def write_page(path: Path, audit: Audit, store: ImageStore) -> None:
    """Write the page.

    Args:
        path: Replaced in one step.
        audit: What to show.
        store: The audited data set, for the pictures.
    """
    write_text(path, render_page(audit, store))


def render_page(audit: Audit, store: ImageStore, *, most_cases: int = MOST_CASES) -> str:
    """Return the page's HTML, in which names of files, patients and classes are escaped.

    Args:
        audit: What to show.
        store: The audited data set, for the pictures.
        most_cases: How many cases are shown with pictures, the most important first.
    """
    environment = page_environment()
    environment.filters["likeness"] = _likeness
    environment.filters["place"] = _place
    environment.filters["thumbnail"] = lambda image: thumbnail(store.pixels[image.image_id])
    return environment.get_template("audit.html.j2").render(
        audit=audit,
        summary=headline(audit).partition(": ")[2],
        sections=list(_sections(audit.duplicates.cases, most=most_cases)),
        most_images=MOST_IMAGES,
        most_rows=_MOST_ROWS,
        **_tables(audit),
    )


def thumbnail(pixels: npt.NDArray[np.uint8]) -> str:
    """Return a stored image (size, size, channels) as a PNG in a data URI; without three channels, the first."""
    picture = Pillow.fromarray(np.asarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
    if picture.width > _SIDE:
        picture = picture.resize((_SIDE, _SIDE), Pillow.Resampling.BOX)
    return embed_png(picture)


def _sections(cases: Sequence[Case], *, most: int) -> Iterator[_Section]:
    """Yield the cases by importance, each once, `most` of them to be shown."""
    rest, left = list(cases), most
    for title, belongs in _SECTIONS:
        chosen = [case for case in rest if belongs(case)]
        rest = [case for case in rest if not belongs(case)]
        if chosen:
            yield _Section(title=title, n_cases=len(chosen), shown=chosen[:left])
            left -= min(left, len(chosen))


def _tables(audit: Audit) -> dict[str, Rows | list[str]]:
    """Return the rows of every table by its name in the template, and titles where they depend on the audit."""
    copies = {
        "exact groups": count_cases(audit.duplicates.exact),
        "near pairs": count_cases(audit.duplicates.near),
    }
    parts = counts_of_parts(audit)
    counts = [[name, *(f"{part[name]:,}" for part in parts.values())] for name in audit.classes]
    shortcuts = audit.shortcuts
    return {
        "copies_titles": ["", *copies["near pairs"]],
        "copies": [[name, *(f"{count:,}" for count in each.values())] for name, each in copies.items()],
        "shortcuts": [_shortcut(each) for each in shortcuts.tried] if shortcuts else [],
        "skipped": [[each.name, each.reason] for each in shortcuts.skipped] if shortcuts else [],
        "counts_titles": ["class", *parts],
        "counts": [*counts, ["all", *(f"{sum(part.values()):,}" for part in parts.values())]],
        "files": _files(audit),
        "greys": [[e.split, e.label, f"{e.n_images:,}", f"{e.mean:.3f}", f"{e.std:.3f}"] for e in audit.intensities],
        "columns": [
            [e.name, e.origin, f"{e.n_filled:,}", f"{e.n_distinct:,}", list_counts(e.commonest)] for e in audit.columns
        ],
        "crossing_patients": [
            [each.patient, "; ".join(f"{split or 'no split'}: {', '.join(all_)}" for split, all_ in each.files.items())]
            for each in audit.crossing_patients
        ],
        "quarantine": [[each.file, each.reason] for each in audit.quarantine],
    }


def _files(audit: Audit) -> Rows:
    widths, heights = audit.widths, audit.heights
    return [
        ["width", f"{widths.low:g} to {widths.high:g} pixels, median {widths.median:g}"],
        ["height", f"{heights.low:g} to {heights.high:g} pixels, median {heights.median:g}"],
        ["sizes", f"{audit.n_sizes:,}"],
        ["formats", list_counts(audit.formats)],
        ["pixel types", list_counts(audit.modes)],
        *(["left out", f"{each.count:,}: {each.reason}"] for each in audit.left_out),
    ]


def _shortcut(each: Shortcut) -> list[str]:
    verdict = ("nearly the label" if each.is_label else "warning") if each.warns else ""
    auc, best = each.auc, each.best_auc
    interval = f"{auc.low:.2f} to {auc.high:.2f}"
    return [each.name, each.origin, f"{auc.value:.2f}", interval, each.best_class, f"{best.value:.2f}", verdict]


def _likeness(case: Case) -> str:
    difference = "equal pixels" if case.kind == "exact" else f"difference {case.difference:.4f}"
    patients = {image.patient for image in case.images}
    whose = "" if patients == {""} else ", one patient" if len(patients) == 1 else f", {len(patients)} patients"
    return f"{difference}, {len(case.images):,} images{whose}"


def _place(image: Image) -> str:
    facts = (
        image.split or "no split",
        f"patient {image.patient}" if image.patient else "",
        f"frame {image.frame}" if image.frame else "",
    )
    return ", ".join(filter(None, facts))
