"""From where images and labels lie to the keys of a card that say so: `source`, `group`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consilia.config.card import FolderSource
from consilia.data.dicom.header import is_dicom, read_tags
from consilia.data.survey.choice import Choice, Decide, Described, because
from consilia.data.survey.columns import NONE, Cells, describe_counts, propose_label, propose_patient, propose_split
from consilia.data.survey.layout import Layout
from consilia.errors import DataError, ReaderError

NO_PATIENTS = (
    "No patients are named. Copies and near copies of an image stay on one side of every split, by their likeness "
    "alone; other images of one patient may be trained on and tested on, so the scores may flatter. The model card "
    "will say so."
)

_TAG = "DICOM:PatientID"  # answers that the files name the patient
_JOINS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")
_SAMPLE = 48  # DICOM headers that are read
_SHOWN = 3


def describe_source(layout: Layout, decide: Decide) -> Described:
    """Return a card's `source` and `group`, and `frames` where slices of series are chosen from.

    Raises:
        DataError: The table's rows do not name the images, or some name none.
    """
    if layout.root.is_file():
        return _without_patients({"kind": "npz", "file": layout.root.name})
    if layout.table is None:
        return _describe_folders(layout, decide)
    return _describe_table(layout, layout.table, decide)


def _describe_folders(layout: Layout, decide: Decide) -> Described:
    tags = _sample_tags(layout)
    if (choice := _propose_tag(tags)) is None:
        return _without_patients({"kind": "folder"})
    if (answer := decide(choice)) == NONE:
        return _without_patients({"kind": "folder"})
    source = FolderSource(patient_tag="PatientID").model_dump()
    return Described(keys={"source": source, "group": "patient"}, why={"source.patient_tag": because(choice, answer)})


def _describe_table(layout: Layout, table: Path, decide: Decide) -> Described:
    tags = [] if layout.paths and not _has_dicom(layout) else _sample_tags(layout)
    located = _describe_paths(layout, table, decide) if layout.paths else _describe_join(layout, table, tags, decide)
    source = dict(located.keys["source"])
    columns, why, remarks = dict(source["columns"]), dict(located.why), list(located.remarks)

    label = propose_label(layout.cells, columns.values())
    columns["label"] = decide(label)
    why["source.columns.label"] = describe_counts(Counter(layout.cells[columns["label"]]))
    patient = _or_tag(propose_patient(layout.cells, columns.values()), tags)
    answer = decide(patient)
    if answer not in (NONE, _TAG):
        columns["patient"] = answer
        why["source.columns.patient"] = because(patient, answer)
    elif answer == _TAG:
        source["patient_tag"] = "PatientID"
        why["source.patient_tag"] = because(patient, answer)
    split = propose_split(layout.cells, columns.values())
    if split is not None and (column := decide(split)) != NONE:
        columns["split"] = column
        why["source.columns.split"] = because(split, column)

    source["columns"] = columns
    if where := _where_filled(layout.cells, columns):
        source["where"] = where
        why["source.where"] = "rows with an empty cell there are left out, and counted"
    if answer == NONE:
        remarks.append(NO_PATIENTS)
        why["group"] = "the table names no patients"
    group = "none" if answer == NONE else "patient"
    keys = {**located.keys, "source": source, "group": group}
    return Described(keys=keys, why=why, remarks=tuple(remarks))


def _describe_paths(layout: Layout, table: Path, decide: Decide) -> Described:
    """Describe a table of which a column names files."""
    best = layout.paths[0]
    choice = Choice(
        key="path-column",
        question="Which column names the file of the image?",
        value=best.column,
        reason=f"{best.n_found} of {best.n_found + len(best.missing)} cells name files below {best.folder!r}",
        certain=len(layout.paths) == 1 or layout.paths[1].n_found < best.n_found,
        options=tuple(each.column for each in layout.paths),
    )
    column = decide(choice)
    chosen = next(each for each in layout.paths if each.column == column)
    if chosen.missing:
        raise DataError(
            f"{table}: {len(chosen.missing)} of {len(layout.cells[column])} rows name no file below "
            f"{layout.root / chosen.folder} in column {column!r}: {', '.join(map(repr, chosen.missing[:_SHOWN]))} ... "
            "Bring these images, or take their rows out of the table."
        )
    source = {
        "kind": "table",
        "table": table.relative_to(layout.root).as_posix(),
        "images": chosen.folder,
        "columns": {"path": column},
    }
    return Described(keys={"source": source}, why={"source.columns.path": because(choice, column)})


def _describe_join(layout: Layout, table: Path, tags: Sequence[Mapping[str, str]], decide: Decide) -> Described:
    """Describe a table of which a column names DICOM files by an identifier."""
    shares = {
        f"{tag}={column}": sum(each.get(tag, "") in cells for each in tags)
        for tag in _JOINS
        for column, cells in ((name, set(filter(None, column))) for name, column in layout.cells.items())
    }
    fitting = {pair: count for pair, count in shares.items() if 2 * count > len(tags)}
    if not fitting:
        raise DataError(
            f"{table}: no column names the files below {layout.root} by path"
            + (f", or by one of {', '.join(_JOINS)}" if tags else "")
            + f"; its columns are {', '.join(layout.cells)}. Name the folder of the images, or the right table: "
            "--images DIR, --labels FILE."
        )
    best = max(fitting, key=lambda pair: fitting[pair])
    choice = Choice(
        key="join",
        question="Which identifier of the files, and which column, join images and rows?",
        value=best,
        reason=f"{fitting[best]} of {len(tags)} files have an identifier that stands in the column",
        certain=len(fitting) == 1,
        options=tuple(fitting),
    )
    join, _, column = decide(choice).partition("=")
    source: dict[str, Any] = {
        "kind": "dicom",
        "table": table.relative_to(layout.root).as_posix(),
        "join": join,
        "columns": {"key": column},
    }
    described = Described(keys={"source": source}, why={"source.join": because(choice, f"{join}={column}")})
    several = join != "SOPInstanceUID" and max(Counter(each.get(join, "") for each in tags).values()) > 1
    return described | _describe_unit(source, decide) if several else described


def _describe_unit(source: Mapping[str, Any], decide: Decide) -> Described:
    choice = Choice(
        key="unit",
        question="Is every file an image with the row's label, or is one slice of each series to be taken?",
        value="file",
        reason="a row stands for several files",
        options=("file", "series"),
    )
    unit = decide(choice)
    frames = {"frames": "middle"} if unit == "series" else {}
    return Described(
        keys={"source": {**source, "unit": unit}, **frames},
        why={"source.unit": because(choice, unit), **({"frames": "`first` or `each` are others"} if frames else {})},
    )


def _without_patients(source: Mapping[str, Any]) -> Described:
    why = {"group": "folders and archives name no patients"}
    return Described(keys={"source": dict(source), "group": "none"}, why=why, remarks=(NO_PATIENTS,))


def _propose_tag(tags: Sequence[Mapping[str, str]]) -> Choice | None:
    """Propose that the files name the patient; None where not all of them do, as of PNGs."""
    patients = [each.get("PatientID", "") for each in tags]
    if not patients or not all(patients):
        return None
    n_different = len(set(patients))
    return Choice(
        key="patient-column",
        question=f"Do the DICOM files name the patient? {_TAG!r} if they do, else {NONE!r}.",
        value=_TAG if n_different > 1 else None,
        reason=f"{len(patients)} files were looked at, and have {n_different} different PatientIDs",
        certain=n_different > 1,
        options=(_TAG, NONE),
    )


def _or_tag(by_column: Choice, tags: Sequence[Mapping[str, str]]) -> Choice:
    """Let the files' own tag be an answer too, and the proposal where no column is one."""
    by_tag = _propose_tag(tags)
    if by_tag is None:
        return by_column
    chosen = by_tag if by_column.value is None else by_column
    return Choice(
        key=by_column.key,
        question=f"{by_column.question} {_TAG!r} if the files do.",
        value=chosen.value,
        reason=f"{by_column.reason}; {by_tag.reason}",
        certain=chosen.certain,
        options=(*by_column.options, _TAG),
    )


def _where_filled(cells: Cells, columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
    needed = [columns[meaning] for meaning in ("label", "patient") if meaning in columns]
    return {column: {"not": ""} for column in needed if "" in cells[column]}


def _has_dicom(layout: Layout) -> bool:
    return any(file.lower().endswith((".dcm", ".dicom")) for file in layout.files)


def _sample_tags(layout: Layout) -> list[Mapping[str, str]]:
    """Read the tags of some DICOM files; none where one of those looked at is of another type."""
    step = max(1, len(layout.files) // _SAMPLE)
    files = [layout.root / file for file in layout.files[::step][:_SAMPLE] if layout.root / file != layout.table]
    if not all(map(is_dicom, files)):
        return []
    found: list[Mapping[str, str]] = []
    for file in files:
        try:
            found.append(read_tags(file))
        except ReaderError:
            continue  # `prepare` quarantines it by name
    return found
