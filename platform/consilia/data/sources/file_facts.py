"""Reads what a list of images needs to know of files before any is decoded: DICOM tags, patients and frames."""

import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import joblib

from consilia.config.card import DataCard
from consilia.data.decode.reader import count_frames
from consilia.data.dicom.header import is_dicom, read_tags
from consilia.data.sources.listing import Entry, Quarantined
from consilia.errors import DataError, ReaderError, RunError

T = TypeVar("T")

_IN_PROCESS = 512  # fewer files are read before processes would have started
_AT_ONCE = 64  # files that a process is given at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What the header of a file says."""

    tags: Mapping[str, str]  # by DICOM keyword, those that were asked for and are not empty
    n_frames: int  # 1 where it was not asked for


def read_facts(path: Path, *, tags: Sequence[str], count: bool) -> FileFacts:
    """Read some DICOM tags of a file, and count its frames.

    Args:
        path: The file; DICOM if `tags` are asked for.
        tags: DICOM keywords, of those that `read_tags` reads.
        count: Whether frames are asked for.

    Raises:
        ReaderError: The file is missing, damaged or of another type.
    """
    found = read_tags(path) if tags else {}
    return FileFacts(
        tags={name: found[name] for name in tags if name in found}, n_frames=count_frames(path) if count else 1
    )


def complete(
    entries: Sequence[Entry], *, root: Path, origin: Path, patient_tag: str | None, each_frame: bool
) -> tuple[Sequence[Entry], tuple[Quarantined, ...]]:
    """Complete entries from the headers of their files: the patients, and one entry for each frame.

    Args:
        entries: As the source lists them, one a file.
        root: What their files are relative to.
        origin: What errors point at.
        patient_tag: DICOM keyword that names the patient; None: the entries name it, or the data has no patients.
        each_frame: Whether each frame of a file is an image.

    Returns:
        The entries of readable files, and the other files.

    Raises:
        DataError: A file is not a DICOM file or lacks the tag, so that its patient is unknown.
    """
    if patient_tag is None and not each_frame:
        return entries, ()
    read = partial(read_facts, tags=(patient_tag,) if patient_tag else (), count=each_frame)
    found = read_each(read, [root / entry.file for entry in entries])
    done: list[Entry] = []
    unreadable: list[Quarantined] = []
    for entry, facts in zip(entries, found, strict=True):
        at = f"{origin}, row {entry.row} ({entry.file})" if entry.row else f"{root / entry.file}"
        if isinstance(facts, Unreadable):
            if patient_tag is not None:
                _refuse_foreign(root / entry.file, patient_tag, at)
            unreadable.append(Quarantined(file=entry.file, reason=facts.reason))
            continue
        if patient_tag is not None:
            entry = replace(entry, patient=patient_of(facts.tags, patient_tag, at))
        done.extend(by_frame(entry, facts.n_frames))
    return done, tuple(unreadable)


def patient_of(tags: Mapping[str, str], patient_tag: str, at: str) -> str:
    """Return the patient that a file's tags name.

    Args:
        tags: See `FileFacts`.
        patient_tag: DICOM keyword.
        at: The file, for the error.

    Raises:
        DataError: The tag is absent; otherwise all such files would be of one patient, or each of its own.
    """
    patient = tags.get(patient_tag, "")
    if not patient:
        raise DataError(
            f"{at}: DICOM's {patient_tag} is absent or empty, so the file's patient is unknown. Name the patient in a "
            "column of a table (`source.columns.patient`), or take the file out."
        )
    return patient


def by_frame(entry: Entry, n_frames: int) -> list[Entry]:
    """Return one entry a frame; of a file with a single one, the entry as it is."""
    return [entry] if n_frames == 1 else [replace(entry, frame=frame) for frame in range(n_frames)]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a file that could not be read."""

    reason: str  # names the file


def read_each(read: Callable[[Path], T], paths: Sequence[Path]) -> list[T | Unreadable]:
    """Return what `read` returns for each file, in the order of `paths`.

    In processes, not threads: pydicom reads headers in Python, and silencing it changes state that threads share.

    Args:
        read: A function at the top of a module, or a partial of one, since it is sent to processes; raises ReaderError.
        paths: The files.

    Raises:
        RunError: A process died.
    """
    attempt: Callable[[Path], T | Unreadable] = partial(_attempt, read)
    if len(paths) < _IN_PROCESS:
        return [attempt(path) for path in paths]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["consilia.data.decode.block"])  # the same server that decoding uses
    with ProcessPoolExecutor(
        joblib.cpu_count(), mp_context=context, initializer=_leave_interrupts_to_the_parent
    ) as pool:
        try:
            return list(pool.map(attempt, paths, chunksize=_AT_ONCE))
        except BrokenProcessPool as error:
            raise RunError(
                "A process that reads file headers died. If memory ran out, free some and try again. A script that "
                'prepares data must do so below `if __name__ == "__main__":`.'
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def check_patient_source(card: DataCard, *, column: str | None, tag: str | None) -> None:
    """Refuse a card that names no patients, names them twice, or names them and would ignore them.

    Args:
        card: Says whether images are grouped by patient.
        column: The table's column, `source.columns.patient`.
        tag: The DICOM tag, `source.patient_tag`.

    Raises:
        DataError: Says which keys of the card contradict each other.
    """
    if column is not None and tag is not None:
        raise DataError(
            f"Card {card.name!r}: patients must come from one place, but `source.columns.patient` ({column!r}) and "
            f"`source.patient_tag` ({tag}) are both set; remove one."
        )
    if card.group == "patient" and column is None and tag is None:
        raise DataError(
            f"Card {card.name!r}: `group: patient` needs `source.columns.patient`, the table's column that names the "
            "patient, or for DICOM files `source.patient_tag: PatientID`. A data set without patients must say "
            "`group: none`."
        )
    if card.group == "none" and column is not None:
        raise DataError(
            f"Card {card.name!r}: `group: none` would ignore the patient column {column!r}; "
            "say `group: patient`, or remove `source.columns.patient`."
        )
    if card.group == "none" and tag is not None:
        raise DataError(
            f"Card {card.name!r}: `group: none` would ignore the patients of the tag {tag}; "
            "say `group: patient`, or remove `source.patient_tag`."
        )


def _refuse_foreign(path: Path, patient_tag: str, at: str) -> None:
    if path.is_file() and path.stat().st_size and not is_dicom(path):
        raise DataError(
            f"{at}: `patient_tag: {patient_tag}` needs DICOM files, but this is not one. Name the patient in a column "
            "of a table (`source.columns.patient`), or take the file out."
        )


def _attempt(read: Callable[[Path], T], path: Path) -> T | Unreadable:
    try:
        return read(path)
    except ReaderError as error:
        return Unreadable(str(error))


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
