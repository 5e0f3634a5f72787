"""Images are decoded while the networks run: results in order, a bounded number of them under way."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Generic, TypeVar

import joblib
import torch

from consilia.bundle.document import BundleDocument
from consilia.predict.decoders import Decoders, Named, Read, Reader
from consilia.predict.images import Frame, Images, OnUnknownKind, single_images, split_frames

MOST_THREADS = 8  # more decode no faster: the interpreter's own part of decoding is done by one at a time
FEWEST_PROCESSES = 3  # threads fill as many cores as well
MOST_IN_CHUNK = 8  # files that a thread or process reads at a time

_count_cores = cache(joblib.cpu_count)  # it reads what a container allows, which takes a tenth of decoding an image

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    images: Images,
    document: BundleDocument,
    *,
    batch_size: int,
    on_unknown_kind: OnUnknownKind,
    with_colour: bool,
    n_threads: int,
    n_processes: int = 0,
) -> Iterator[list[Read]]:
    """Yield batches of what an ensemble's networks get: each image's name, and the image or its error.

    Files of the next batch are decoded while the caller is busy with this one, so up to `batch_size` of them are taken
    from an iterable ahead of their turn; with a batch size of 1, and of images in memory, none are. What the iterable
    raises is raised after the images before it.

    Args:
        images: One image or many.
        document: Of the ensemble; it says how images are read, and which kinds of file are known.
        batch_size: Images in memory at once.
        on_unknown_kind: What becomes of an image of another kind.
        with_colour: Measure the colour that reading as grey takes away; as of `predict.images.read_input`.
        n_threads: At least 1.
        n_processes: As of `predict.decoders.Decoders`; each takes a thread too.

    Raises:
        ReaderError: `images` itself is of no type or shape that images have.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}")
    reading, n_workers = document.reading, max(n_threads, n_processes)
    reader = Reader(reading=reading, kinds=document.kinds, on_unknown_kind=on_unknown_kind, with_colour=with_colour)
    length = max(1, min(MOST_IN_CHUNK, batch_size // (2 * n_workers)))
    with closing(Decoders(reader, n_processes=n_processes)) as decoders:
        chunks = work_ahead(
            _chunks(split_frames(single_images(images, channels=reading.channels), reading), length),
            lambda chunk: decoders.read(chunk) if _is_slow(chunk[0]) else reader.read(chunk),
            is_slow=lambda chunk: _is_slow(chunk[0]),
            ahead=batch_size // length if batch_size > 1 else 0,
            n_threads=n_workers,
        )
        yield from in_batches(_each(chunks), batch_size)


def work_ahead(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    *,
    is_slow: Callable[[Item], bool],
    ahead: int,
    n_threads: int,
) -> Generator[Result]:
    """Yield `work(item)` of each item, in order; slow items are worked on in threads before their turn.

    Items are taken in the thread of the caller. Past a slow item at most `ahead` others are taken before it is yielded,
    past any other none, so that a source which waits for what became of its last image is not kept waiting. What
    `items` or `work` raises is raised at its place, after the results before it. No thread outlives this generator,
    wherever it is closed.

    Args:
        items: Taken one at a time.
        work: Done in a thread, or, of an item that is not slow, by the caller when its turn comes.
        is_slow: Says whether a thread is worth its while; Pillow and file systems let others compute meanwhile.
        ahead: Items under way at once beside the one that is yielded; 0 works on each when it is asked for.
        n_threads: At least 1; none is started before the first slow item.
    """
    source = _Source(items)
    waiting: deque[Callable[[], Result]] = deque()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="consilia-decode")
    try:
        take_more = True
        while True:
            while take_more and len(waiting) <= ahead and source.advance():
                take_more = ahead > 0 and is_slow(source.item)
                waiting.append(pool.submit(work, source.item).result if take_more else partial(work, source.item))
            if not waiting:
                break
            yield waiting.popleft()()
            take_more = take_more or not waiting
        source.raise_failure()
    finally:
        pool.shutdown(cancel_futures=True)


def in_batches(results: Generator[Result], size: int) -> Iterator[list[Result]]:
    """Yield lists of `size` results, the last one shorter; what `results` raises is raised after those before it."""
    batch: list[Result] = []
    with closing(results):
        try:
            for result in results:
                batch.append(result)
                if len(batch) == size:
                    yield batch
                    batch = []
        except Exception:
            if batch:
                yield batch
            raise
        if batch:
            yield batch


def spare_threads(device: torch.device) -> int:
    """Return how many threads may decode without disturbing what torch computes on `device`."""
    return min(MOST_THREADS, _spare_cores(device))


def spare_processes(device: torch.device) -> int:
    """Return how many processes are worth decoding many files: 0 where threads use all the cores that are spare."""
    cores = _spare_cores(device)
    return cores if cores >= FEWEST_PROCESSES else 0


def _spare_cores(device: torch.device) -> int:
    cores: int = _count_cores()
    busy = torch.get_num_threads() if device.type == "cpu" else 1
    return max(1, cores - busy)


def _is_slow(named: Named) -> bool:
    """Say whether an image is a file, which is worth a thread."""
    return isinstance(named[1], (str, Path, Frame))


def _chunks(images: Iterator[Named], length: int) -> Iterator[list[Named]]:
    """Yield files `length` at a time, and images in memory one by one; what `images` raises, after those before it."""
    chunk: list[Named] = []
    try:
        for image in images:
            if not _is_slow(image):
                if chunk:
                    yield chunk
                    chunk = []
                yield [image]
                continue
            chunk.append(image)
            if len(chunk) == length:
                yield chunk
                chunk = []
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _each(chunks: Generator[list[Read]]) -> Generator[Read]:
    with closing(chunks):
        for chunk in chunks:
            yield from chunk


class _Source(Generic[Item]):
    """An iterable that is taken from ahead of time: its error waits until its place is reached."""

    item: Item  # the last one taken

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._has_ended = False
        self._failure: Exception | None = None

    def advance(self) -> bool:
        """Take the next item; say whether there was one."""
        if self._has_ended:
            return False
        try:
            self.item = next(self._items)
        except StopIteration:
            self._has_ended = True
        except Exception as error:
            self._has_ended, self._failure = True, error
        return not self._has_ended

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
