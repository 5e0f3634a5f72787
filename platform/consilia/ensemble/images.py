"""What a person may hand to `predict`, as a stream of single images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from consilia.data.reader import fit_image, read_image
from consilia.errors import ReaderError
from consilia.plan.reading import Reading

CHANNELS = (1, 3)  # what a last axis may be, to be one of channels
SMALLEST_SIDE = 8  # pixels; a shape whose only reading has a smaller image is refused

ImageLike = str | Path | npt.NDArray[Any] | Image.Image
Images = ImageLike | Iterable[ImageLike]


def single_images(images: Images, *, channels: int) -> Iterator[tuple[str, ImageLike]]:
    """Yield each image with a name for messages, taking from an iterable one at a time.

    A path or a PIL image is one image; any other iterable yields one image an element. An array is read by
    its shape:

    - (h, w) is one grey image; (n, h, w, c) with 1 or 3 channels last is a stack.
    - (a, b, c) is one image when c is 1 or 3 and both a and b are at least 8. Otherwise it is a stack
      (n, h, w) of grey images, if both sides are at least 8.
    - What fits neither is refused, and so is (3, h, w) for a model of 3 channels: it may be one image with
      its channels first.

    Args:
        images: One image or many.
        channels: Of the images that the model takes.

    Raises:
        ReaderError: A shape or a type that is none of these.
    """
    if isinstance(images, np.ndarray):
        for number, array in enumerate(_split_array(images, channels=channels)):
            yield f"image {number}", array
    elif isinstance(images, (str, Path)):
        yield str(images), images
    elif isinstance(images, Image.Image):
        yield _name(images, 0), images
    elif isinstance(images, Iterable) and not isinstance(images, (bytes, bytearray)):
        for number, image in enumerate(images):
            yield _name(image, number), image
    else:
        raise ReaderError(f"{_ACCEPTED}, but got a {type(images).__name__}.")


def read_pixels(image: ImageLike, reading: Reading, *, name: str) -> npt.NDArray[np.uint8]:
    """Return one image as training saw it before its own preprocessing, (size, size, channels) uint8.

    Raises:
        ReaderError: The file, shape or type cannot be read; names the image.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image), reading).pixels
    if isinstance(image, Image.Image):
        return fit_image(image, reading, name=name)
    if not isinstance(image, np.ndarray):
        raise ReaderError(f"{name}: {_ACCEPTED}, but got a {type(image).__name__}.")
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] in CHANNELS):
        raise ReaderError(
            f"{name}: one image must have the shape (h, w), or (h, w, c) with 1 or 3 channels last, "
            f"but got {image.shape}."
        )
    return fit_image(image, reading, name=name)


_ACCEPTED = "an image must be a path, a numpy array or a PIL image"


def _name(image: object, number: int) -> str:
    """Return what to call an element: its path where it has one."""
    if isinstance(image, (str, Path)):
        return str(image)
    return str(getattr(image, "filename", "") or f"image {number}")


def _split_array(array: npt.NDArray[Any], *, channels: int) -> Iterator[npt.NDArray[Any]]:
    if array.ndim == 2:
        yield array
    elif array.ndim == 4 and array.shape[3] in CHANNELS:
        yield from array
    elif array.ndim == 3:
        yield from _split_three_axes(array, channels=channels)
    else:
        raise ReaderError(
            "An array must have the shape (h, w), (h, w, c), (n, h, w) or (n, h, w, c) with 1 or 3 channels "
            f"last, but got {array.shape}. If channels are first, use numpy.moveaxis(array, -3, -1)."
        )


def _split_three_axes(array: npt.NDArray[Any], *, channels: int) -> Iterator[npt.NDArray[Any]]:
    first, second, third = array.shape
    if third in CHANNELS and min(first, second) >= SMALLEST_SIDE:
        yield array
    elif min(second, third) >= SMALLEST_SIDE and not (first == 3 and channels == 3):
        yield from array
    else:
        raise ReaderError(
            f"An array of shape {array.shape} can be read as one image or as a stack of images. Give it four "
            "axes: array[None] for one image (h, w, c), array[..., None] for a stack (n, h, w), "
            "numpy.moveaxis(array, 0, -1)[None] for one image with its channels first."
        )
