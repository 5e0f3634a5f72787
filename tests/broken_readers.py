"""Readers for decoding processes, which import them by name: some end or hang their process at certain files."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from consilia.config.reading import Reading
from consilia.data.decode.reader import read_image
from consilia.data.square import Picture


def read_or_break(path: Path, reading: Reading, *, frame: int | None = None) -> Picture:
    """Die at files named kill*, hang at hang*, exit at exit*."""
    if path.name.startswith("kill"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.name.startswith("exit"):
        os._exit(3)
    if path.name.startswith("hang"):
        time.sleep(600)
    return read_image(path, reading, frame=frame)


def read_and_note(log: Path, path: Path, reading: Reading, *, frame: int | None = None) -> Picture:
    """Append the name of the file to `log`."""
    note(log, path.name)
    return read_image(path, reading, frame=frame)


def break_once(log: Path, path: Path, reading: Reading, *, frame: int | None = None) -> Picture:
    """Die at the second file, but only the first time: memory ran out, say."""
    if path.name == "001.png" and not log.exists():
        note(log, path.name)
        os.kill(os.getpid(), signal.SIGKILL)
    return read_image(path, reading, frame=frame)


def read_tagged(names: tuple[str, ...], path: Path, reading: Reading, *, frame: int | None = None) -> Picture:
    """Say of some files that they show the left side."""
    picture = read_image(path, reading, frame=frame)
    return replace(picture, tags={"Laterality": "L"}) if path.name in names else picture


def fail(path: Path, reading: Reading, *, frame: int | None = None) -> Picture:
    """Raise what no reader should."""
    raise OSError("a fault of the reader")


def note(log: Path, name: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{name}\n".encode())
    os.close(descriptor)
