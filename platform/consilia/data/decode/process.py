"""A process that decodes images. If a decoder crashes or hangs it, it ends alone, and the image it was at is known.

Each process has a pipe of its own. Pools that share one (pebble, concurrent.futures) break or hang when a process is
killed while it sends a block, as happens when memory runs out.
"""

import multiprocessing
import signal
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import numpy as np

from consilia.config.reading import Reading
from consilia.data.decode.block import Block, Decoded, Read, decode_block, failed, join
from consilia.data.decode.reader import read_image
from consilia.errors import RunError

IMAGE_SECONDS = 60.0  # the largest mammograms take a second or two
_STARTING, _IDLE = -2, -1  # in place of the position of an image

# Forked from one server that has imported what they need, processes start in hundredths of a second and share its
# memory. Not from this process: it may run threads (Ray, torch), and a lock copied while held stays held.
_CONTEXT = multiprocessing.get_context("forkserver")
_STARTING_OR_REAPING = threading.Lock()  # two threads that reap at once may take each other's exit code


class DecodeProcess:
    """One process, started when it is needed and again after each death.

    Args:
        read: Decodes a file.
        seconds: What one image may take; then its process ends itself.
    """

    def __init__(self, *, read: Read = read_image, seconds: float = IMAGE_SECONDS) -> None:
        self._read, self._seconds = read, seconds
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None
        self._position: Any = RawValue("i", _STARTING)
        self._closed = False

    def decode(self, block: Block, reading: Reading) -> Decoded:
        """Decode a block, even if some of its images crash the process.

        An image whose process died is decoded once more with no other image beside it; if that process dies too, the
        image is a failure, and the others of its block are decoded without it.

        Raises:
            RunError: Processes do not start, or die while they decode no image.
        """
        parts: list[Decoded] = []
        suspect = False  # whether the next image has crashed a process
        while len(block) > 0 or not parts:
            piece, rest = (block[:1], block[1:]) if suspect else (block, block[:0])
            try:
                parts.append(self._ask(piece, reading))
                block, suspect = rest, False
            except _DiedError as death:
                if suspect:
                    parts.append(failed(_reason(piece, death, self._seconds), reading))
                    block, suspect = rest, False
                    continue
                if death.position > 0:
                    parts.append(self.decode(block[: death.position], reading))
                block, suspect = block[death.position :], True
        return parts[0] if len(parts) == 1 else join(parts)

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

    def _ask(self, block: Block, reading: Reading) -> Decoded:
        connection = self._connection or self._start()
        try:
            connection.send((block, reading))
            reply: Decoded | BaseException = connection.recv()
            content = b"" if isinstance(reply, BaseException) else connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._bury() from error
        if isinstance(reply, BaseException):
            raise reply
        pixels = np.frombuffer(content, dtype=np.uint8)
        return replace(reply, pixels=pixels.reshape(len(reply.facts), *reply.pixels.shape[1:]))

    def _start(self) -> Connection:
        ours, theirs = _CONTEXT.Pipe()
        self._position.value = _STARTING
        arguments = (theirs, self._position, self._read, self._seconds)
        with _STARTING_OR_REAPING:
            if self._closed:
                raise RunError("Decoding was ended.")
            _CONTEXT.set_forkserver_preload(["consilia.data.decode.block"])
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
                "out, free some and prepare again: it goes on where it stopped. A script that prepares data must do so "
                'below `if __name__ == "__main__":`.'
            )
        return _DiedError(position, exit_code)


@dataclass
class _DiedError(Exception):
    """The process died at an image."""

    position: int
    exit_code: int  # negative: the signal


def _reason(piece: Block, death: _DiedError, seconds: float) -> str:
    name = piece[0][0] if isinstance(piece, tuple) else "image"
    if death.exit_code == -signal.SIGALRM:
        return f"{name}: decoding it was ended twice after {seconds:g} s; the file is damaged, or its disk hangs."
    return (
        f"{name}: its decoder crashed twice, the second time alone ({_death(death.exit_code)}); "
        "the file is damaged, or memory ran out."
    )


def _death(exit_code: int) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def _work(connection: Connection, position: Any, read: Read, seconds: float) -> None:
    """Decode what arrives until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    position.value = _IDLE

    def before(at: int) -> None:
        position.value = at
        end_after(seconds)

    try:
        while True:
            block, reading = connection.recv()
            try:
                reply: Decoded | BaseException = decode_block(block, reading, read=read, before=before)
            except Exception as error:  # a fault of the program, not of a file, belongs to the caller
                reply = error
            end_after(0)
            position.value = _IDLE
            _send(connection, reply)
    except (EOFError, OSError):
        return


def _send(connection: Connection, reply: Decoded | BaseException) -> None:
    if isinstance(reply, BaseException):
        connection.send(reply)
        return
    connection.send(replace(reply, pixels=reply.pixels[:0]))
    connection.send_bytes(reply.pixels.ravel().data)  # a pickle would copy them twice more


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
