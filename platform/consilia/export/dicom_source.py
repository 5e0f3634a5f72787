"""The DICOM file that a result is about: its identifiers, and what results copy of patient and study."""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from consilia.data.quiet import quietly
from consilia.errors import ReaderError

_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# DICOM lets these be empty, but not absent (type 2).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)


def read_source(path: Path) -> Dataset:
    """Read a file's header, without its pixels; what may be empty and is absent is there and empty.

    Raises:
        ReaderError: It cannot be read as DICOM, or lacks a valid UID that its results must refer to.
    """
    with quietly():  # of odd values, and they are converted on access
        try:
            source = dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError) as error:
            raise ReaderError(f"{path}: it must be a DICOM file, but cannot be read as one: {error}") from error
        bad = [name for name in _NEEDED if not UID(str(source.get(name, ""))).is_valid]
    if bad:
        raise ReaderError(f"{path}: results refer to an image by its UIDs, but its {', '.join(bad)} is none.")
    for name in _MAY_BE_EMPTY:
        if name not in source:
            setattr(source, name, None)
    return source
