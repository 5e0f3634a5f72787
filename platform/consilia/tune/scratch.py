"""A node's own folder: copies of what the driver holds, and the files of trials while they are trained here.

Each entry has a lock, which the kernel frees when its holder ends, however it ends. What nobody holds may be deleted.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

from consilia.errors import NodeFault
from consilia.tune.driver_disk import Disk, fetch_file

SCRATCH = "consilia-scratch"  # in the path of all that lies there
RAY_TRAIN = "ray-train"  # a folder there, with one of Ray Train's for each search
_COPY, _TRIALS, _LOCK = "copy-", "trials-", ".lock"
_WAIT_SECONDS = 0.2  # between two looks whether a neighbour has fetched a copy
_OLD_SECONDS = 24 * 3600.0  # what Ray Train wrote before is of no more use


def scratch_root() -> Path:
    """Return the folder of this node, in Python's folder for temporary files (TMPDIR); it may not exist yet."""
    return Path(tempfile.gettempdir()) / f"{SCRATCH}-{os.getuid()}"


class Scratch:
    """What a process uses of its node's folder; it lets go of it when it ends.

    Raises:
        NodeFault: The folder cannot be made, or is somebody else's.
    """

    def __init__(self) -> None:
        self.root = scratch_root()
        self._held: list[int] = []  # descriptors of locks
        self._copies: dict[str, Path] = {}  # that this process uses, by digest
        try:
            self.root.mkdir(exist_ok=True)
            is_ours = self.root.lstat().st_uid == os.getuid() and not self.root.is_symlink()
            if is_ours:
                self.root.chmod(0o700)  # it holds images of patients
        except OSError as error:
            raise NodeFault(f"nothing can be written to {self.root.parent}: {error}") from error
        if not is_ours:
            raise NodeFault(f"{self.root} must be a folder of user {os.getuid()}, but is another's. Remove it.")

    def make_trials(self) -> Path:
        """Return a new folder for this process's trials; what processes that have died left behind is deleted."""
        for lock in self.root.glob(f"{_TRIALS}*{_LOCK}"):
            _delete_unheld(lock, with_lock=True)
        trials = self._make_trials()
        for folder in self.root.glob(f"{RAY_TRAIN}/*"):
            if trials.stat().st_mtime - folder.stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        return trials

    def _make_trials(self) -> Path:
        while True:
            folder = self.root / f"{_TRIALS}{uuid4().hex[:12]}"
            descriptor = _open(_lock_of(folder))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _lock_of(folder).exists():  # else another process took the new lock for a dead one's
                self._held.append(descriptor)
                folder.mkdir()
                return folder
            os.close(descriptor)

    def copy(
        self, digest: str, files: Mapping[str, tuple[Path, int]], disk: Disk, *, alive: Callable[[], object]
    ) -> Path:
        """Return this node's copy of files of the driver's; the first process that needs it fetches it for all.

        Copies that no process uses any more are deleted before another is fetched.

        Args:
            digest: Of what the files hold.
            files: By their names in the copy: path on the driver's node, and bytes.
            disk: The driver's.
            alive: Called again and again while it is fetched.

        Raises:
            OSError: A file cannot be read there, or not be written here.
        """
        if digest in self._copies:
            return self._copies[digest]
        folder = self.root / f"{_COPY}{digest[:32]}"
        descriptor = _open(_lock_of(folder))
        try:
            self._hold_copy(folder, descriptor, lambda: _fetch(folder, files, disk, alive), alive)
        except BaseException:
            os.close(descriptor)
            raise
        self._held.append(descriptor)
        self._copies[digest] = folder
        return folder

    def _hold_copy(self, folder: Path, descriptor: int, fetch: Callable[[], None], alive: Callable[[], object]) -> None:
        """Take a share in a copy's lock; where there is no copy yet, fetch it with the lock alone."""
        while not (_try_lock(descriptor, fcntl.LOCK_SH) and folder.is_dir()):
            if _try_lock(descriptor, fcntl.LOCK_EX) and not folder.is_dir():
                for lock in self.root.glob(f"{_COPY}*{_LOCK}"):
                    if lock != _lock_of(folder):
                        _delete_unheld(lock, with_lock=False)
                fetch()
            else:
                time.sleep(_WAIT_SECONDS)
                alive()


def _fetch(folder: Path, files: Mapping[str, tuple[Path, int]], disk: Disk, alive: Callable[[], object]) -> None:
    """Make the folder, which appears complete."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died over it
    partial.mkdir()
    for name, (path, size) in files.items():
        fetch_file(disk, path, partial / name, size=size, alive=alive)
    partial.rename(folder)


def _delete_unheld(lock: Path, *, with_lock: bool) -> None:
    """Delete an entry unless a process holds it; a lock that others may be about to take stays."""
    descriptor = _open(lock)
    try:
        if _try_lock(descriptor, fcntl.LOCK_EX):
            for suffix in ("", ".partial"):
                shutil.rmtree(lock.with_suffix(suffix), ignore_errors=True)
            if with_lock:
                lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(_LOCK)


def _open(lock: Path) -> int:
    return os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock, or change the kind of the one that is held; say whether it could be had."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
