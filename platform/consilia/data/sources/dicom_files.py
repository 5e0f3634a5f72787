"""The DICOM files below a folder, each with the tags that join it to labels and place it in its series."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from consilia.data.sources.each_file import Unreadable, read_each
from consilia.data.sources.file_facts import FileFacts, read_facts
from consilia.data.sources.listing import Quarantined
from consilia.errors import DataError

_GEOMETRY = ("SeriesInstanceUID", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber")


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFile:
    """A file whose header could be read; a tag that is absent is ""."""

    file: str  # relative to the card's path
    key: str  # what the table may name: the path, or an identifier
    patient: str
    n_frames: int
    series: str = ""
    orientation: str = ""  # ImageOrientationPatient: six cosines, between backslashes
    position: str = ""  # ImagePositionPatient: three millimetres, between backslashes
    number: str = ""  # InstanceNumber


def find_files(root: Path, images: str, *, table: Path) -> list[str]:
    """List every file below `root / images`, sorted, relative to `root`.

    Passed over are names that start with a dot, DICOMDIR and the table. Links to folders are followed, to each once.

    Raises:
        DataError: A folder cannot be read.
    """
    found = (file for file in _walk(root / images) if file.name.upper() != "DICOMDIR" and file != table)
    return sorted(file.relative_to(root).as_posix() for file in found)


def read_files(
    root: Path, files: Sequence[str], *, join: str, patient_tag: str | None, count: bool, geometry: bool
) -> tuple[list[DicomFile], list[Quarantined]]:
    """Read the headers of files, a large number of them in processes.

    Args:
        root: What the files are relative to.
        files: Their paths.
        join: "path", or the DICOM keyword of the identifier that becomes `DicomFile.key`.
        patient_tag: Keyword of the patient; None: patients stay "".
        count: Whether frames are counted.
        geometry: Whether series and position are read.

    Returns:
        The files that could be read, and the others; both in the given order.
    """
    tags = [*([] if join == "path" else [join]), *([patient_tag] if patient_tag else [])]
    tags += _GEOMETRY if geometry else ("SOPInstanceUID",)  # never none: the file must be seen to be DICOM
    read = partial(read_facts, tags=tuple(dict.fromkeys(tags)), count=count)
    readable: list[DicomFile] = []
    unreadable: list[Quarantined] = []
    for file, facts in zip(files, read_each(read, [root / file for file in files]), strict=True):
        if isinstance(facts, Unreadable):
            unreadable.append(Quarantined(file=file, reason=facts.reason))
        else:
            readable.append(_file(file, facts, join=join, patient_tag=patient_tag, geometry=geometry))
    return readable, unreadable


def _file(file: str, facts: FileFacts, *, join: str, patient_tag: str | None, geometry: bool) -> DicomFile:
    tags = facts.tags
    series, orientation, position, number = (tags.get(name, "") if geometry else "" for name in _GEOMETRY)
    return DicomFile(
        file=file,
        key=file if join == "path" else tags.get(join, ""),
        patient=tags.get(patient_tag, "") if patient_tag else "",
        n_frames=facts.n_frames,
        series=series,
        orientation=orientation,
        position=position,
        number=number,
    )


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()  # a link back to where we were
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}.")
