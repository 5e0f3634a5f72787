"""The driver's disk, for workers that cannot see it: the broker, which runs on the driver's node, reads and writes.

Files travel in parts, so that a checkpoint of any size takes little memory on its way. Repeating a call does no harm:
a worker asks again where the broker had to be started again.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from consilia.files import sync

Part = npt.NDArray[np.uint8]  # bytes of a file, (n,); Ray shares arrays without copying them
PART_BYTES = 16 * 2**20

_BROKER_SECONDS = 0.5  # between two questions whether a broker that died has been started again


class Disk(Protocol):
    """Reads and writes files by their paths on the driver's node."""

    def sizes(self, paths: Collection[Path]) -> dict[Path, int]:
        """Return the bytes of the files among `paths` that exist."""

    def read(self, path: Path, offset: int) -> Part:
        """Return at most PART_BYTES of a file, from `offset`."""

    def write(self, path: Path, part: Part, *, upload: str, offset: int, is_last: bool) -> None:
        """Add a part to a file that has its name with the last part only.

        Args:
            path: Final name; its folder is made.
            part: Bytes.
            upload: Tells one sending of the file from others.
            offset: Of the part in the file; parts come in order.
            is_last: Whether the file is complete with it.

        Raises:
            OSError: It cannot be written; a full disk has its own errno.
        """

    def remove(self, path: Path) -> None:
        """Delete a file, if it exists."""


class LocalDisk:
    """The disk itself."""

    def sizes(self, paths: Collection[Path]) -> dict[Path, int]:
        """As of Disk."""
        return {path: path.stat().st_size for path in paths if path.is_file()}

    def read(self, path: Path, offset: int) -> Part:
        """As of Disk."""
        return np.fromfile(path, np.uint8, count=PART_BYTES, offset=offset)

    def write(self, path: Path, part: Part, *, upload: str, offset: int, is_last: bool) -> None:
        """As of Disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}-{upload}{path.suffix}")
        try:
            with temporary.open("r+b" if offset else "wb") as file:
                file.seek(offset)
                file.write(part.data)
                file.flush()
                if is_last:
                    os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if is_last:
            temporary.replace(path)
            sync(path.parent)

    def remove(self, path: Path) -> None:
        """As of Disk."""
        path.unlink(missing_ok=True)


class BrokerDisk:
    """The driver's disk, asked for by a worker through the broker. It waits for a broker that is started again.

    Args:
        broker: Handle of the actor.
    """

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def sizes(self, paths: Collection[Path]) -> dict[Path, int]:
        """As of Disk."""
        found: dict[Path, int] = self._ask("sizes", tuple(paths))
        return found

    def read(self, path: Path, offset: int) -> Part:
        """As of Disk."""
        part: Part = self._ask("read", path, offset)
        return part

    def write(self, path: Path, part: Part, *, upload: str, offset: int, is_last: bool) -> None:
        """As of Disk."""
        self._ask("write", path, part, upload=upload, offset=offset, is_last=is_last)

    def remove(self, path: Path) -> None:
        """As of Disk."""
        self._ask("remove", path)

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        import ray

        while True:
            try:
                answer = ray.get(self._broker.disk.remote(method, *arguments, **named))
                break
            except ray.exceptions.ActorUnavailableError:
                time.sleep(_BROKER_SECONDS)
        if isinstance(answer, OSError):
            raise answer
        return answer


def fetch_file(disk: Disk, there: Path, here: Path, *, size: int, alive: Callable[[], object]) -> None:
    """Copy a file of the driver's to this node.

    Args:
        disk: The driver's.
        there: Path on the driver's node.
        here: Path on this one; its folder exists. What stands there is replaced.
        size: Bytes that it must have.
        alive: Called after each part.

    Raises:
        OSError: It cannot be read or written, or has another size.
    """
    with here.open("wb") as file:
        while file.tell() < size:
            part = disk.read(there, file.tell())
            if len(part) == 0:
                raise OSError(f"{there} has shrunk to {file.tell()} of {size} bytes")
            file.write(part.data)
            alive()


def send_file(disk: Disk, here: Path, there: Path, *, upload: str) -> None:
    """Copy a file of this node's to the driver's disk, where it has its name once it is complete.

    Args:
        disk: The driver's.
        here: Path on this node.
        there: Path on the driver's.
        upload: Tells this sending from others.

    Raises:
        OSError: As of `Disk.write`.
    """
    offset = 0
    for part, is_last in _parts(here):
        disk.write(there, part, upload=upload, offset=offset, is_last=is_last)
        offset += len(part)


def _parts(path: Path) -> Iterator[tuple[Part, bool]]:
    """Yield a file's parts, and whether each is the last; of an empty file, one without bytes."""
    with path.open("rb") as file:  # opened once: another file may take its name meanwhile
        left = os.fstat(file.fileno()).st_size
        while True:
            part = np.fromfile(file, np.uint8, count=PART_BYTES)
            left -= len(part)
            yield part, left <= 0
            if left <= 0:
                return
