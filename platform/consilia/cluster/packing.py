"""The one archive that travels with a job: its study, and a small folder of data."""

import os
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from consilia.errors import UserError

STUDY_FILE = "consilia-study.yaml"
# A dashboard takes requests below this size. Source: DASHBOARD_CLIENT_MAX_SIZE of Ray 2.60, which no setting changes.
LIMIT_BYTES = 100 * 2**20


def pack(archive: Path, study: str, folder: Path | None, *, limit: int = LIMIT_BYTES) -> None:
    """Write a study, and a folder's files under their own names, to a ZIP archive.

    Equal content gives an equal archive, which the cluster then has already. Hidden folders stay behind. Nothing is
    compressed: images are, and a folder's size then says whether it can travel.

    Args:
        archive: To be written.
        study: Content of the study file.
        folder: Its files travel too; None: the study alone.
        limit: Size in bytes that the archive must stay below.

    Raises:
        UserError: The folder is too large; says how large it is.
    """
    files = [] if folder is None else list(_walk(folder))
    _check(folder, sum(file.stat().st_size for file in files), limit)
    with ZipFile(archive, "w", strict_timestamps=False) as packed:
        entry = ZipInfo(STUDY_FILE)  # of a fixed time
        entry.external_attr = 0o600 << 16
        packed.writestr(entry, study)
        for file in files:
            packed.write(file, file.relative_to(folder or file))
    _check(folder, archive.stat().st_size, limit)


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if Path(place, name) != folder / STUDY_FILE)


def _check(folder: Path | None, n_bytes: int, limit: int) -> None:
    if n_bytes >= limit:
        raise UserError(
            f"--working-dir {folder} holds {n_bytes / 2**20:,.0f} MiB, but a job can carry less than "
            f"{limit / 2**20:,.0f} MiB. Copy the data to a disk that all nodes share, and let data.path name it there."
        )
