"""Raster images: PNG, JPEG, TIFF, WebP and BMP files through Pillow, and images in memory."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from consilia.config.reading import FileWindow, FixedWindows, PercentileWindow, Reading
from consilia.data.quiet import quietly
from consilia.data.square import MAX_PIXELS, Picture, Pixels, check_size, choose_frame, to_square
from consilia.data.voi import by_percentiles
from consilia.errors import ReaderError

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_PHOTOMETRIC, _BITS, _WHITE_IS_ZERO = 262, 258, 0  # TIFF 6.0, section 8
_LEAST_FRAME_BYTES = 12  # of a PNG, WebP or TIFF: no less than one chunk or tag
_FAX = ("tiff_ccitt", "group3", "group4", "tiff_raw_16")  # compressions of 1-bit TIFF
_LOST_TAGS = ("truncated", "corrupt", "tag data", "tag offset")  # in Pillow's warnings on a damaged TIFF


def read_raster(file: BinaryIO, reading: Reading, *, frame: int | None, as_displayed: bool, name: str) -> Picture:
    """Decode an open file and fit it; see `consilia.data.decode.reader.read_image`.

    Raises:
        ReaderError: The file is truncated, damaged, too large, of another type, has several frames where the
            reading wants one, or has no values that the window applies to.
    """
    with _opened(file, name) as image:
        if image.info.get("compression") in _FAX:
            raise ReaderError(
                f"{name}: a TIFF with fax compression cannot be read, since its decoder does not notice damage; store "
                "it with another compression, such as LZW."
            )
        n_frames = _count(image, file, name)
        if (chosen := choose_frame(n_frames, reading, frame, name)) or n_frames > 1:
            image.seek(chosen)
        mode, width, height = image.mode, image.width, image.height
        return Picture(
            pixels=fit_image(image, reading, name=name, as_displayed=as_displayed),
            kind="raster",
            format="JPEG" if image.format == "MPO" else str(image.format),
            mode=mode,
            width=width,
            height=height,
        )


def count_raster_frames(file: BinaryIO, name: str) -> int:
    """Return the frames of an open raster file: pages of a TIFF, pictures of an animation.

    Raises:
        ReaderError: The file is damaged or of another type.
    """
    with _opened(file, name) as image:
        return _count(image, file, name)


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
    rule = FileWindow() if as_displayed else reading.window
    if isinstance(rule, FixedWindows):
        raise ReaderError(
            f"{name}: the windows are in the values of DICOM (CT: Hounsfield units), and this is a raster image or an "
            "array, whose values have no known unit. Give the DICOM file, or have the image taken as it is displayed."
        )
    plain = _check_array(image, name) if isinstance(image, np.ndarray) else _plain(image, name)
    if isinstance(rule, PercentileWindow):
        plain = by_percentiles(np.asarray(plain), rule, name=name)
    if isinstance(plain, np.ndarray):
        plain = Image.fromarray(_full_range(plain, name))
    return to_square(plain, reading, name=name)


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open with Pillow; its warnings about odd files are dropped, unless one says that pixels were lost."""
    with quietly() as remarks:
        try:
            with Image.open(file, formats=_FORMATS) as image:
                yield image
                if image.format == "TIFF" and (losses := [remark for remark in remarks if _is_loss(remark)]):
                    raise ReaderError(f"{name}: the TIFF is truncated or damaged: {losses[0]}")
        except ReaderError:
            raise
        except UnidentifiedImageError as error:
            raise ReaderError(
                f"{name}: the file is neither DICOM, PNG, JPEG, TIFF, WebP nor BMP, or its header is damaged."
            ) from error
        except Image.DecompressionBombError as error:
            raise ReaderError(f"{name}: an image may have {MAX_PIXELS:,} pixels at most. {error}") from error
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            raise ReaderError(f"{name}: the file cannot be read: {error or type(error).__name__}") from error


def _is_loss(remark: str) -> bool:
    return any(word in remark.lower() for word in _LOST_TAGS)


def _count(image: Image.Image, file: BinaryIO, name: str) -> int:
    if image.format == "MPO":  # a phone's JPEG with a second picture derived from it, not a sequence
        return 1
    n_frames, n_bytes = int(getattr(image, "n_frames", 1)), os.fstat(file.fileno()).st_size
    if n_frames * _LEAST_FRAME_BYTES > n_bytes:
        raise ReaderError(f"{name}: the file is truncated or damaged: {n_frames:,} frames in {n_bytes:,} bytes.")
    return n_frames


def _upright(image: Image.Image, name: str) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise ReaderError(f"{name}: an image must be a Pillow image or a NumPy array, but is {type(image).__name__}.")
    check_size(image.width, image.height, name)
    try:
        image.load()  # Pillow opens lazily: a file that was cut fails here
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception as error:
        raise ReaderError(f"{name}: the image is truncated or damaged: {error or type(error).__name__}") from error


def _plain(image: Image.Image, name: str) -> Image.Image | npt.NDArray[Any]:
    """Turn an image upright; return it with 8 bits a channel and no transparency, or as an array of more bits."""
    upright = _upright(image, name)
    if upright.mode.startswith(("I", "F")):
        return _wide_values(np.asarray(upright), upright.mode, getattr(image, "tag_v2", {}), name)
    return _flatten(upright, name)


def _flatten(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    try:
        if image.has_transparency_data:
            colour = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "black"), colour).convert("RGB")
        return image.convert("L" if image.mode == "1" else "RGB")
    except ValueError as error:
        raise ReaderError(f"{name}: pixels of Pillow's mode {image.mode} cannot be shown as RGB: {error}") from error


def _wide_values(values: npt.NDArray[Any], mode: str, tags: Mapping[int, Any], name: str) -> npt.NDArray[Any]:
    """Return values of more than 8 bits; those of a TIFF with black as zero and scaled to 16 bits."""
    if mode == "F":
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise ReaderError(f"{name}: a TIFF of float pixels must store black as the least value; store it again.")
        return values
    if not mode.startswith("I;16"):
        return values
    n_bits = (tags.get(_BITS) or (16,))[0]
    if n_bits < 16:
        values = ((values.astype(np.uint32) * 65535 + (1 << n_bits) // 2) // ((1 << n_bits) - 1)).astype(np.uint16)
    return 65535 - values if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else values


def _check_array(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        raise ReaderError(f"{name}: an array must have shape (h, w), (h, w, 1) or (h, w, 3), but has {array.shape}.")
    if array.size == 0:
        raise ReaderError(f"{name}: the array has no pixels: its shape is {array.shape}.")
    if array.dtype not in (np.uint8, np.uint16) and not np.issubdtype(array.dtype, np.floating):
        raise ReaderError(f"{name}: pixels must be uint8, uint16 or float in [0, 1], but are {array.dtype}.")
    return array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _full_range(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Scale the full range of the type to 0 ... 255."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.floating):
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise ReaderError(
                f"{name}: float pixels must lie in [0, 1], but they span {low:g} ... {high:g}; "
                "scale them, give uint8 or uint16, or set `window: {kind: percentiles}`."
            )
        return np.rint(array * 255.0).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ReaderError(
            f"{name}: 16-bit pixels must lie in 0 ... 65535, but they span {low} ... {high}; "
            "`window: {kind: percentiles}` takes any."
        )
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 257 * 255, rounded
