"""Which column of a table names the image, its label, its patient and its split."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from consilia.data.sources.listing import SPLITS
from consilia.data.survey.choice import Choice

Cells = Mapping[str, Sequence[str]]  # by column, one text a row

NONE = "none"  # answers that there is no such column

_MOST_CLASSES = 30
_LABEL = re.compile(r"labels?|class|target|diagnosis|category", re.IGNORECASE)
_PATIENT = re.compile(r".*(patient|subject|participant|person).*|mrn|pid|case_?id", re.IGNORECASE)
_SPLIT = re.compile(r"split|subset|partition|fold|set", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathColumn:
    """A column whose cells are names of files."""

    column: str
    folder: str  # that its cells start from, below the root; "." for the root itself
    n_found: int  # rows whose file exists
    missing: tuple[str, ...]  # cells that name no file


def find_path_columns(cells: Cells, files: Iterable[str]) -> list[PathColumn]:
    """Return the columns of which half the cells or more name a file, the best first.

    Args:
        cells: The table.
        files: Paths below the root, with forward slashes.
    """
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        by_name[PurePosixPath(file).name].append(file)
    found = [each for name, column in cells.items() if (each := _as_paths(name, column, by_name)) is not None]
    return sorted(found, key=lambda each: -each.n_found)


def propose_label(cells: Cells, taken: Iterable[str]) -> Choice:
    """Propose the column of the label: the one that is called so, among those with a few distinct values."""
    others = {*taken, *(name for name in cells if _PATIENT.fullmatch(name) or _SPLIT.fullmatch(name))}
    counts = {name: Counter(filter(None, column)) for name, column in cells.items() if name not in others}
    few = {name: found for name, found in counts.items() if _may_be_label(found)}
    named = [name for name in few if _LABEL.fullmatch(name)]
    likely = named if len(named) == 1 else list(few)
    value = likely[0] if len(likely) == 1 else None
    shown = [value] if value in named else few
    listed = "".join(f"\n    {name}: {describe_counts(few[name])}" for name in shown)
    return Choice(
        key="label-column",
        question="Which column holds the label?",
        value=value,
        certain=value in named,
        reason=f"a few distinct values in{listed}" if few else "no column has 2 to 30 distinct values",
        options=tuple(cells),
    )


def propose_patient(cells: Cells, taken: Iterable[str]) -> Choice:
    """Propose the column of the patient: the one whose name says so."""
    free = [name for name in cells if name not in set(taken)]
    named = [name for name in free if _PATIENT.fullmatch(name) and len(set(cells[name])) > 1]
    value = named[0] if len(named) == 1 else None
    if value is not None:
        reason = f"its name says so, and it has {len(set(cells[value]) - {''})} distinct values"
    else:
        reason = f"several names would fit: {', '.join(named)}" if named else "no column is named like a patient"
    return Choice(
        key="patient-column",
        question=f"Which column names the patient? {NONE!r} if no column does.",
        value=value,
        certain=value is not None,
        reason=reason,
        options=(*free, NONE),
    )


def propose_split(cells: Cells, taken: Iterable[str]) -> Choice | None:
    """Propose the column of the split; None where no column with any cell filled is named like one."""
    named = [name for name in cells if name not in set(taken) and any(cells[name]) and _SPLIT.fullmatch(name)]
    if not named:
        return None
    fitting = [name for name in named if set(cells[name]) <= set(SPLITS)]
    column = (fitting or named)[0]
    held = describe_counts(Counter(cells[column]))
    fits = bool(fitting) and len(named) == 1
    return Choice(
        key="split-column",
        question=f"Which column holds train, val or test? {NONE!r} if the test split is to be drawn.",
        value=column if fits else NONE,
        certain=fits,
        reason=f"column {column} holds {held}" + ("" if fitting else ", which is not train, val and test"),
        options=(*(fitting or ()), NONE),
    )


def describe_counts(counts: Mapping[str, int], *, most: int = 6) -> str:
    """Return "PA (187), AP (45)", the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{value or '(empty)'} ({count})" for value, count in ordered[:most])
    return shown + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def _may_be_label(counts: Counter[str]) -> bool:
    return 2 <= len(counts) <= min(_MOST_CLASSES, counts.total() // 2)


def _as_paths(name: str, column: Sequence[str], by_name: Mapping[str, Sequence[str]]) -> PathColumn | None:
    before = [_folders_before(cell, by_name) for cell in column]
    counts = Counter(folder for folders in before for folder in folders)
    if not counts:
        return None
    folder, n_found = min(counts.items(), key=lambda item: (-item[1], item[0]))
    missing = tuple(cell for cell, folders in zip(column, before, strict=True) if folder not in folders)
    return PathColumn(column=name, folder=folder, n_found=n_found, missing=missing) if n_found >= len(missing) else None


def _folders_before(cell: str, by_name: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the folders from which a cell's path leads to a file; none where it leads to no file."""
    path = PurePosixPath(cell)
    files = [PurePosixPath(file) for file in by_name.get(path.name, ())]
    n_parts = len(path.parts)
    return {PurePosixPath(*file.parts[:-n_parts]).as_posix() for file in files if file.parts[-n_parts:] == path.parts}
