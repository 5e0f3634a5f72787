"""DICOM files below a folder, joined to a table of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from consilia.config.card import DataCard, DicomSource
from consilia.data.sources.dicom_files import DicomFile, choose_slices, find_files, group_by_series, read_files
from consilia.data.sources.file_facts import by_frame, check_patient_source, patient_of
from consilia.data.sources.label_table import LabelledRow, LabelRows, read_labels, stay_below
from consilia.data.sources.listing import Entry, ImageTable, LeftOut, Quarantined, make_table, suggest
from consilia.errors import DataError

_SHOWN = 20  # files or rows that an error lists
_NEAR = 5000  # files among which a near match of each is looked for


def list_dicom(card: DataCard, source: DicomSource, path: Path) -> ImageTable:
    """List the images of `<path>/<images>` that the rows of `<path>/<table>` name.

    One row may name several files by an identifier that they share: of a series, a study or a patient. Files are in the
    order of their sorted paths, slices of a series in their order in space. A file whose header cannot be read is
    quarantined.

    Raises:
        DataError: The table cannot be used, two rows name the same files, a row names no file, no row names a file
            (unless `unlabelled: leave_out`), its patient is unknown, or the slices of a series have no known order.
    """
    tag = _patient_tag(card, source)
    table = _check_places(card, source, path)
    columns = {meaning: name for meaning, name in source.columns.model_dump().items() if name is not None}
    named = _Named.of(read_labels(source, table, columns, key="key"), source, table)
    files = find_files(path, source.images, table=table)
    passed = _pass_over(files, named, source)
    each, series = card.frames == "each", source.unit == "series"
    readable, unreadable = read_files(
        path,
        [file for file in files if file not in passed],
        join=source.join,
        patient_tag=tag,
        count=each or series,
        geometry=series,
    )
    labelled = _labelled(readable, named, source, path)
    lost = _check_rows(readable, unreadable, named, source)
    left_out = _left_out([*passed, *(file.key for file in readable)], named, source)
    if series:
        labelled = _slices(labelled, card, path)
    frames = [(file, file.n_frames if each else 1) for file in labelled]
    return make_table(
        card,
        [image for file, n_frames in frames for image in by_frame(_entry(file, named, tag, path), n_frames)],
        root=path,
        origin=table,
        classes=card.classes or named.labels.classes,
        left_out=(*named.labels.left_out, *left_out),
        unreadable=(*unreadable, *lost),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """The rows of the table by what they name."""

    table: Path
    labels: LabelRows
    rows: Mapping[str, LabelledRow]
    excluded: frozenset[str]  # named only by rows that `where` leaves out

    @classmethod
    def of(cls, labels: LabelRows, source: DicomSource, table: Path) -> "_Named":
        rows: dict[str, LabelledRow] = {}
        for row in labels.rows:
            key = stay_below(source.images, row.key, row=row.number, table=table) if source.join == "path" else row.key
            other = rows.setdefault(key, row)
            if other is not row:
                raise DataError(
                    f"{table}, row {row.number}: the {source.join} {row.key} stands in row {other.number} too; "
                    "name it once."
                )
        excluded = labels.excluded
        if source.join == "path":
            excluded = frozenset(PurePosixPath(source.images, key).as_posix() for key in excluded)
        return cls(table=table, labels=labels, rows=rows, excluded=excluded - rows.keys())


def _patient_tag(card: DataCard, source: DicomSource) -> str | None:
    column, tag = source.columns.patient, source.patient_tag
    if card.group == "patient" and column is None:
        tag = tag or "PatientID"
    check_patient_source(card, column=column, tag=tag)
    return tag


def _check_places(card: DataCard, source: DicomSource, path: Path) -> Path:
    table, images = path / source.table, path / source.images
    if not table.is_file():
        raise DataError(f"Card {card.name!r}: {table} does not exist; check `path` and `source.table`.")
    if not images.is_dir() or not images.is_relative_to(path):
        raise DataError(
            f"Card {card.name!r}: `source.images` must name a folder below {path}, but {images} is not one; "
            "check `path` and `source.images`."
        )
    return table


def _pass_over(files: Sequence[str], named: _Named, source: DicomSource) -> set[str]:
    """Return the files that are left out by their paths alone, so that their headers need not be read."""
    if source.join != "path":
        return set()
    unnamed = source.unlabelled == "leave_out"
    return {file for file in files if file in named.excluded or (unnamed and file not in named.rows)}


def _labelled(files: Sequence[DicomFile], named: _Named, source: DicomSource, path: Path) -> list[DicomFile]:
    """Return the files that rows name.

    Raises:
        DataError: No row names some of them, which the card does not allow; or two are the same image.
    """
    unlabelled = [file for file in files if file.key not in named.rows and file.key not in named.excluded]
    if unlabelled and source.unlabelled == "error":
        listed = "\n".join(f"  {_found(file, source)}" for file in unlabelled[:_SHOWN])
        raise DataError(
            f"{named.table}: no row names {len(unlabelled)} of {len(files)} DICOM files below {path / source.images} "
            f"(by {source.join}, column {source.columns.key!r}):\n{listed}{_more(len(unlabelled))}\n"
            "Label them, or leave them out: `source.unlabelled: leave_out`."
        )
    labelled = [file for file in files if file.key in named.rows]
    if source.join == "SOPInstanceUID":
        _check_single(labelled, path)
    return labelled


def _left_out(keys: Sequence[str], named: _Named, source: DicomSource) -> list[LeftOut]:
    excluded = sum(key in named.excluded for key in keys)
    unlabelled = sum(key not in named.excluded and key not in named.rows for key in keys)
    counts = {
        f"files whose row of {source.table} `where` leaves out": excluded,
        f"files that no row of {source.table} names": unlabelled,
    }
    return [LeftOut(reason=reason, count=count) for reason, count in counts.items() if count]


def _found(file: DicomFile, source: DicomSource) -> str:
    if source.join == "path":
        return file.file
    return f"{file.file}: {source.join} {file.key}" if file.key else f"{file.file}: it has no {source.join}"


def _check_single(labelled: Sequence[DicomFile], path: Path) -> None:
    first: dict[str, DicomFile] = {}
    for file in labelled:
        other = first.setdefault(file.key, file)
        if other is not file:
            raise DataError(
                f"{path}: {other.file} and {file.file} have the same SOPInstanceUID {file.key}, which must be "
                "unique; remove the file that is wrong or a copy."
            )


def _check_rows(
    files: Sequence[DicomFile], unreadable: Sequence[Quarantined], named: _Named, source: DicomSource
) -> list[Quarantined]:
    """Return, for the quarantine, the rows that may name unreadable files.

    Raises:
        DataError: A row names no file: more such rows than unreadable files, or the row names it by path.
    """
    keys = {file.key for file in files}
    if source.join == "path":
        keys |= {bad.file for bad in unreadable}
    missing = [row for key, row in named.rows.items() if key not in keys]
    if source.join != "path" and len(missing) <= len(unreadable):
        why = f"no readable file has this {source.join}, and {len(unreadable)} files cannot be read"
        return [
            Quarantined(file=f"{source.table}, row {row.number}", reason=f"{named.table}, row {row.number}: {why}")
            for row in missing
        ]
    if missing:
        near = keys if source.join == "path" and len(keys) <= _NEAR else ()  # identifiers are all alike
        listed = "\n".join(f"  row {row.number}: {row.key}{suggest(row.key, near)}" for row in missing[:_SHOWN])
        raise DataError(
            f"{named.table}: {len(missing)} rows name no file below {source.images!r} (by {source.join}, column "
            f"{source.columns.key!r}):\n{listed}{_more(len(missing))}\nCorrect them, or leave them out with `where`."
        )
    return []


def _slices(labelled: Sequence[DicomFile], card: DataCard, path: Path) -> list[DicomFile]:
    chosen: list[DicomFile] = []
    for files in group_by_series(labelled, origin=path).values():
        for what, found in (("rows", [f.key for f in files]), ("patients", [f.patient for f in files])):
            several = list(dict.fromkeys(found))[:2]
            if len(several) > 1:
                raise DataError(
                    f"{path}: the slices of series {files[0].series} ({files[0].file} ...) belong to several {what}: "
                    f"{several[0]!r} and {several[1]!r}. Correct their tags, or say `unit: file`."
                )
        chosen.extend(choose_slices(files, card.frames, origin=path))
    return chosen


def _entry(file: DicomFile, named: _Named, tag: str | None, path: Path) -> Entry:
    row = named.rows[file.key]
    patient = patient_of({tag: file.patient}, tag, str(path / file.file)) if tag else row.patient
    return Entry(file=file.file, label=row.label, patient=patient, split=row.split, row=row.number, extra=row.extra)


def _more(count: int) -> str:
    return f"\n  ... and {count - _SHOWN} more" if count > _SHOWN else ""
