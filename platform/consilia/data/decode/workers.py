"""Decodes block by block, in a fixed order: in this process, in other processes, or on a cluster."""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Protocol

from consilia.config.reading import Reading
from consilia.data.decode.block import Block, BlockReader, Decoded, Read, decode_block, join
from consilia.data.decode.process import BLOCK_BYTES, IMAGE_SECONDS, DecodeProcess
from consilia.data.decode.reader import read_image

_BLOCK_IMAGES = 256  # so that small images still show progress


class Pending(Protocol):
    """A block that is being decoded elsewhere."""

    def result(self) -> Decoded:
        """Wait for the block."""


class DecodeWorkers(Protocol):
    """Decode blocks, several at a time. A context manager: on leaving it, whatever still runs is ended."""

    n_workers: int  # how many blocks are decoded at a time

    def submit(self, block: Block, reading: Reading) -> Pending:
        """Start to decode a block."""


def block_length(reading: Reading) -> int:
    """Return the number of images in a block, at most."""
    return max(1, min(_BLOCK_IMAGES, BLOCK_BYTES // (reading.size**2 * reading.channels)))


def decode_blocks(blocks: Iterable[Block], reading: Reading, *, workers: DecodeWorkers | None) -> Iterator[Decoded]:
    """Decode blocks, and yield them in their order.

    At most two blocks a worker are being decoded or waiting, so memory does not grow with the number of blocks. The
    result does not depend on the workers.

    Args:
        blocks: Of `block_length` images at most.
        reading: How a file becomes stored pixels.
        workers: Decodes the blocks; None: this process.
    """
    if workers is None:
        yield from (decode_block(block, reading) for block in blocks)
        return
    rest = iter(blocks)
    waiting: deque[Pending] = deque()
    waiting.extend(workers.submit(block, reading) for block in islice(rest, 2 * workers.n_workers))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(workers.submit(block, reading) for block in islice(rest, 1))


def decode_in(process: DecodeProcess, block: Block, reading: Reading, *, read: Read = read_image) -> Decoded:
    """Decode a block as `decode_block` does, in a process, which some of its images may crash.

    Raises:
        RunError: As of `DecodeProcess.read`.
    """
    return join(process.read(list(block), BlockReader(reading=reading, read=read)), reading)


class LocalWorkers:
    """DecodeWorkers: processes on this machine.

    Args:
        n_workers: Number of processes.
        read: Decodes a file; replaced in tests.
        seconds: What one image may take.
    """

    def __init__(self, n_workers: int, *, read: Read = read_image, seconds: float = IMAGE_SECONDS) -> None:
        self.n_workers = n_workers
        self._jobs: queue.SimpleQueue[tuple[Future[Decoded], Block, Reading] | None] = queue.SimpleQueue()
        self._read = read
        self._processes = [DecodeProcess(seconds=seconds) for _ in range(n_workers)]
        self._threads = [threading.Thread(target=self._serve, args=(p,), daemon=True) for p in self._processes]

    def __enter__(self) -> "LocalWorkers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, block: Block, reading: Reading) -> Pending:
        """Start to decode a block; its result raises RunError if no process can be started."""
        future: Future[Decoded] = Future()
        self._jobs.put((future, block, reading))
        return future

    def _serve(self, process: DecodeProcess) -> None:
        while (job := self._jobs.get()) is not None:
            future, block, reading = job
            try:
                future.set_result(decode_in(process, block, reading, read=self._read))
            except BaseException as error:  # is raised where the block is waited for
                future.set_exception(error)
