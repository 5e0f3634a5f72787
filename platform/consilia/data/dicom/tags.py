"""What a source needs to know of a DICOM file without decoding it: tags and identifiers."""

from collections.abc import Mapping
from pathlib import Path

from consilia.data.dicom.header import (
    INDEX_TAGS,
    SOURCE_TAGS,
    Header,
    read_header,
    starts_as_dicom,
)
from consilia.data.quiet import quietly
from consilia.errors import ReaderError


def is_dicom(path: Path) -> bool:
    """Tell whether a file is to be read as DICOM: by its content, or else by the suffix .dcm or .dicom."""
    try:
        with path.open("rb") as file:
            return starts_as_dicom(file.read(132), path)
    except OSError:
        return starts_as_dicom(b"", path)


def read_tags(path: Path) -> Mapping[str, str]:
    """Return the tags of an image by DICOM keyword, as text; several values are joined by a backslash.

    They are those of `INDEX_TAGS`, TransferSyntax by its name, and PatientID, InstanceNumber,
    ImagePositionPatient and NumberOfFrames. Absent or empty ones are left out.

    Raises:
        ReaderError: The file is missing, damaged, no DICOM file or one without pixels; names it.
    """
    try:
        with path.open("rb") as file, quietly():
            return collect_tags(read_header(file, str(path)), SOURCE_TAGS)
    except OSError as error:
        raise ReaderError(f"{path}: the file cannot be opened: {error.strerror or error}.") from error


def collect_tags(header: Header, keywords: tuple[str, ...] = INDEX_TAGS) -> Mapping[str, str]:
    """Return those elements of a header that are there and not empty, and its transfer syntax."""
    found = {keyword: header.text(keyword) for keyword in keywords}
    return {keyword: text for keyword, text in found.items() if text} | {"TransferSyntax": str(header.syntax.name)}
