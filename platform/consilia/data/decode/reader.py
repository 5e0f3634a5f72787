"""Decoding one image to a square of 8-bit pixels, in the same steps for training and for prediction."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt
from PIL import Image

from consilia.config.reading import Reading
from consilia.data.dicom.header import count_header_frames, read_header, starts_as_dicom
from consilia.data.dicom.image import read_dicom
from consilia.data.quiet import quietly
from consilia.data.raster import count_raster_frames, fit_raster, read_raster
from consilia.data.square import MAX_PIXELS, Picture, Pixels
from consilia.errors import ReaderError

__all__ = ["MAX_PIXELS", "Picture", "Pixels", "count_frames", "fit_image", "read_image"]


def read_image(path: Path, reading: Reading, *, frame: int | None = None, as_displayed: bool = False) -> Picture:
    """Decode a file and fit it to (size, size, channels).

    Whether it is DICOM is told by its content (DICM at byte 128), or else by the suffix .dcm or .dicom; raster
    files by their content alone. Only one frame is decoded.

    Args:
        path: The file.
        reading: Size, channels, fit, window and rule for frames.
        frame: Of a file with several, counted from 0; None: `reading.frames` decides.
        as_displayed: Take the pixels as a viewer shows them, in place of the reading's window.

    Raises:
        ReaderError: The file is missing, empty, truncated, damaged, too large, of another type, has several frames
            and no rule that picks one, or is not one that the window applies to; names it.
    """
    name = str(path)
    with _opened(path) as (file, is_dicom):
        if is_dicom:
            return read_dicom(read_header(file, name), reading, frame=frame, as_displayed=as_displayed)
        return read_raster(file, reading, frame=frame, as_displayed=as_displayed, name=name)


def count_frames(path: Path) -> int:
    """Return how many frames a file has, without decoding one: 1 for most, more for a multi-frame DICOM or TIFF.

    Raises:
        ReaderError: The file is missing, damaged or no image; names it.
    """
    with _opened(path) as (file, is_dicom):
        if not is_dicom:
            return count_raster_frames(file, str(path))
        with quietly():
            return count_header_frames(read_header(file, str(path)))


def fit_image(
    image: Image.Image | npt.NDArray[Any], reading: Reading, *, name: str, as_displayed: bool = False
) -> Pixels:
    """Fit an image in memory to (size, size, channels).

    Under the file's own window, 16-bit grey is scaled from the full range 0 ... 65535. Transparency is laid on
    black, an EXIF orientation is applied, colour becomes grey by its luminance (ITU-R BT.601), grey is repeated for
    3 channels, and shrinking averages over area.

    Args:
        image: A Pillow image; or an array (h, w), (h, w, 1) or (h, w, 3) of uint8, uint16 or float. Floats lie in
            [0, 1], but may be any finite ones for a window of percentiles.
        reading: Size, channels, fit and window.
        name: What an error calls the image.
        as_displayed: Take the pixels as a viewer shows them, in place of the reading's window.

    Raises:
        ReaderError: The image has a shape, type or range that cannot be taken, or the reading's windows are in the
            values of DICOM.
    """
    return fit_raster(image, reading, name=name, as_displayed=as_displayed)


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
