"""From a card to an image store: decode every image once, and publish the result in one step."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL

from consilia.data.decode import ImageFacts, decode
from consilia.data.index import make_index
from consilia.data.listing import ImageTable, check_classes
from consilia.data.pixel_file import PixelFile
from consilia.data.sources import list_images
from consilia.data.store import (
    INDEX,
    MANIFEST,
    PIXELS,
    SCHEMA_VERSION,
    ImageStore,
    Manifest,
    Quarantined,
    content_digest,
)
from consilia.errors import DataError
from consilia.files import sha256_of_json, sync, write_json
from consilia.plan.data import DataCard

Progress = Callable[[int, int], None]  # images done, images in all

_PARTIAL = ".partial-"
_IN_PROCESS = 512  # fewer images are decoded before worker processes would have started


def prepare(
    card: DataCard,
    *,
    root: Path,
    progress: Progress | None = None,
    workers: int | None = None,
    free_space: Callable[[Path], int] | None = None,
) -> ImageStore:
    """Decode the images of `card` into a store below `root`, or open the store that holds them already.

    The folder is named after its content, `<card name>-<digest[:16]>`, and appears in one step, complete.
    A second call for unchanged files decodes nothing. Files that cannot be read are quarantined: the manifest
    lists them with the reason.

    Args:
        card: The data set.
        root: Folder of all stores; made if need be. One prepare at a time works in it, others wait.
        progress: Told how many images are done, and how many there are.
        workers: Decoding processes, which do not change the result. Default: one a CPU, one for few images.
        free_space: Bytes free at a folder; replaced in tests.

    Raises:
        DataError: The data cannot be used, more than `card.max_bad` of its files cannot be read, a class has
            no readable image, or the disk is too full.
    """
    table = list_images(card)
    root.mkdir(parents=True, exist_ok=True)
    note = root / ".known" / f"{_key(card, table)}.json"
    with _alone(root):
        known = _open_known(root, note)
        if known is not None:
            return known
        _check_space(card, table, root, free_space or _free_space)
        partial = Path(tempfile.mkdtemp(dir=root, prefix=_PARTIAL))
        try:
            manifest = _write_store(card, table, partial, progress, workers or _default_workers(len(table)))
            folder = _publish(partial, root / f"{card.name}-{manifest.digest[:16]}")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        write_json(note, {"store": folder.name})
        return ImageStore.open(folder)


def _key(card: DataCard, table: ImageTable) -> str:
    """Digest of all that decides the store, read from the file system without opening an image."""
    files = [table.root] if table.archive else [table.root / file for file in table.files]
    return sha256_of_json(
        {
            "schema": SCHEMA_VERSION,
            "pillow": PIL.__version__,
            "card": [
                card.name,
                card.reading.model_dump(mode="json"),
                card.max_bad,
                table.has_patients,
                list(table.classes),
            ],
            "rows": [
                *(list(table.files), list(table.frames), table.labels.tolist()),
                *(list(table.patients), list(table.splits), {name: list(cells) for name, cells in table.extra.items()}),
            ],
            "files": [_state(file) for file in files],
        }
    )


def _state(file: Path) -> list[str | int]:
    try:
        status = file.stat()
    except OSError:
        return [str(file)]
    return [str(file), status.st_size, status.st_mtime_ns]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the root's lock, which the system frees when its holder dies; what is partial now is dead."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for dead in root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(dead, ignore_errors=True)
        yield


def _open_known(root: Path, note: Path) -> ImageStore | None:
    try:
        return ImageStore.open(root / json.loads(note.read_text(encoding="utf-8"))["store"])
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None  # no note, or the store it names is gone or damaged: it is written again


def _free_space(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _check_space(card: DataCard, table: ImageTable, root: Path, free_space: Callable[[Path], int]) -> None:
    need = len(table) * (card.size**2 * card.channels + 512)  # 512: a row of the index, generously
    free = free_space(root)
    if free < need:
        raise DataError(
            f"{root}: the store of {len(table)} images of {card.size} x {card.size} x {card.channels} needs "
            f"{need / 1e6:,.1f} MB, but {free / 1e6:,.1f} MB are free. Free some, or lower the card's `size`."
        )


def _default_workers(n_images: int) -> int:
    if n_images < _IN_PROCESS:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_store(card: DataCard, table: ImageTable, folder: Path, progress: Progress | None, workers: int) -> Manifest:
    rows: list[int] = []
    facts: list[ImageFacts] = []
    quarantine: list[Quarantined] = []
    done = 0
    with PixelFile(folder / PIXELS, (card.size, card.size, card.channels)) as pixels:
        for part in decode(table, card.reading, workers=workers):
            pixels.append(part.pixels)
            rows.extend(done + each.position for each in part.facts)
            facts.extend(part.facts)
            quarantine.extend(Quarantined(file=table.files[done + i], reason=why) for i, why in part.failures)
            done += part.n_listed
            if progress is not None:
                progress(done, len(table))
    _check_quarantine(card, table, quarantine, rows)
    index = make_index(table, rows, facts)
    index.to_parquet(folder / INDEX, index=False)
    sync(folder / INDEX)
    manifest = Manifest(
        card=card.name,
        classes=table.classes,
        reading=card.reading,
        kinds=tuple(sorted(set(index["kind"]))),
        n_images=len(index),
        digest=content_digest(index, classes=table.classes, reading=card.reading),
        has_patients=table.has_patients,
        left_out=table.left_out,
        quarantine=tuple(quarantine),
    )
    manifest.write(folder / MANIFEST)
    return manifest


def _check_quarantine(card: DataCard, table: ImageTable, quarantine: list[Quarantined], rows: list[int]) -> None:
    if len(quarantine) > card.max_bad * len(table):
        listed = "\n".join(f"  {bad.reason}" for bad in quarantine[:50])
        more = f"\n  ... and {len(quarantine) - 50} more" if len(quarantine) > 50 else ""
        raise DataError(
            f"{len(quarantine)} of {len(table)} images of card {card.name!r} cannot be read, above the "
            f"{card.max_bad:.1%} that `max_bad` allows:\n{listed}{more}\n"
            "Repair or remove them, or allow more: --set max_bad=SHARE (in a study: data.max_bad)."
        )
    origin = f"Card {card.name!r}, without its {len(quarantine)} unreadable files"
    check_classes(table.labels[rows], [table.splits[row] for row in rows], table.classes, origin=origin)


def _publish(partial: Path, folder: Path) -> Path:
    """Give the finished store its name; equal content keeps its pixels and takes the new file names."""
    partial.chmod(0o755)  # mkdtemp gives 0700, which colleagues on a shared disk could not enter
    sync(partial)
    try:
        ImageStore.open(folder)
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    else:
        for name in (INDEX, MANIFEST):
            (partial / name).replace(folder / name)
    sync(folder.parent)
    return folder
