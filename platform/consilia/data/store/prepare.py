"""From a card to an image store: decode every image once, and publish the result in one step."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np

from consilia.config.card import DataCard
from consilia.data.decode.process import is_plain
from consilia.data.decode.workers import DecodeWorkers, LocalWorkers, block_length, decode_blocks
from consilia.data.sources.card import list_blocks, list_images
from consilia.data.sources.listing import ImageTable, Quarantined, check_classes
from consilia.data.store.image_store import INDEX, MANIFEST, PIXELS, ImageStore, Manifest, content_digest
from consilia.data.store.index import make_index
from consilia.data.store.key import pixels_key, store_key
from consilia.data.store.partial import PartialStore
from consilia.errors import DataError, RunError
from consilia.files import sync, write_json

Progress = Callable[[int, int], None]  # images done, images in all
OpenWorkers = Callable[[], AbstractContextManager[DecodeWorkers]]

_PARTIAL = ".partial-"
_IN_PROCESS = 512  # fewer images are decoded before worker processes would have started


class Shared(Protocol):
    """Where other machines leave the stores that they have made, and find ours."""

    def fetch(self, note: str, root: Path) -> None:
        """Bring the store that the note names below `root`, and the note; nothing where there is no such note."""

    def publish(self, note: str, store: Path) -> None:
        """Give others a store and the note beside it, unless they have them."""


class InterruptedPrepareError(RunError):
    """The user stopped the prepare; what was decoded is kept."""

    exit_code = 130  # as shells report Ctrl-C


def prepare(
    card: DataCard,
    *,
    root: Path,
    progress: Progress | None = None,
    workers: OpenWorkers | None = None,
    shared: Shared | None = None,
    free_space: Callable[[Path], int] | None = None,
) -> ImageStore:
    """Decode the images of `card` into a store below `root`, or open the store that holds them already.

    The folder is named after its content, `<card name>-<digest[:16]>`, and appears in one step, complete.
    A second call for unchanged files decodes nothing, and a call after one that was interrupted, even by a power cut,
    decodes only what is missing. Files that cannot be read are quarantined, including those that crash or hang
    their decoder: the manifest lists them with the reason.

    Args:
        card: The data set.
        root: Folder of all stores; made if it is missing. One prepare at a time works in it, others wait.
        progress: Called with the number of images that are done and the number in all; first, with those that an
            earlier call has done.
        workers: Starts what decodes, and does not change the result. Default: one process a CPU; a few PNG or JPEG
            files are decoded in this process.
        shared: Asked before anything is decoded, and given what was decoded.
        free_space: Bytes free at a folder; replaced in tests.

    Raises:
        DataError: The data cannot be used, more than `card.max_bad` of its files cannot be read, a class has
            no readable image, or the disk is too full.
        InterruptedPrepareError: Ctrl-C.
        RunError: Decoding processes cannot be started.
    """
    table = list_images(card)
    root.mkdir(parents=True, exist_ok=True)
    pixels = pixels_key(card, table)
    note = root / ".known" / f"{store_key(card, table, pixels)}.json"
    with _alone(root):
        name = note.relative_to(root).as_posix()
        store = _open_known(root, note)
        if store is None and shared is not None:
            shared.fetch(name, root)
            store = _open_known(root, note)
        if store is None:
            check = free_space or _free_space
            store = _make(card, table, root, pixels=pixels, progress=progress, workers=workers, free_space=check)
            write_json(note, {"store": store.folder.name})
        if shared is not None:
            shared.publish(name, store.folder)
        return store


def _make(
    card: DataCard,
    table: ImageTable,
    root: Path,
    *,
    pixels: str,
    progress: Progress | None,
    workers: OpenWorkers | None,
    free_space: Callable[[Path], int],
) -> ImageStore:
    """Decode what an earlier call has not, and publish the store; `pixels` is the key of its unfinished folder."""
    folder = root / f"{_PARTIAL}{card.name}-{pixels[:32]}"
    _drop_dead(root, card, folder)
    _check_space(card, table, folder, free_space)
    with PartialStore(folder, (card.size, card.size, card.channels)) as partial:
        _decode_rest(card, table, partial, workers or _default_workers(table), progress)
        manifest = _complete(card, table, partial)
        partial.drop_journal()
    published = _publish(folder, root / f"{card.name}-{manifest.digest[:16]}")
    return ImageStore.open(published)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the root's lock, which the system frees when its holder dies."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _open_known(root: Path, note: Path) -> ImageStore | None:
    try:
        return ImageStore.open(root / json.loads(note.read_text(encoding="utf-8"))["store"])
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None  # no note, or the store it names is missing or damaged; the store is written again


def _drop_dead(root: Path, card: DataCard, folder: Path) -> None:
    """Remove what no call will continue: this card's unfinished stores of other files or another reading.

    Those of other cards are kept, since the same command may go on with them.
    """
    for other in root.glob(f"{_PARTIAL}*"):
        owner, _, key = other.name.removeprefix(_PARTIAL).rpartition("-")
        if other != folder and (owner == card.name or len(key) != 32):
            shutil.rmtree(other, ignore_errors=True)


def _free_space(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _check_space(card: DataCard, table: ImageTable, folder: Path, free_space: Callable[[Path], int]) -> None:
    root = folder.parent
    held = (folder / PIXELS).stat().st_size if (folder / PIXELS).exists() else 0
    # 512: a row of the index and its line of the journal, generously
    need = len(table) * (card.size**2 * card.channels + 512) - held
    free = free_space(root)
    if free < need:
        others = [other for other in sorted(root.glob(f"{_PARTIAL}*")) if other != folder]
        unfinished = f" Unfinished stores, which may be deleted: {', '.join(map(str, others))}." if others else ""
        raise DataError(
            f"{root}: the store of {len(table)} images of {card.size} x {card.size} x {card.channels} needs "
            f"{need / 1e6:,.1f} MB, but {free / 1e6:,.1f} MB are free. Free some, or lower the card's `size`."
            f"{unfinished}"
        )


def _default_workers(table: ImageTable) -> OpenWorkers | None:
    # A crash of a decoder would end this process. PNG and JPEG decoders are in every browser and are trusted, so that
    # a small set of such files does not wait for processes to start; DICOM and other decoders never run here.
    if len(table) < _IN_PROCESS and all(is_plain(table.root / file) for file in table.files):
        return None
    return lambda: LocalWorkers(joblib.cpu_count())


def _decode_rest(
    card: DataCard, table: ImageTable, partial: PartialStore, workers: OpenWorkers | None, progress: Progress | None
) -> None:
    """Append what is missing; the blocks so far are kept even if an error ends this."""
    tell = progress or (lambda done, total: None)
    if partial.n_listed == len(table):
        return
    try:
        tell(partial.n_listed, len(table))
        # An archive is read in this process, so no process is started, and no cluster is joined, for it.
        with workers() if workers is not None and not table.archive else nullcontext() as opened:
            blocks = list_blocks(table, rows=block_length(card.reading), start=partial.n_listed)
            for part in decode_blocks(blocks, card.reading, workers=opened):
                partial.append(part)
                tell(partial.n_listed, len(table))
    except KeyboardInterrupt as interrupt:
        partial.sync()
        raise InterruptedPrepareError(
            f"Stopped with {partial.n_listed:,} of {len(table):,} images decoded. They are kept in {partial.folder}; "
            "the same command goes on where this one stopped."
        ) from interrupt


def _complete(card: DataCard, table: ImageTable, partial: PartialStore) -> Manifest:
    """Write index and manifest beside the pixels."""
    quarantine = _quarantine(table, partial)
    _check_quarantine(card, table, quarantine, partial)
    partial.finish()
    index = make_index(table, partial.records())
    origin = f"Card {card.name!r}, without its {len(quarantine)} unreadable files"
    check_classes(index["label"].to_numpy(np.int64), index["split"].tolist(), table.classes, origin=origin)
    index.to_parquet(partial.folder / INDEX, index=False)
    sync(partial.folder / INDEX)
    manifest = Manifest(
        card=card.name,
        classes=table.classes,
        reading=card.reading,
        kinds=tuple(sorted(set(index["kind"]))),
        n_images=len(index),
        digest=content_digest(index, classes=table.classes, reading=card.reading),
        has_patients=table.has_patients,
        left_out=table.left_out,
        quarantine=quarantine,
    )
    manifest.write(partial.folder / MANIFEST)
    return manifest


def _quarantine(table: ImageTable, partial: PartialStore) -> tuple[Quarantined, ...]:
    quarantine = list(table.unreadable)
    start = 0
    for record in partial.records() if partial.n_failed else ():
        quarantine.extend(Quarantined(file=table.files[start + i], reason=why) for i, why in record.failures)
        start += record.n_listed
    return tuple(quarantine)


def _check_quarantine(
    card: DataCard, table: ImageTable, quarantine: tuple[Quarantined, ...], partial: PartialStore
) -> None:
    n_files = len(table) + len(table.unreadable)
    if len(quarantine) > card.max_bad * n_files:
        listed = "\n".join(f"  {bad.reason}" for bad in quarantine[:50])
        more = f"\n  ... and {len(quarantine) - 50} more" if len(quarantine) > 50 else ""
        raise DataError(
            f"{len(quarantine)} of {n_files} images of card {card.name!r} cannot be read, above the "
            f"{card.max_bad:.1%} that `max_bad` allows:\n{listed}{more}\n"
            "Repair or remove them, or allow more: --set max_bad=SHARE (in a study: data.max_bad).\n"
            f"What was decoded is kept; delete {partial.folder} to try every file again."
        )


def _publish(partial: Path, folder: Path) -> Path:
    """Give the finished store its name; equal content keeps its pixels and takes the new file names."""
    partial.chmod(0o755)
    sync(partial)
    try:
        ImageStore.open(folder)
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    else:
        for name in (INDEX, MANIFEST):
            (partial / name).replace(folder / name)
        shutil.rmtree(partial)
    sync(folder.parent)
    return folder
