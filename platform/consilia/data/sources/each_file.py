"""Reading something of each of many files: errors kept apart, large sets in processes, order kept."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import joblib

from consilia.errors import ReaderError, RunError

T = TypeVar("T")

_IN_PROCESS = 512  # fewer files are read before processes would have started
_AT_ONCE = 64  # files that a process is given at a time


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of what could not be read."""

    reason: str  # names the file


def read_each(read: Callable[[Path], T], paths: Sequence[Path]) -> list[T | Unreadable]:
    """Return what `read` says of each file, in the order of `paths`.

    Processes, not threads: reading a DICOM header is Python, and quieting pydicom changes state that threads share.

    Args:
        read: A function of a module, or a partial of one, since it travels to processes; raises ReaderError.
        paths: The files.

    Raises:
        RunError: A process died.
    """
    attempt: Callable[[Path], T | Unreadable] = partial(_attempt, read)
    if len(paths) < _IN_PROCESS:
        return [attempt(path) for path in paths]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["consilia.data.decode.block"])  # the same server that decoding uses
    with ProcessPoolExecutor(
        joblib.cpu_count(), mp_context=context, initializer=_leave_interrupts_to_the_parent
    ) as pool:
        try:
            return list(pool.map(attempt, paths, chunksize=_AT_ONCE))
        except BrokenProcessPool as error:
            raise RunError(
                "A process that reads file headers died. If memory ran out, free some and try again. A script that "
                'prepares data must do so below `if __name__ == "__main__":`.'
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _attempt(read: Callable[[Path], T], path: Path) -> T | Unreadable:
    try:
        return read(path)
    except ReaderError as error:
        return Unreadable(str(error))


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
