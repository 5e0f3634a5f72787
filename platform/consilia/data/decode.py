"""Decoding a listed data set in parts, by several processes, in listing order and with bounded memory."""

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from consilia.data.listing import ImageTable
from consilia.data.npz_source import read_blocks
from consilia.data.perceptual_hash import perceptual_hash
from consilia.data.reader import Picture, fit_image, read_image
from consilia.errors import ReaderError, RunError
from consilia.plan.reading import ImageKind, Reading

BLOCK_BYTES = 4_000_000  # decoded pixels that one process hands over at once
_BLOCK_IMAGES = 256  # so that small images still show progress

Block = tuple[tuple[Path, int | None], ...] | npt.NDArray[np.uint8]  # files and frames to decode, or arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What the index says of one readable image, beside what its source said."""

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


def decode(table: ImageTable, reading: Reading, *, workers: int) -> Iterator[Decoded]:
    """Decode every image of `table`, block by block in its order.

    Blocks hold `BLOCK_BYTES` of pixels and at most two a worker are in flight, so memory does not grow with the
    data set. What is yielded does not depend on `workers`.

    Args:
        table: What to decode.
        reading: How a file becomes stored pixels.
        workers: Processes; 1 decodes in this one. An archive is read in this one in any case.

    Raises:
        RunError: A decoding process died.
    """
    length = max(1, min(_BLOCK_IMAGES, BLOCK_BYTES // (reading.size**2 * reading.channels)))
    blocks = _blocks(table, length)
    if workers <= 1 or table.archive:
        yield from (decode_block(block, reading) for block in blocks)
        return
    # Spawned, not forked: the caller may run threads (Ray, torch), and a lock copied while held stays held.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[Decoded]] = deque()
        try:
            for block in islice(blocks, 2 * workers):
                waiting.append(pool.submit(decode_block, block, reading))
            while waiting:
                yield waiting.popleft().result()
                for block in islice(blocks, 1):
                    waiting.append(pool.submit(decode_block, block, reading))
        except BrokenProcessPool as error:
            raise RunError(
                "A process that decodes images died. If memory ran out, free some and prepare again. A script that "
                'prepares data must do so below `if __name__ == "__main__":`.'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_block(block: Block, reading: Reading) -> Decoded:
    """Decode the images of one block; unreadable ones become failures."""
    pixels = np.empty((len(block), reading.size, reading.size, reading.channels), dtype=np.uint8)
    facts: list[ImageFacts] = []
    failures: list[tuple[int, str]] = []
    for position, image in enumerate(block):
        try:
            picture = _read(image, reading, position)
        except ReaderError as error:
            failures.append((position, str(error)))
        else:
            pixels[len(facts)] = picture.pixels
            facts.append(_facts(position, picture))
    return Decoded(pixels=pixels[: len(facts)], facts=tuple(facts), failures=tuple(failures), n_listed=len(block))


def _read(image: tuple[Path, int | None] | npt.NDArray[np.uint8], reading: Reading, position: int) -> Picture:
    if not isinstance(image, np.ndarray):
        path, frame = image
        return read_image(path, reading, frame=frame)
    height, width = image.shape[:2]
    mode = "L" if image.ndim == 2 else "RGB"
    pixels = fit_image(image, reading, name=f"image {position}")
    return Picture(pixels=pixels, kind="raster", format="NPZ", mode=mode, width=width, height=height)


def _facts(position: int, picture: Picture) -> ImageFacts:
    flat = picture.pixels.astype(np.uint64)  # whole numbers: exact, so equal on every machine
    return ImageFacts(
        position=position,
        mean=float(flat.sum() / (255.0 * flat.size)),
        mean_square=float((flat * flat).sum() / (255.0**2 * flat.size)),
        pixel_digest=hashlib.sha256(picture.pixels.tobytes()).hexdigest(),
        perceptual_hash=perceptual_hash(picture.pixels),
        kind=picture.kind,
        format=picture.format,
        mode=picture.mode,
        width=picture.width,
        height=picture.height,
        tags=picture.tags,
    )


def _blocks(table: ImageTable, length: int) -> Iterator[Block]:
    if table.archive:
        yield from read_blocks(table.root, rows=length)
        return
    for start in range(0, len(table), length):
        stop = start + length
        files, frames = table.files[start:stop], table.frames[start:stop]
        yield tuple((table.root / file, frame) for file, frame in zip(files, frames, strict=True))
