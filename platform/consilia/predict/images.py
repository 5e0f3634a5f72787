"""What a person may hand to `predict`, as a stream of single images."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from consilia.bundle.text import describe_window
from consilia.config.reading import ImageKind, Reading
from consilia.data.decode.reader import count_frames, read_image
from consilia.data.dicom.header import is_dicom
from consilia.data.raster import fit_image
from consilia.data.square import Pixels
from consilia.decision.ood.inputs import measure_colour
from consilia.errors import ReaderError

CHANNELS = (1, 3)  # what a last axis may be, to be one of channels
SMALLEST_SIDE = 8  # pixels; a shape whose only reading has a smaller image is refused

ImageLike = str | Path | npt.NDArray[Any] | Image.Image
Images = ImageLike | Iterable[ImageLike]
OnUnknownKind = Literal["refuse", "as_displayed"]
"""What becomes of a file whose kind (DICOM or raster) the ensemble was not trained on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a file that holds several, each of which is an image to the ensemble."""

    path: Path
    number: int  # from 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputImage:
    """One image as the networks get it, and what is lost on the way there."""

    pixels: Pixels  # (size, size, channels)
    aspect: float  # width / height of the file's image, or of the array
    colour: float = np.nan  # of an image that is read as grey, by `measure_colour`; NaN: not asked for


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputBatch:
    """Images as the networks get them."""

    pixels: npt.NDArray[np.uint8]  # (n_images, size, size, channels)
    aspect: npt.NDArray[np.float64]  # (n_images,), as of `InputImage`
    colour: npt.NDArray[np.float64]  # (n_images,)


def stack(images: Sequence[InputImage]) -> InputBatch:
    """Return images as one batch; at least one."""
    return InputBatch(
        pixels=np.stack([image.pixels for image in images]),
        aspect=np.array([image.aspect for image in images]),
        colour=np.array([image.colour for image in images]),
    )


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


def split_frames(images: Iterable[tuple[str, ImageLike]], reading: Reading) -> Iterator[tuple[str, ImageLike | Frame]]:
    """Yield each frame of a file by itself where the ensemble was trained on each; others pass as they are.

    A file that cannot be opened passes too: reading it says why.
    """
    for name, image in images:
        n_frames = 1
        if reading.frames == "each" and isinstance(image, (str, Path)):
            with contextlib.suppress(ReaderError):
                n_frames = count_frames(Path(image))
        if n_frames == 1:
            yield name, image
        else:
            yield from ((f"{name}[{number}]", Frame(Path(image), number)) for number in range(n_frames))  # type: ignore[arg-type] # a path, as checked above


def read_input(
    image: ImageLike | Frame,
    reading: Reading,
    *,
    kinds: Sequence[ImageKind],
    on_unknown_kind: OnUnknownKind,
    name: str,
    with_colour: bool = False,
) -> InputImage:
    """Return one image as training saw it before its own preprocessing, with the facts that this hides.

    Args:
        image: A path, a frame of one, an array or a PIL image.
        reading: Of the training images.
        kinds: Of files in training. An image of another kind has gone through no window or another one.
        on_unknown_kind: What becomes of an image of another kind: refused, or taken as a viewer displays it.
        name: What an error calls the image.
        with_colour: Measure the colour that reading as grey takes away. An image that is not stored as grey is decoded
            once more for that.

    Raises:
        ReaderError: The file, shape or type cannot be read, or its kind was not trained on; names the image.
    """
    kind = _kind(image)
    as_displayed = kind not in kinds
    if as_displayed and on_unknown_kind == "refuse":
        raise ReaderError(_refusal(name, kind, reading))
    fitted = _fit(image, reading, name=name, as_displayed=as_displayed)
    colour = np.nan
    if with_colour and reading.channels == 1:
        in_colour = reading.model_copy(update={"channels": 3})
        colour = 0.0
        if not fitted.is_grey:
            colour = measure_colour(_fit(image, in_colour, name=name, as_displayed=as_displayed).pixels)
    return InputImage(pixels=fitted.pixels, aspect=fitted.width / fitted.height, colour=colour)


def is_grey(mode: str) -> bool:
    """Say whether a file's mode, as `Picture` and the index of a store have it, can hold no colour."""
    return mode.startswith(("I", "F", "MONOCHROME")) or mode in ("1", "L", "LA", "La")


@dataclass(frozen=True, slots=True)
class _Fitted:
    pixels: Pixels
    width: int
    height: int
    is_grey: bool


def _fit(image: ImageLike | Frame, reading: Reading, *, name: str, as_displayed: bool) -> _Fitted:
    if isinstance(image, (str, Path, Frame)):
        path, frame = (image.path, image.number) if isinstance(image, Frame) else (Path(image), None)
        picture = read_image(path, reading, frame=frame, as_displayed=as_displayed)
        return _Fitted(picture.pixels, picture.width, picture.height, is_grey(picture.mode))
    if not isinstance(image, (np.ndarray, Image.Image)):
        raise ReaderError(f"{name}: {_ACCEPTED}, but got a {type(image).__name__}.")
    if isinstance(image, np.ndarray) and image.ndim != 2 and not (image.ndim == 3 and image.shape[2] in CHANNELS):
        raise ReaderError(
            f"{name}: one image must have the shape (h, w), or (h, w, c) with 1 or 3 channels last, "
            f"but got {image.shape}."
        )
    pixels = fit_image(image, reading, name=name, as_displayed=as_displayed)
    if isinstance(image, Image.Image):
        return _Fitted(pixels, image.width, image.height, is_grey(image.mode))
    height, width = image.shape[:2]
    return _Fitted(pixels, width, height, image.ndim == 2 or image.shape[2] == 1)


def _kind(image: object) -> ImageKind:
    if isinstance(image, Frame):
        image = image.path
    return "dicom" if isinstance(image, (str, Path)) and is_dicom(Path(image)) else "raster"


def _refusal(name: str, kind: ImageKind, reading: Reading) -> str:
    what, other = ("a DICOM file", "raster images") if kind == "dicom" else ("a raster image", "DICOM files")
    return (
        f"{name}: this is {what}, but the ensemble was trained on {other} only ({describe_window(reading)}). Give it "
        'images of that kind, or have this one taken as a viewer displays it: on_unknown_kind="as_displayed" '
        "(on the command line: --on-unknown-kind as_displayed)."
    )


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
