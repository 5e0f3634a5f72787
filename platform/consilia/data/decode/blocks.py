"""Decoding a listed data set block by block, in listing order and with bounded memory."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from consilia.config.reading import Reading
from consilia.data.decode.block import Block, Decoded, ImageFacts, decode_block
from consilia.data.decode.pool import DecodePool, LocalPool, Pending
from consilia.data.sources.listing import ImageTable
from consilia.data.sources.npz import read_blocks

__all__ = ["BLOCK_BYTES", "DecodePool", "Decoded", "ImageFacts", "LocalPool", "block_length", "decode"]

BLOCK_BYTES = 4_000_000  # decoded pixels that one process hands over at once
_BLOCK_IMAGES = 256  # so that small images still show progress


def block_length(reading: Reading) -> int:
    """Return the number of images in a block, at most."""
    return max(1, min(_BLOCK_IMAGES, BLOCK_BYTES // (reading.size**2 * reading.channels)))


def decode(table: ImageTable, reading: Reading, *, pool: DecodePool | None, start: int = 0) -> Iterator[Decoded]:
    """Decode the images of `table`, block by block in its order.

    Blocks hold `BLOCK_BYTES` of pixels and at most two a worker are in flight, so memory does not grow with the
    data set. What is yielded does not depend on the pool.

    Args:
        table: What to decode.
        reading: How a file becomes stored pixels.
        pool: Decodes the blocks; None: this process. An archive is read in this one in any case.
        start: Number of listed images that are decoded already: a sum of the first blocks' lengths.
    """
    blocks = _after(start, _blocks(table, block_length(reading)))
    if pool is None or table.archive:
        yield from (decode_block(block, reading) for block in blocks)
        return
    waiting: deque[Pending] = deque()
    waiting.extend(pool.submit(block, reading) for block in islice(blocks, 2 * pool.n_workers))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(block, reading) for block in islice(blocks, 1))


def _after(start: int, blocks: Iterator[Block]) -> Iterator[Block]:
    seen = 0
    for block in blocks:
        if seen >= start:
            yield block
        seen += len(block)


def _blocks(table: ImageTable, length: int) -> Iterator[Block]:
    if table.archive:
        yield from read_blocks(table.root, rows=length)
        return
    for start in range(0, len(table), length):
        stop = start + length
        files, frames = table.files[start:stop], table.frames[start:stop]
        yield tuple((table.root / file, frame) for file, frame in zip(files, frames, strict=True))
