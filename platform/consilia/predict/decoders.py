"""Files are decoded by processes where there are many of them, and cores that torch leaves idle.

A thread hands what it is asked to read to an idle process and waits, which costs it next to nothing; where no process
is idle, or one has died, it reads by itself, so results are the same whoever decodes. Processes are begun in the
background once so many files have been read that their start, about a second the first time, is worth it.
"""

import multiprocessing
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from types import ModuleType
from typing import Any

import numpy as np

from consilia.config.reading import ImageKind, Reading
from consilia.errors import ReaderError
from consilia.predict.images import Frame, ImageLike, InputImage, OnUnknownKind, read_input

FEW = 256  # files that are read without any process

Named = tuple[str, ImageLike | Frame]
Read = tuple[str, InputImage | ReaderError]

# As in `data.decode.process`: not from this process, which runs threads.
_CONTEXT = multiprocessing.get_context("forkserver")
_starting = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How an ensemble reads images; as of `predict.images.read_input`."""

    reading: Reading
    kinds: tuple[ImageKind, ...]
    on_unknown_kind: OnUnknownKind
    with_colour: bool

    def read(self, images: Sequence[Named]) -> list[Read]:
        """Return each image's name, and the image or its error."""
        return [(name, self._read(name, image)) for name, image in images]

    def _read(self, name: str, image: ImageLike | Frame) -> InputImage | ReaderError:
        try:
            return read_input(
                image,
                self.reading,
                kinds=self.kinds,
                on_unknown_kind=self.on_unknown_kind,
                name=name,
                with_colour=self.with_colour,
            )
        except ReaderError as error:
            return error


class Decoders:
    """Reads as its reader does, many files in processes. `close` ends them, from any thread."""

    def __init__(self, reader: Reader, *, n_processes: int, most: int) -> None:
        """Begin no process yet.

        Args:
            reader: How images are read.
            n_processes: To begin; 0: every image is read by the thread that asks.
            most: Images that are asked for at once, at most.
        """
        may_begin = not multiprocessing.current_process().daemon
        self._reader, self._n_processes, self._most = reader, n_processes if may_begin else 0, most
        self._n_read, self._counting = 0, threading.Lock()
        self._closed = False
        self._idle: deque[_Process] = deque()
        self._begun: list[_Process] = []
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
            found = process.read(images)
        except (EOFError, OSError):  # it has died
            return [] if self._closed else self._reader.read(images)
        self._idle.append(process)
        return found

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        if self._beginning is not None:
            self._beginning.join()
        for process in self._begun:
            process.close()

    def _begin(self) -> None:
        for _ in range(self._n_processes):
            if self._closed:
                return
            try:
                process = _Process(self._reader, self._most)
            except (OSError, EOFError):  # no memory for one more, say
                return
            self._begun.append(process)
            self._idle.append(process)


class _Process:
    """One process, and the memory in which it leaves pixels."""

    def __init__(self, reader: Reader, most: int) -> None:
        shape = (most, reader.reading.size, reader.reading.size, reader.reading.channels)
        shared = RawArray("B", int(np.prod(shape)))
        self._pixels = np.frombuffer(shared, dtype=np.uint8).reshape(shape)
        self._connection, theirs = _CONTEXT.Pipe()
        with _starting, _without_main():
            _CONTEXT.set_forkserver_preload([__name__])
            self._process = _CONTEXT.Process(target=_serve, args=(theirs, shared, shape, reader), daemon=True)
            self._process.start()
        theirs.close()  # so that the death of the process closes it

    def read(self, images: Sequence[Named]) -> list[Read]:
        """Have files read.

        Raises:
            EOFError: The process has died; or OSError.
        """
        self._connection.send(images)
        found: list[Read] = self._connection.recv()
        pixels = self._pixels[: len(images)].copy()
        return [
            (name, each if isinstance(each, ReaderError) else replace(each, pixels=own))
            for (name, each), own in zip(found, pixels, strict=True)
        ]

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, shared: Any, shape: tuple[int, ...], reader: Reader) -> None:
    """Read what arrives until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    pixels = np.frombuffer(shared, dtype=np.uint8).reshape(shape)
    nothing = np.empty((0, 0, 0), dtype=np.uint8)
    try:
        while True:
            found: list[Read] = []
            for place, (name, each) in enumerate(reader.read(connection.recv())):
                if isinstance(each, InputImage):
                    pixels[place] = each.pixels
                    each = replace(each, pixels=nothing)
                found.append((name, each))
            connection.send(found)
    except (EOFError, OSError):
        return


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a process that starts from importing the main module: a script without a guard would run again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
