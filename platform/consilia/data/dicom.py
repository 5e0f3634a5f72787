"""What a source needs to know of a DICOM file without decoding it: tags, identifiers, frames."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from consilia.data.dicom_header import (
    INDEX_TAGS,
    SOURCE_TAGS,
    Header,
    count_header_frames,
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
    with _opened(path) as header, quietly():
        return collect_tags(header, SOURCE_TAGS)


def count_frames(path: Path) -> int:
    """Return how many frames a DICOM file says it has, from its header alone; 1 where it does not say.

    Raises:
        ReaderError: The file is missing, damaged, no DICOM file or one without pixels; names it.
    """
    with _opened(path) as header, quietly():
        return count_header_frames(header)


def collect_tags(header: Header, keywords: tuple[str, ...] = INDEX_TAGS) -> Mapping[str, str]:
    """Return those elements of a header that are there and not empty, and its transfer syntax."""
    found = {keyword: header.text(keyword) for keyword in keywords}
    return {keyword: text for keyword, text in found.items() if text} | {"TransferSyntax": str(header.syntax.name)}


@contextmanager
def _opened(path: Path) -> Iterator[Header]:
    try:
        with path.open("rb") as file:
            yield read_header(file, str(path))
    except OSError as error:
        raise ReaderError(f"{path}: the file cannot be opened: {error.strerror or error}.") from error
