"""Keeps the warnings of decoding libraries about odd files off the screen; the readers check what may change pixels."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_local = threading.local()
# One for all threads, since it saves and restores the filters of the process.
_active: "list[warnings.catch_warnings[None]]" = []
_n_inside = 0


@contextmanager
def quietly() -> Iterator[list[str]]:
    """Collect the warnings of this thread in the list that is yielded, and keep pydicom's log to itself."""
    outer = getattr(_local, "remarks", None)
    remarks: list[str] = []
    _local.remarks = remarks
    _enter()
    try:
        yield remarks
    finally:
        _leave()
        _local.remarks = outer


def _enter() -> None:
    global _n_inside
    with _lock:
        _n_inside += 1
        if _n_inside == 1:
            catching = warnings.catch_warnings()
            catching.__enter__()
            _active.append(catching)
            warnings.simplefilter("always")
            warnings.showwarning = _note
            logging.getLogger("pydicom").propagate = False


def _leave() -> None:
    global _n_inside
    with _lock:
        _n_inside -= 1
        if _n_inside == 0:
            _active.pop().__exit__(None, None, None)
            logging.getLogger("pydicom").propagate = True


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    remarks = getattr(_local, "remarks", None)
    if remarks is not None:
        remarks.append(str(message))
