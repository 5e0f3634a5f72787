"""From an image of any shape to the square that is stored: which frame, which channels, and how they are fitted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from consilia.config.reading import FixedWindows, ImageKind, Reading
from consilia.errors import ReaderError

Pixels = npt.NDArray[np.uint8]  # (size, size, channels)

# A header can promise more pixels than memory holds. The largest radiographs, mammograms, have 30 million;
# above 89 million Pillow itself begins to warn.
MAX_PIXELS = 80_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image as it is stored, and the facts of its file."""

    pixels: Pixels
    kind: ImageKind
    format: str  # such as PNG or DICOM
    mode: str  # Pillow's name of the pixel type, or DICOM's photometric interpretation and bits
    width: int  # of the file's image, pixels
    height: int
    tags: Mapping[str, str] = field(default_factory=dict)  # of DICOM: orientation, laterality, scanner, ...


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image of an impossible size before memory is taken for its pixels.

    Raises:
        ReaderError: It has no pixels, or more than `MAX_PIXELS`.
    """
    if min(width, height) < 1:
        raise ReaderError(f"{name}: the image has no pixels: its size is {width} x {height}.")
    if width * height > MAX_PIXELS:
        raise ReaderError(
            f"{name}: an image may have {MAX_PIXELS:,} pixels at most, but its header says "
            f"{width} x {height}. Shrink it first."
        )


def choose_frame(n_frames: int, reading: Reading, frame: int | None, name: str) -> int:
    """Return the frame to decode.

    Raises:
        ReaderError: The frame does not exist, or the file has several and the reading does not say which to take.
    """
    if frame is not None:
        if not 0 <= frame < n_frames:
            raise ReaderError(f"{name}: frame {frame} must be one of the file's {n_frames}, counted from 0.")
        return frame
    if n_frames == 1 or reading.frames == "first":
        return 0
    if reading.frames == "middle":
        return n_frames // 2
    if reading.frames == "each":
        raise ReaderError(
            f"{name}: each of the file's {n_frames} frames is an image of its own; say which one to decode."
        )
    raise ReaderError(
        f"{name}: the file has {n_frames} frames, and the card does not say which to take: set `frames: first`, "
        "`middle` or `each`."
    )


def to_square(image: Image.Image, reading: Reading, *, name: str) -> Pixels:
    """Fit an image of 8 bits, grey (L) or RGB, to (size, size, channels).

    Colour becomes grey by its luminance (ITU-R BT.601), grey is repeated for 3 channels, and shrinking averages
    over area.

    Raises:
        ReaderError: The reading makes one channel of each window, and a raster image does not have the values for them.
    """
    if isinstance(reading.window, FixedWindows) and len(reading.window.windows) > 1:
        _require_colour(image, reading, name)
    fitted = _fit(image.convert("L" if reading.channels == 1 else image.mode), reading)
    if fitted.ndim == 3:
        return fitted
    # Repeating once would copy it element by element: a tenth of a JPEG's decoding.
    return fitted[:, :, None] if reading.channels == 1 else np.repeat(fitted[:, :, None], reading.channels, axis=2)


def stack_square(windows: list[npt.NDArray[np.uint8]], reading: Reading) -> Pixels:
    """Fit one grey image a window, each (h, w), to (size, size, channels); a single one is repeated."""
    fitted = [_fit(Image.fromarray(window), reading) for window in windows]
    return np.stack(fitted * (reading.channels // len(fitted)), axis=2)


def _require_colour(image: Image.Image, reading: Reading, name: str) -> None:
    if image.mode == "L" or reading.channels != 3:
        found = "one grey" if image.mode == "L" else "three colours"
        raise ReaderError(
            f"{name}: the {reading.channels} channels are {reading.channels} windows of a DICOM image, and an image "
            f"of {found} cannot stand for them. Give the DICOM file."
        )


def _fit(image: Image.Image, reading: Reading) -> npt.NDArray[np.uint8]:
    """Return (size, size) or (size, size, 3)."""
    size, (width, height) = reading.size, image.size
    if reading.fit == "pad":
        return _pad(image, size)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side) if reading.fit == "crop" else (0, 0, width, height)
    if (box[2] - box[0], box[3] - box[1]) == (size, size):
        return np.array(image.crop(box))
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))  # antialiased when it shrinks


def _pad(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if (width, height) == (size, size):
        return np.array(image)
    fitted = np.zeros((size, size) if image.mode == "L" else (size, size, 3), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    fitted[top : top + height, left : left + width] = np.asarray(image)
    return fitted
