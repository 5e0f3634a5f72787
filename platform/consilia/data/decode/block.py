"""Decodes one block of images, with what the index keeps of each. A decoding process imports little else."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from consilia.config.reading import ImageKind, Reading
from consilia.data.decode.low_resolution import perceptual_hash
from consilia.data.decode.process import read_each
from consilia.data.decode.reader import read_image
from consilia.data.raster import fit_image
from consilia.data.square import Picture, Pixels
from consilia.errors import ReaderError

Block = tuple[tuple[Path, int | None], ...] | npt.NDArray[np.uint8]  # files and frames to decode, or arrays


_EXACT = 65_536  # as many squares of bytes fit 32 bits, in which NumPy sums three times faster than in 64


class Read(Protocol):
    """Decodes one file as `read_image` does; raises ReaderError."""

    def __call__(self, path: Path, reading: Reading, *, frame: int | None = None) -> Picture:
        """Return the picture of `path`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What the index holds of one readable image, beside what its source says."""

    position: int  # in the block
    mean: float  # of pixel / 255
    mean_square: float  # of (pixel / 255) squared
    pixel_digest: str  # equal exactly for equal pixels
    perceptual_hash: int
    kind: ImageKind
    format: str
    mode: str
    width: int
    height: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The readable images of one block."""

    pixels: npt.NDArray[np.uint8]  # (m, size, size, channels)
    facts: tuple[ImageFacts, ...]  # (m,)
    failures: tuple[tuple[int, str], ...]  # position in the block, reason
    n_listed: int  # images in the block, readable or not


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReader:
    """Decodes an image of a block; its facts say that it is the block's first."""

    reading: Reading
    read: Read = read_image

    def __call__(self, image: tuple[Path, int | None] | npt.NDArray[np.uint8]) -> tuple[Pixels, ImageFacts]:
        """Return pixels and facts.

        Raises:
            ReaderError: The image cannot be read.
        """
        if not isinstance(image, np.ndarray):
            path, frame = image
            picture = self.read(path, self.reading, frame=frame)
        else:
            height, width = image.shape[:2]
            mode = "L" if image.ndim == 2 else "RGB"
            pixels = fit_image(image, self.reading, name="image")
            picture = Picture(pixels=pixels, kind="raster", format="NPZ", mode=mode, width=width, height=height)
        return picture.pixels, _facts(picture)


def decode_block(block: Block, reading: Reading, *, before: Callable[[int], None] | None = None) -> Decoded:
    """Decode the images of one block; unreadable ones become failures.

    Args:
        block: Files, or arrays (m, h, w[, c]).
        reading: How they become stored pixels.
        before: Called with the position of each image before it is decoded.
    """
    return join(read_each(block, BlockReader(reading=reading), before=before), reading)


def join(images: Sequence[tuple[Pixels, ImageFacts] | ReaderError], reading: Reading) -> Decoded:
    """Join what a `BlockReader` made of each image of a block."""
    pixels = np.empty((len(images), reading.size, reading.size, reading.channels), dtype=np.uint8)
    facts: list[ImageFacts] = []
    failures: list[tuple[int, str]] = []
    for position, image in enumerate(images):
        if isinstance(image, ReaderError):
            failures.append((position, str(image)))
        else:
            pixels[len(facts)], own = image
            facts.append(replace(own, position=position))
    return Decoded(pixels=pixels[: len(facts)], facts=tuple(facts), failures=tuple(failures), n_listed=len(images))


def _sums(values: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return the sums of values and of their squares: whole numbers, exact, so equal on every machine."""
    total = total_square = 0
    for start in range(0, len(values), _EXACT):
        part = values[start : start + _EXACT]
        total += int(part.sum(dtype=np.uint32))
        total_square += int(np.square(part, dtype=np.uint16).sum(dtype=np.uint32))
    return total, total_square


def _facts(picture: Picture) -> ImageFacts:
    pixels = np.ascontiguousarray(picture.pixels)
    total, total_square = _sums(pixels.ravel())
    return ImageFacts(
        position=0,
        mean=total / (255.0 * pixels.size),
        mean_square=total_square / (255.0**2 * pixels.size),
        pixel_digest=hashlib.sha256(pixels.data).hexdigest(),
        perceptual_hash=perceptual_hash(pixels),
        kind=picture.kind,
        format=picture.format,
        mode=picture.mode,
        width=picture.width,
        height=picture.height,
        tags=picture.tags,
    )
