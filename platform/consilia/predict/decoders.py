"""Files are decoded by processes where there are many of them, and cores that torch leaves idle.

A thread hands what it is asked to read to an idle process and waits, which costs it next to nothing; where no process
is idle, it reads by itself, so results are the same whoever decodes. Processes are begun in the background once so many
files have been read that their start, about a second the first time, is worth it.
"""

import multiprocessing
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from consilia.config.reading import ImageKind, Reading
from consilia.data.decode.process import DecodeProcess, read_each
from consilia.errors import ReaderError, RunError
from consilia.predict.images import Frame, ImageLike, InputImage, OnUnknownKind, read_input

FEW = 256  # files that are read without any process

_NO_PROCESS = (RunError, EOFError, OSError)  # it cannot start, was ended, or died while it read nothing

Named = tuple[str, ImageLike | Frame]
Read = tuple[str, InputImage | ReaderError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How an ensemble reads images; as of `predict.images.read_input`."""

    reading: Reading
    kinds: tuple[ImageKind, ...]
    on_unknown_kind: OnUnknownKind
    with_colour: bool

    def __call__(self, named: Named) -> InputImage:
        """Return an image.

        Raises:
            ReaderError: It cannot be read.
        """
        name, image = named
        return read_input(
            image,
            self.reading,
            kinds=self.kinds,
            on_unknown_kind=self.on_unknown_kind,
            name=name,
            with_colour=self.with_colour,
        )

    def read(self, images: Sequence[Named]) -> list[Read]:
        """Return each image's name, and the image or its error."""
        return _named(images, read_each(images, self))


class Decoders:
    """Reads as its reader does, many files in processes. `close` ends them, from any thread."""

    def __init__(self, reader: Reader, *, n_processes: int) -> None:
        """Begin no process yet.

        Args:
            reader: How images are read.
            n_processes: To begin; 0: every image is read by the thread that asks.
        """
        may_begin = not multiprocessing.current_process().daemon
        self._reader, self._n_processes = reader, n_processes if may_begin else 0
        self._n_read, self._counting = 0, threading.Lock()
        self._closed = False
        self._idle: deque[DecodeProcess] = deque()
        self._processes = [DecodeProcess() for _ in range(self._n_processes)]
        self._beginning: threading.Thread | None = None

    def read(self, images: Sequence[Named]) -> list[Read]:
        """Read files, from several threads at once; images in memory are the caller's to read."""
        with self._counting:
            self._n_read += len(images)
            if self._n_read > FEW and self._beginning is None and self._n_processes > 0:
                self._beginning = threading.Thread(target=self._begin, name="consilia-decode-start", daemon=True)
                self._beginning.start()
        try:
            process = self._idle.popleft()
        except IndexError:
            return self._reader.read(images)
        try:
            found = process.read(images, self._reader)
        except _NO_PROCESS:  # without a fault of an image
            return [] if self._closed else self._reader.read(images)
        self._idle.append(process)
        return _named(images, found)

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        for process in self._processes:
            process.close()
        if self._beginning is not None:
            self._beginning.join()

    def _begin(self) -> None:
        for process in self._processes:
            try:
                process.read([], self._reader)
            except _NO_PROCESS:  # no memory for one more, say
                return
            self._idle.append(process)


def _named(images: Sequence[Named], found: Sequence[InputImage | ReaderError]) -> list[Read]:
    return [(name, each) for (name, _), each in zip(images, found, strict=True)]
