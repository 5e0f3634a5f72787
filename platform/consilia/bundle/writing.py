"""Writing a bundle: the folder appears under its final name complete or not at all."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from consilia.bundle.array_files import OOD, SEEN, SETS, Fingerprints, OodReference, write_ood, write_seen, write_sets
from consilia.bundle.card import model_card
from consilia.bundle.document import BundleDocument, FileRecord
from consilia.bundle.evaluation import Evaluation, with_test
from consilia.bundle.golden import GOLDEN, GoldenOutputs, write_golden
from consilia.bundle.reading import CARD, DOCUMENT, read_bundle
from consilia.decision.sets import CalibrationScores
from consilia.files import sha256_of_file, sync, write_json, write_text

_AT_FDCWD = -100  # Linux: paths are relative to the working directory
_RENAME_EXCHANGE = 2  # Linux: swap two names in one step


def write_bundle(
    final: Path,
    document: BundleDocument,
    weights: Mapping[str, Path],
    *,
    golden: GoldenOutputs,
    seen: Fingerprints,
    sets: CalibrationScores | None,
    ood: OodReference | None,
) -> None:
    """Write a bundle to a temporary folder and publish it as `final`, in place of an older one.

    Args:
        final: Folder of the bundle.
        document: Complete but for `files` and `environment`, which are filled in here.
        weights: Where each network's safetensors file lies now, by its name in the bundle.
        golden: What the ensemble says of the golden inputs.
        seen: Of the images that the networks were trained on.
        sets: The calibration of the prediction sets; None: the ensemble gives none.
        ood: What usual images look like; None: nothing to compare images with.
    """

    def fill(folder: Path) -> None:
        for name, source in weights.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        write_golden(folder / GOLDEN, golden)
        write_seen(folder / SEEN, seen)
        if sets is not None:
            write_sets(folder / SETS, sets)
        if ood is not None:
            write_ood(folder / OOD, ood)
        _finish(folder, document.model_copy(update={"environment": dict(golden.environment)}))

    publish_folder(final, fill)


def record_evaluation(bundle: Path, evaluation: Evaluation) -> None:
    """Add an evaluation to a bundle, its card and its hashes, in one step; one of the same split is replaced.

    Raises:
        BundleError: The bundle is not intact.
    """
    document = read_bundle(bundle)
    others = tuple(old for old in document.evaluations if old.split != evaluation.split)
    honesty = with_test(document.honesty, evaluation) if evaluation.split == "test" else document.honesty
    changed = document.model_copy(update={"evaluations": (*others, evaluation), "honesty": honesty})

    def fill(folder: Path) -> None:
        for name in document.files:
            if name != CARD:
                _link(bundle / name, folder / name)
        _finish(folder, changed)

    publish_folder(bundle, fill)


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


def _finish(folder: Path, document: BundleDocument) -> None:
    """Write the card and `ensemble.json`, with the size and hash of every other file."""
    write_text(folder / CARD, model_card(document))
    files = {
        path.relative_to(folder).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=sha256_of_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DOCUMENT
    }
    complete = BundleDocument.model_validate(document.model_copy(update={"files": files}).model_dump())
    write_json(folder / DOCUMENT, {**complete.model_dump(mode="json"), "digest": complete.digest})


def _link(source: Path, target: Path) -> None:
    """Give a file of the bundle a second name; copy it where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
