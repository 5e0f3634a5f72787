"""A full disk ends no trial: it waits at its last checkpoint, and somebody must make room."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consilia.errors import RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(RunError):
    """A file could not be written for want of room or quota; names it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that a full disk kept from being written; any other error passes.

    Raises:
        DiskFullError: No room is left on the disk, or none of the quota.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(
            f"the disk is full: {path} could not be written; make room there, or raise the quota, and run the study "
            f"again: it goes on where it was"
        ) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or one that led to it, is of a full disk or a full quota.

    pyarrow and json raise an OSError; torch one of its own, in whose context the OSError stands; safetensors puts the
    number into its text.
    """
    if error is None:
        return False
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _FULL):
        return True
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is not None and int(number[1]) in _FULL:
        return True
    return is_disk_full(error.__cause__ or error.__context__)
