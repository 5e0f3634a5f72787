"""The DICOM files below a folder, with the tags that join them to labels, and the slices of a series in space.

Source of the slices' order: DICOM PS3.3, C.7.6.2.1.1 (image position and orientation).
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from consilia.config.reading import Frames
from consilia.data.sources.file_facts import FileFacts, Unreadable, read_each, read_facts
from consilia.data.sources.listing import Quarantined
from consilia.errors import DataError

_GEOMETRY = ("SeriesInstanceUID", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber")
_PARALLEL = 1e-3  # largest difference of direction cosines between slices of one stack
_APART_MM = 1e-3  # two slices that are nearer lie at the same place


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

    Names that start with a dot, DICOMDIR and the table are skipped. Links to folders are followed, once to each folder.

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


def group_by_series(files: Sequence[DicomFile], *, origin: object) -> Mapping[str, list[DicomFile]]:
    """Return the files of each SeriesInstanceUID, in order of appearance.

    Raises:
        DataError: A file has no SeriesInstanceUID.
    """
    series: defaultdict[str, list[DicomFile]] = defaultdict(list)
    for file in files:
        if not file.series:
            raise DataError(f"{origin}: {file.file} has no SeriesInstanceUID, but the card says `unit: series`.")
        series[file.series].append(file)
    return series


def choose_slices(files: Sequence[DicomFile], frames: Frames, *, origin: object) -> list[DicomFile]:
    """Return the slices of one series that become images.

    Args:
        files: The slices of a series, in any order.
        frames: first, middle (n // 2, counted from 0) or each, in the order of `in_space`; single: the only one.
        origin: The folder, for errors.

    Raises:
        DataError: There are several slices and the card has no rule for them, or their order is unknown.
    """
    if len(files) == 1:
        return list(files)
    if frames == "single":
        raise DataError(
            f"{origin}: {_name(files)} has {len(files)} slices, and the card does not say which to take: set "
            "`frames: first`, `middle` or `each`."
        )
    if frames != "each" and any(file.n_frames > 1 for file in files):
        raise DataError(
            f"{origin}: {_name(files)} has {len(files)} files, some of several frames, so that its {frames} slice is "
            "not known. Say `frames: each`, or `unit: file`."
        )
    ordered = in_space(files, origin=origin)
    return {"first": ordered[:1], "middle": [ordered[len(ordered) // 2]], "each": ordered}[frames]


def in_space(files: Sequence[DicomFile], *, origin: object) -> list[DicomFile]:
    """Sort slices along the normal of their plane (row direction x column direction).

    Axial slices of a patient lying on the back so run from the feet to the head. Where no slice has a position, the
    order is that of InstanceNumber.

    Raises:
        DataError: Some slices have a position and others do not, planes are not parallel, two slices lie at the same
            place or have the same number, or there is neither position nor number.
    """
    placed = [file for file in files if file.position and file.orientation]
    if not placed:
        return _by_number(files, origin)
    if len(placed) < len(files):
        lacking = next(file for file in files if not (file.position and file.orientation))
        raise _unordered(files, f"{lacking.file} has no position in space, but {placed[0].file} has one", origin)
    orientations = np.array([_numbers(file.orientation, 6, file, origin) for file in files])
    positions = np.array([_numbers(file.position, 3, file, origin) for file in files])
    turned = np.abs(orientations - orientations[0]).max(axis=1)
    if turned.max() > _PARALLEL:
        other = files[int(turned.argmax())].file
        raise _unordered(files, f"{files[0].file} and {other} are not parallel (one may be a localizer)", origin)
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    return _sorted(files, positions @ normal, _APART_MM, "lie at the same place", origin)


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
            folders.clear()  # a link to a folder that was seen before
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}.")


def _by_number(files: Sequence[DicomFile], origin: object) -> list[DicomFile]:
    for file in files:
        if not file.number.lstrip("+-").isdecimal():
            raise _unordered(files, f"{file.file} has neither a position in space nor an InstanceNumber", origin)
    numbers = np.array([int(file.number) for file in files], dtype=np.float64)
    return _sorted(files, numbers, 0.5, "have the same InstanceNumber", origin)


def _sorted(
    files: Sequence[DicomFile], places: npt.NDArray[np.float64], apart: float, clash: str, origin: object
) -> list[DicomFile]:
    order = np.argsort(places, kind="stable")
    same = np.flatnonzero(np.diff(places[order]) < apart)
    if len(same):
        one, two = (files[order[same[0] + i]].file for i in (0, 1))
        raise _unordered(files, f"{one} and {two} {clash}", origin)
    return [files[position] for position in order]


def _numbers(text: str, count: int, file: DicomFile, origin: object) -> list[float]:
    try:
        values = [float(part) for part in text.split("\\")]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise DataError(f"{origin}: {file.file} must give {count} numbers for its place in space, but gives {text!r}.")
    return values


def _unordered(files: Sequence[DicomFile], reason: str, origin: object) -> DataError:
    return DataError(
        f"{origin}: the order of {_name(files)} is not known: {reason}. Take the files that do not belong out of the "
        "folder, or say `unit: file` and name the slices that you want in the table."
    )


def _name(files: Sequence[DicomFile]) -> str:
    return f"series {files[0].series} ({files[0].file} ...)"
