"""A process that decodes images. If a decoder crashes or hangs it, it ends alone, and the image it was at is known.

Each process has a pipe of its own. Pools that share one (pebble, concurrent.futures) break or hang when a process is
killed while it sends a block, as happens when memory runs out.
"""

import multiprocessing
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from consilia.errors import ReaderError, RunError

Image = TypeVar("Image")
Result = TypeVar("Result")

BLOCK_BYTES = 4_000_000  # decoded pixels that one process hands over at once, without a pipe
IMAGE_SECONDS = 60.0  # the largest mammograms take a second or two
_STARTING, _IDLE = -2, -1  # in place of the position of an image

# Forked from one server that has imported what they need, processes start in hundredths of a second and share its
# memory. Not from this process: it may run threads (Ray, torch), and a lock copied while held stays held.
_CONTEXT = multiprocessing.get_context("forkserver")
_STARTING_OR_REAPING = threading.Lock()  # two threads that reap at once may take each other's exit code


def read_each(
    images: Iterable[Image], read: Callable[[Image], Result], *, before: Callable[[int], None] | None = None
) -> list[Result | ReaderError]:
    """Return what `read` makes of each image, or the error that it raises.

    Args:
        images: To be read.
        read: Reads one, or raises ReaderError.
        before: Called with the position of each image before it is read.
    """
    found: list[Result | ReaderError] = []
    for position, image in enumerate(images):
        if before is not None:
            before(position)
        try:
            found.append(read(image))
        except ReaderError as error:
            found.append(error)
    return found


class DecodeProcess:
    """One process, started when it is needed and again after each death.

    Args:
        seconds: What one image may take; then its process ends itself.
    """

    def __init__(self, *, seconds: float = IMAGE_SECONDS) -> None:
        self._seconds = seconds
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None
        self._position: Any = RawValue("i", _STARTING)
        self._shared: Any = None  # where it leaves pixels
        self._closed = False

    def read(self, images: Sequence[Image], read: Callable[[Image], Result]) -> list[Result | ReaderError]:
        """Do as `read_each`, even if some images crash the process; of no images, start it.

        An image whose process died is read once more with no other image beside it; if that process dies too, the image
        is an error, and the others are read without it.

        Args:
            images: To be read; an error calls one that is a tuple by the tuple's first element.
            read: As of `read_each`; an instance of a class, or a function, that the process can import.

        Raises:
            RunError: Processes do not start, or die while they decode no image.
        """
        if not images:
            return self._ask(images, read)
        found: list[Result | ReaderError] = []
        suspect = False  # whether the next image has crashed a process
        while len(found) < len(images):
            rest = images[len(found) :]
            try:
                found += self._ask(rest[:1] if suspect else rest, read)
                suspect = False
            except _DiedError as death:
                if suspect:
                    found.append(ReaderError(_reason(rest[0], death, self._seconds)))
                elif death.position > 0:
                    found += self.read(rest[: death.position], read)
                suspect = not suspect
        return found

    @property
    def pid(self) -> int:
        """Of the process that runs, which may be another after each block."""
        assert self._process is not None
        return int(self._process.pid or 0)

    def close(self) -> None:
        """End the process at once, from any thread; what it was decoding raises RunError."""
        self._closed = True
        with _STARTING_OR_REAPING:
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def _ask(self, images: Sequence[Image], read: Callable[[Image], Result]) -> list[Result | ReaderError]:
        connection = self._connection or self._start(type(read).__module__)
        try:
            connection.send((images, read))
            reply: list[Result | ReaderError] | BaseException = _receive(connection, self._shared)
        except (EOFError, OSError) as error:
            raise self._bury() from error
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def _start(self, imports: str) -> Connection:
        ours, theirs = _CONTEXT.Pipe()
        self._position.value = _STARTING
        self._shared = self._shared or RawArray("B", BLOCK_BYTES)
        arguments = (theirs, self._position, self._shared, self._seconds)
        with _STARTING_OR_REAPING, _without_main():
            if self._closed:
                raise RunError("Decoding was ended.")
            _CONTEXT.set_forkserver_preload([__name__, imports])
            process = _CONTEXT.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self._process = process
        theirs.close()  # so that the other end of `ours` is open in the process alone, and its death closes it
        self._connection = ours
        return ours

    def _bury(self) -> "_DiedError":
        assert self._process is not None
        assert self._connection is not None
        with _STARTING_OR_REAPING:
            self._process.join(timeout=5)
            if self._process.is_alive():  # it closed its pipe without ending
                self._process.kill()
                self._process.join()
            exit_code = self._process.exitcode or 0
            self._process = None
        self._connection.close()
        self._connection = None
        position = int(self._position.value)
        if self._closed:
            raise RunError("Decoding was ended.")
        if position < 0:
            raise RunError(
                f"A process that decodes images died while it decoded no image ({_death(exit_code)}). If memory ran "
                "out, free some and prepare again: it goes on where it stopped."
            )
        return _DiedError(position, exit_code)


@dataclass
class _DiedError(Exception):
    """The process died at an image."""

    position: int
    exit_code: int  # negative: the signal


def _reason(image: object, death: _DiedError, seconds: float) -> str:
    name = image[0] if isinstance(image, tuple) else "image"
    if death.exit_code == -signal.SIGALRM:
        return f"{name}: decoding it was ended twice after {seconds:g} s; the file is damaged, or its disk hangs."
    return (
        f"{name}: its decoder crashed twice, the second time alone ({_death(death.exit_code)}); "
        "the file is damaged, or memory ran out."
    )


def _death(exit_code: int) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def _work(connection: Connection, position: Any, shared: Any, seconds: float) -> None:
    """Read what arrives until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    position.value = _IDLE

    def before(at: int) -> None:
        position.value = at
        end_after(seconds)

    try:
        while True:
            images, read = connection.recv()
            try:
                reply: list[Any] | BaseException = read_each(images, read, before=before)
            except Exception as error:  # a fault of the program, not of a file, belongs to the caller
                reply = error
            end_after(0)
            position.value = _IDLE
            _send(connection, reply, shared)
    except (EOFError, OSError):
        return


def _send(connection: Connection, reply: object, shared: Any) -> None:
    """Send a reply, arrays in shared memory as far as they fit there; only to the process that started this one."""
    memory, ends = memoryview(shared).cast("B"), [0]

    def stays(array: pickle.PickleBuffer) -> bool:
        content, start = array.raw(), ends[-1]
        end = start + len(content)
        if end > len(memory):
            return True
        memory[start:end] = content
        ends.append(end)
        return False

    connection.send((pickle.dumps(reply, protocol=5, buffer_callback=stays), ends))


def _receive(connection: Connection, shared: Any) -> Any:
    """Return what `_send` sent, in memory of its own; from a process that this one has started, and no other."""
    content, ends = connection.recv()
    memory = memoryview(bytearray(memoryview(shared)[: ends[-1]]))
    return pickle.loads(content, buffers=[memory[start:end] for start, end in pairwise(ends)])


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a process that starts from importing the main module: a script without a guard would run again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end_after(seconds: float) -> None:
    """Let the kernel end this process after some time, also inside a decoder that never returns to Python.

    Args:
        seconds: From now; replaces an earlier call. 0: never.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)


def is_plain(path: Path) -> bool:
    """Return whether a file is PNG or JPEG, or has no content that a decoder would see.

    Those two decoders are trusted in the caller's own process when there are few images.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return True
    if start[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):  # read as DICOM, however it begins
        return False
    return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or not start
