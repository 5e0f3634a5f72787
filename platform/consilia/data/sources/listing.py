"""The list of a data set's images before any pixel is read, and the checks that all sources share."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from consilia.config.card import DataCard, NpzSource
from consilia.config.frozen import Frozen
from consilia.config.records import Labels
from consilia.errors import DataError

SPLITS = ("train", "val", "test")


class Quarantined(Frozen):
    """A file that could not be read, and why."""

    file: str
    reason: str


class LeftOut(Frozen):
    """Images or rows that the card left out on purpose."""

    reason: str  # such as "where: {modality: X-ray}"
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image as its source describes it, unchecked."""

    file: str  # relative to the card's path; in an archive "train_images[12]"
    label: str
    patient: str = ""  # "" where the source has no patients
    split: str = ""  # "" where the source has no splits
    row: int | None = None  # of the table, its header being row 1; None without a table
    frame: int | None = None  # of a file with several, where each frame is an image; None: the card's rule decides
    extra: Mapping[str, str] = field(default_factory=dict)  # the table's other columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTable:
    """Every image of a data set with its label, patient and split, checked."""

    root: Path  # folder that the files are relative to, or the .npz file
    archive: bool  # the images lie inside `root`, an .npz file
    files: tuple[str, ...]  # (n,) unique together with `frames`
    frames: tuple[int | None, ...]  # (n,) see `Entry`
    labels: Labels  # (n,) positions in `classes`
    patients: tuple[str, ...]  # (n,) without patients each image has its own
    splits: tuple[str, ...]  # (n,) "train", "val", "test", or "" where the source has none
    classes: tuple[str, ...]
    has_patients: bool
    extra: Mapping[str, tuple[str, ...]]  # (n,) each: columns of the table that have no meaning of their own
    left_out: tuple[LeftOut, ...]
    unreadable: tuple[Quarantined, ...] = ()  # files whose header was needed and could not be read; not among `files`

    def __len__(self) -> int:
        return len(self.files)


def make_table(
    card: DataCard,
    entries: Sequence[Entry],
    *,
    root: Path,
    origin: Path,
    classes: Sequence[str] | None = None,
    left_out: Sequence[LeftOut] = (),
    unreadable: Sequence[Quarantined] = (),
) -> ImageTable:
    """Check what a source has listed and number its labels.

    Args:
        card: Decides the classes and whether images are grouped by patient.
        entries: One an image, in the order that the store will keep.
        root: Folder of the files, or the archive.
        origin: What errors point at: the table, the folder or the archive.
        classes: In label order, where the source knows them; else the card's, else the sorted labels.
        left_out: What the card left out.
        unreadable: Files that an entry needed and that could not be read, for the quarantine.

    Raises:
        DataError: There are no images, one class only, a label outside the classes, a class without images to train
            on, a file listed twice, an unknown split, a patient missing, or, without patients, images of one file
            or one row.
    """
    if not entries and unreadable:
        raise DataError(f"{origin}: none of {len(unreadable)} files can be read; the first: {unreadable[0].reason}")
    if not entries:
        raise DataError(f"{origin} holds no images. Check the path of card {card.name!r}.")
    _check_files(entries, origin)
    _check_splits(entries, origin)
    names = tuple(classes or card.classes or sorted({entry.label for entry in entries}))
    labels = _number_labels(entries, names, origin)
    splits = tuple(entry.split for entry in entries)
    check_classes(labels, splits, names, origin=origin)
    has_patients = card.group == "patient"
    (_check_patients if has_patients else _check_unrelated)(entries, origin)
    return ImageTable(
        root=root,
        archive=isinstance(card.source, NpzSource),
        files=tuple(entry.file for entry in entries),
        frames=tuple(entry.frame for entry in entries),
        labels=labels,
        patients=tuple(e.patient if has_patients else str(i) for i, e in enumerate(entries)),
        splits=splits,
        classes=names,
        has_patients=has_patients,
        extra={name: tuple(entry.extra.get(name, "") for entry in entries) for name in _extra_names(entries)},
        left_out=tuple(left_out),
        unreadable=tuple(unreadable),
    )


def check_classes(labels: Labels, splits: Sequence[str], classes: Sequence[str], *, origin: object) -> None:
    """Refuse a data set in which some class cannot be learned.

    Args:
        labels: Positions in `classes`, (n,).
        splits: Split of each image, (n,).
        classes: Names, in label order.
        origin: What the error points at.

    Raises:
        DataError: Fewer than two classes, or a class without an image outside the test split.
    """
    if len(classes) < 2:
        raise DataError(f"{origin}: a data set must have two classes or more, but only {classes[0]!r} was found.")
    pool = np.array([split != "test" for split in splits], dtype=bool)
    counts = np.bincount(labels[pool], minlength=len(classes))
    for name, count, total in zip(classes, counts, np.bincount(labels, minlength=len(classes)), strict=True):
        if count == 0 and total > 0:
            raise DataError(
                f"{origin}: class {name!r} has {total} test images but none to train on; "
                "every class must have images outside the test split."
            )
        if count == 0:
            raise DataError(f"{origin}: class {name!r} has no images; add some, or take it out of `classes`.")


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest of `known`, or "" if none is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _extra_names(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for entry in entries for name in entry.extra))


def _at(entry: Entry, origin: Path) -> str:
    return f"{origin}, row {entry.row} ({entry.file})" if entry.row else f"{origin}: {entry.file}"


def _check_files(entries: Sequence[Entry], origin: Path) -> None:
    first: dict[tuple[str, int | None], Entry] = {}
    for entry in entries:
        other = first.setdefault((entry.file, entry.frame), entry)
        if other is not entry:
            raise DataError(f"{_at(entry, origin)}: the same path stands in row {other.row}; list it once.")


def _check_splits(entries: Sequence[Entry], origin: Path) -> None:
    for entry in entries:
        if entry.split and entry.split not in SPLITS:
            raise DataError(
                f"{_at(entry, origin)}: split must be train, val or test, "
                f"but got {entry.split!r}{suggest(entry.split, SPLITS)}."
            )


def _number_labels(entries: Sequence[Entry], classes: Sequence[str], origin: Path) -> Labels:
    number = {name: position for position, name in enumerate(classes)}
    for entry in entries:
        if not entry.label:
            raise DataError(f"{_at(entry, origin)}: the label is missing; fill it in or remove the row.")
        if entry.label not in number:
            raise DataError(
                f"{_at(entry, origin)}: label {entry.label!r} is not one of the classes "
                f"{list(classes)}{suggest(entry.label, classes)}."
            )
    return np.array([number[entry.label] for entry in entries], dtype=np.int64)


def _check_patients(entries: Sequence[Entry], origin: Path) -> None:
    for entry in entries:
        if not entry.patient:
            raise DataError(
                f"{_at(entry, origin)}: the patient is missing. Fill it in; "
                "a data set without patients must say `group: none` in its card."
            )


def _check_unrelated(entries: Sequence[Entry], origin: Path) -> None:
    first: dict[str | int, Entry] = {}
    for entry in entries:
        other = first.setdefault(entry.row or entry.file, entry)
        if other is not entry:
            what = "frames of one file" if other.file == entry.file else f"named by one row, like {other.file},"
            raise DataError(
                f"{_at(entry, origin)}: images {what} are of one patient, but `group: none` would train on some and "
                "test on others. Say `group: patient`, and name the patient in a column or by a DICOM tag."
            )
