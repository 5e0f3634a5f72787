"""Decoding one image to a square of 8-bit pixels, in the same steps for training and for prediction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from consilia.errors import ReaderError
from consilia.plan.reading import ImageKind, Reading

Pixels = npt.NDArray[np.uint8]  # (size, size, channels)

# A header can promise more pixels than memory holds. The largest radiographs, mammograms, have 30 million;
# above 89 million Pillow itself begins to warn.
MAX_PIXELS = 80_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image as it is stored, and what its file was."""

    pixels: Pixels
    kind: ImageKind
    format: str  # such as PNG or DICOM
    mode: str  # Pillow's name of the pixel type, or DICOM's photometric interpretation and bits
    width: int  # of the file's image, pixels
    height: int
    tags: Mapping[str, str] = field(default_factory=dict)  # of DICOM: orientation, laterality, scanner, ...


def read_image(path: Path, reading: Reading, *, frame: int | None = None, as_displayed: bool = False) -> Picture:
    """Decode a file and fit it to (size, size, channels).

    Args:
        path: The file.
        reading: Size, channels, fit, window and rule for frames.
        frame: Of a file with several; None: `reading.frames` decides.
        as_displayed: Take the pixels as a viewer shows them, in place of the reading's window.

    Raises:
        ReaderError: The file is missing, empty, truncated, damaged, too large, of another type or not one that
            the window applies to; names it.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            pixels = fit_image(image, reading, name=str(path))
            return Picture(
                pixels=pixels,
                kind="raster",
                format=str(image.format),
                mode=image.mode,
                width=image.width,
                height=image.height,
            )
    except ReaderError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise ReaderError(f"{path}: {_reason(path, error)}") from error


def fit_image(image: Image.Image | npt.NDArray[Any], reading: Reading, *, name: str) -> Pixels:
    """Fit an image in memory to (size, size, channels).

    16-bit grey is scaled from the full range 0 ... 65535, transparency is laid on black, an EXIF orientation
    is applied, colour becomes grey by its luminance (ITU-R BT.601), and shrinking averages over area.

    Args:
        image: A Pillow image; or an array (h, w), (h, w, 1) or (h, w, 3) of uint8, uint16 or float in [0, 1].
        reading: Size, channels, fit and window; a grey image is repeated for 3 channels.
        name: What an error calls the image.

    Raises:
        ReaderError: The image has a shape, type or range that cannot be taken.
    """
    size, channels = reading.size, reading.channels
    picture = _from_array(image, name) if isinstance(image, np.ndarray) else _upright(image, name)
    picture = _flatten(picture, name).convert("L" if channels == 1 else "RGB")
    longest = max(picture.size)
    if min(picture.size) == 0:
        raise ReaderError(f"{name}: the image has no pixels: its size is {picture.width} x {picture.height}.")
    width, height = (max(1, round(side * size / longest)) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)  # antialiased when it shrinks
    fitted = np.zeros((size, size, channels), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    fitted[top : top + height, left : left + width] = np.asarray(picture).reshape(height, width, channels)
    return fitted


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ReaderError(
            f"{name}: an image may have {MAX_PIXELS:,} pixels at most, but its header says "
            f"{image.width} x {image.height}. Shrink it first."
        )


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "the file does not exist."
    if path.is_dir():
        return "an image must be a file, but this is a folder."
    if path.stat().st_size == 0:
        return "the file is empty (0 bytes)."
    if isinstance(error, UnidentifiedImageError):
        return "the file is neither PNG nor JPEG, or its header is damaged."
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"an image may have {MAX_PIXELS:,} pixels at most. {error}"
    return f"the file cannot be read: {error}"


def _upright(image: Image.Image, name: str) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise ReaderError(f"{name}: an image must be a Pillow image or a NumPy array, but is {type(image).__name__}.")
    _check_size(image, name)
    try:
        image.load()  # Pillow opens lazily: a file that was cut fails here
        return ImageOps.exif_transpose(image)
    except Exception as error:
        raise ReaderError(f"{name}: the image is truncated or damaged: {error}") from error


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Bring any Pillow mode to 8 bits a channel without transparency."""
    if image.mode.startswith(("I", "F")):
        return _from_array(_wide_values(image, name), name)
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), colour).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _wide_values(image: Image.Image, name: str) -> npt.NDArray[Any]:
    values = np.asarray(image)
    if image.mode == "F":
        return values
    if values.size and not (values.min() >= 0 and values.max() <= 65535):
        raise ReaderError(
            f"{name}: 16-bit pixels must lie in 0 ... 65535, but they span {values.min()} ... {values.max()}."
        )
    return values.astype(np.uint16)


def _from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        raise ReaderError(f"{name}: an array must have shape (h, w), (h, w, 1) or (h, w, 3), but has {array.shape}.")
    if array.size == 0:
        raise ReaderError(f"{name}: the array has no pixels: its shape is {array.shape}.")
    pixels = _to_bytes(array, name)
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _to_bytes(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 257 * 255, rounded
    if np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise ReaderError(
                f"{name}: float pixels must lie in [0, 1], but they span {low:g} ... {high:g}; "
                "scale them, or give uint8 or uint16."
            )
        return np.rint(array * 255.0).astype(np.uint8)
    raise ReaderError(f"{name}: pixels must be uint8, uint16 or float in [0, 1], but are {array.dtype}.")
