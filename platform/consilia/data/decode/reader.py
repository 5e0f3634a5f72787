"""Decoding one image to a square of 8-bit pixels, in the same steps for training and for prediction."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from consilia.config.reading import Reading
from consilia.data.dicom.header import count_header_frames, read_header, starts_as_dicom
from consilia.data.dicom.image import read_dicom
from consilia.data.quiet import quietly
from consilia.data.raster import count_raster_frames, read_raster
from consilia.data.square import Picture
from consilia.errors import ReaderError


def read_image(path: Path, reading: Reading, *, frame: int | None = None, as_displayed: bool = False) -> Picture:
    """Decode a file and fit it to (size, size, channels).

    A file is read as DICOM if it says DICM at byte 128, or else if its suffix is .dcm or .dicom. Raster files are
    recognised by their content alone. Only one frame is decoded.

    Args:
        path: The file.
        reading: Size, channels, fit, window and rule for frames.
        frame: Of a file with several, counted from 0; None: `reading.frames` decides.
        as_displayed: Take the pixels as a viewer shows them, instead of under the reading's window.

    Raises:
        ReaderError: The file is missing, empty, truncated, damaged, too large, of another type, has several frames
            and no rule that picks one, or has no values that the window applies to; names it.
    """
    name = str(path)
    with _opened(path) as (file, is_dicom):
        if is_dicom:
            return read_dicom(read_header(file, name), reading, frame=frame, as_displayed=as_displayed)
        return read_raster(file, reading, frame=frame, as_displayed=as_displayed, name=name)


def count_frames(path: Path) -> int:
    """Return how many frames a file has, without decoding one: 1 for most, more for a multi-frame DICOM or TIFF.

    Raises:
        ReaderError: The file is missing, damaged or not an image; names it.
    """
    with _opened(path) as (file, is_dicom):
        if not is_dicom:
            return count_raster_frames(file, str(path))
        with quietly():
            return count_header_frames(read_header(file, str(path)))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """Open a file at its first byte, and tell whether it is to be read as DICOM."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
            if not head:
                raise ReaderError(f"{path}: the file is empty (0 bytes).")
            file.seek(0)
            yield file, starts_as_dicom(head, path)
    except FileNotFoundError as error:
        raise ReaderError(f"{path}: the file does not exist.") from error
    except IsADirectoryError as error:
        raise ReaderError(f"{path}: an image must be a file, but this is a folder.") from error
    except OSError as error:
        raise ReaderError(f"{path}: the file cannot be read: {error}") from error
