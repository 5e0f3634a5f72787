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
from consilia.data.decode.reader import read_image
from consilia.data.raster import fit_image
from consilia.data.square import Picture
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


def decode_block(
    block: Block, reading: Reading, *, read: Read = read_image, before: Callable[[int], None] | None = None
) -> Decoded:
    """Decode the images of one block; unreadable ones become failures.

    Args:
        block: Files, or arrays (m, h, w[, c]).
        reading: How they become stored pixels.
        read: Decodes a file.
        before: Called with the position of each image before it is decoded.
    """
    pixels = np.empty((len(block), reading.size, reading.size, reading.channels), dtype=np.uint8)
    facts: list[ImageFacts] = []
    failures: list[tuple[int, str]] = []
    for position, image in enumerate(block):
        if before is not None:
            before(position)
        try:
            picture = _read(image, reading, position, read)
        except ReaderError as error:
            failures.append((position, str(error)))
        else:
            pixels[len(facts)] = picture.pixels
            facts.append(_facts(position, picture))
    return Decoded(pixels=pixels[: len(facts)], facts=tuple(facts), failures=tuple(failures), n_listed=len(block))


def failed(reason: str, reading: Reading) -> Decoded:
    """Return a block of one image that could not be decoded."""
    pixels = np.empty((0, reading.size, reading.size, reading.channels), dtype=np.uint8)
    return Decoded(pixels=pixels, facts=(), failures=((0, reason),), n_listed=1)


def join(parts: Sequence[Decoded]) -> Decoded:
    """Join the parts of one block, in its order."""
    facts: list[ImageFacts] = []
    failures: list[tuple[int, str]] = []
    n_listed = 0
    for part in parts:
        facts.extend(replace(each, position=n_listed + each.position) for each in part.facts)
        failures.extend((n_listed + position, reason) for position, reason in part.failures)
        n_listed += part.n_listed
    pixels = np.concatenate([part.pixels for part in parts])
    return Decoded(pixels=pixels, facts=tuple(facts), failures=tuple(failures), n_listed=n_listed)


def _read(
    image: tuple[Path, int | None] | npt.NDArray[np.uint8], reading: Reading, position: int, read: Read
) -> Picture:
    if not isinstance(image, np.ndarray):
        path, frame = image
        return read(path, reading, frame=frame)
    height, width = image.shape[:2]
    mode = "L" if image.ndim == 2 else "RGB"
    pixels = fit_image(image, reading, name=f"image {position}")
    return Picture(pixels=pixels, kind="raster", format="NPZ", mode=mode, width=width, height=height)


def _sums(values: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return the sums of values and of their squares: whole numbers, exact, so equal on every machine."""
    total = total_square = 0
    for start in range(0, len(values), _EXACT):
        part = values[start : start + _EXACT]
        total += int(part.sum(dtype=np.uint32))
        total_square += int(np.square(part, dtype=np.uint16).sum(dtype=np.uint32))
    return total, total_square


def _facts(position: int, picture: Picture) -> ImageFacts:
    pixels = np.ascontiguousarray(picture.pixels)
    total, total_square = _sums(pixels.ravel())
    return ImageFacts(
        position=position,
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
