"""A folder appears under its final name complete or not at all."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from consilia.files import sync

_AT_FDCWD = -100  # Linux: paths are relative to the working directory
_RENAME_EXCHANGE = 2  # Linux: swap two names in one step


def publish_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a temporary folder beside `final`, then give it that name; an older one is replaced.

    On Linux the replacement is one step. Where the system cannot swap two folders, the older one is renamed
    away first: a crash between the two renames leaves it whole, under a name that starts with a dot.

    Args:
        final: Where the folder shall stand; its parents are made.
        fill: Receives the temporary folder. What it raises is raised on, and nothing is published.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-"))
    try:
        fill(temporary)
        temporary.chmod(0o755)  # mkdtemp gives 0700, which colleagues on a shared disk could not read
        for path in sorted(temporary.rglob("*")):
            sync(path)
        sync(temporary)
        _replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the older folder, after a swap
    sync(final.parent)


def _replace(new: Path, final: Path) -> None:
    if not final.exists():
        new.rename(final)
    elif not _exchange(new, final):
        older = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-"))
        final.rename(older)
        new.rename(final)
        shutil.rmtree(older, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders' names in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
