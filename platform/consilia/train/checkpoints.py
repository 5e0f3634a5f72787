"""When a fold's state goes to disk: it may be hundreds of megabytes, and an epoch on a fast GPU a second."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from consilia.train.faults import writing
from consilia.train.network_files import save_checkpoint
from consilia.train.pace import Pace


class Checkpoints:
    """Keeps the state after the last complete epoch in memory; writes it now and then, and when it is told to.

    Args:
        path: Of the checkpoint.
        clock: Seconds; never jumps.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._pace = Pace(clock)
        self._kept: dict[str, Any] | None = None

    def keep(self, state: dict[str, Any]) -> None:
        """Copy a state, where its tensors are, and write it if it is time to.

        Raises:
            DiskFullError: There is no room; the one before stays on the disk.
        """
        self._kept = None  # before there is another: a GPU has room for one
        self._kept = copy.deepcopy(state)
        if self._pace.is_due:
            self.write()

    def write(self) -> None:
        """Write what has been kept since the last time, if anything.

        Raises:
            DiskFullError: As of `keep`.
        """
        if self._kept is None:
            return
        with self._pace.taken(), writing(self._path):
            save_checkpoint(self._path, self._kept)
        self._kept = None

    @contextmanager
    def written_on_error(self) -> Iterator[None]:
        """Enclose training: what has been kept is written, if it can be, before an error goes on its way."""
        try:
            yield
        except Exception:
            with suppress(Exception):  # the disk may be full, or the device be lost: the first error says so
                self.write()
            raise

    def drop(self) -> None:
        """Delete the checkpoint, and what has been kept."""
        self._kept = None
        self._path.unlink(missing_ok=True)
