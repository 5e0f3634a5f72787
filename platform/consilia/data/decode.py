"""Decoding a listed data set in parts, by several processes, in listing order and with bounded memory."""

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from consilia.data.listing import ImageTable
from consilia.data.npz_source import read_blocks
from consilia.data.reader import fit_image, read_image
from consilia.errors import ReaderError, RunError

BLOCK_BYTES = 4_000_000  # decoded pixels that one process hands over at once
_BLOCK_IMAGES = 256  # so that small images still show progress

Block = tuple[Path, ...] | npt.NDArray[np.uint8]  # files to decode, or images of an archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The readable images of one block."""

    rows: npt.NDArray[np.int64]  # (m,) position in the block
    pixels: npt.NDArray[np.uint8]  # (m, size, size, channels)
    means: npt.NDArray[np.float64]  # (m,) of pixel / 255
    mean_squares: npt.NDArray[np.float64]  # (m,) of (pixel / 255) squared
    digests: tuple[str, ...]  # (m,) equal exactly for equal pixels
    failures: tuple[tuple[int, str], ...]  # position in the block, reason
    n_listed: int  # images in the block, readable or not


def decode(table: ImageTable, *, size: int, channels: int, workers: int) -> Iterator[Decoded]:
    """Decode every image of `table`, block by block in its order.

    Blocks hold `BLOCK_BYTES` of pixels and at most two a worker are in flight, so memory does not grow with the
    data set. What is yielded does not depend on `workers`.

    Args:
        table: What to decode.
        size: Side of the stored square, pixels.
        channels: 1 or 3.
        workers: Processes; 1 decodes in this one. An archive is read in this one in any case.

    Raises:
        RunError: A decoding process died.
    """
    length = max(1, min(_BLOCK_IMAGES, BLOCK_BYTES // (size * size * channels)))
    blocks = _blocks(table, length)
    if workers <= 1 or table.archive:
        yield from (decode_block(block, size, channels) for block in blocks)
        return
    # Spawned, not forked: the caller may run threads (Ray, torch), and a lock copied while held stays held.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[Decoded]] = deque()
        try:
            for block in islice(blocks, 2 * workers):
                waiting.append(pool.submit(decode_block, block, size, channels))
            while waiting:
                yield waiting.popleft().result()
                for block in islice(blocks, 1):
                    waiting.append(pool.submit(decode_block, block, size, channels))
        except BrokenProcessPool as error:
            raise RunError(
                "A process that decodes images died. If memory ran out, free some and prepare again. A script that "
                'prepares data must do so below `if __name__ == "__main__":`.'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_block(block: Block, size: int, channels: int) -> Decoded:
    """Decode the images of one block; unreadable ones become failures."""
    pixels = np.empty((len(block), size, size, channels), dtype=np.uint8)
    good: list[int] = []
    failures: list[tuple[int, str]] = []
    for position, image in enumerate(block):
        try:
            if isinstance(image, Path):
                pixels[len(good)] = read_image(image, size=size, channels=channels)
            else:
                pixels[len(good)] = fit_image(image, size=size, channels=channels, name=f"image {position}")
        except ReaderError as error:
            failures.append((position, str(error)))
        else:
            good.append(position)
    pixels = pixels[: len(good)]
    flat = pixels.reshape(len(good), -1).astype(np.uint64)  # whole numbers: exact, so equal on every machine
    n_values = size * size * channels
    return Decoded(
        rows=np.array(good, dtype=np.int64),
        pixels=pixels,
        means=flat.sum(axis=1) / (255.0 * n_values),
        mean_squares=(flat * flat).sum(axis=1) / (255.0**2 * n_values),
        digests=tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in pixels),
        failures=tuple(failures),
        n_listed=len(block),
    )


def _blocks(table: ImageTable, length: int) -> Iterator[Block]:
    if table.archive:
        yield from read_blocks(table.root, rows=length)
        return
    for start in range(0, len(table), length):
        yield tuple(table.root / file for file in table.files[start : start + length])
