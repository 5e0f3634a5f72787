"""What listing must know of image files before any is decoded: their DICOM tags, and how many frames they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from consilia.data.decode.reader import count_frames
from consilia.data.dicom.tags import is_dicom, read_tags
from consilia.data.sources.each_file import Unreadable, read_each
from consilia.data.sources.listing import Entry, Quarantined
from consilia.errors import DataError


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
    """Add what only the files know: their patients, and the frames that each become an image.

    Args:
        entries: As the source lists them, one a file.
        root: What their files are relative to.
        origin: What errors point at.
        patient_tag: DICOM keyword that names the patient; None: the entries name it, or nobody.
        each_frame: Whether each frame of a file is an image.

    Returns:
        The entries of readable files, and the other files.

    Raises:
        DataError: A file is no DICOM file or lacks the tag, so that its patient is unknown.
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
        DataError: The tag is absent: all such files would else be one patient, or each its own.
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


def _refuse_foreign(path: Path, patient_tag: str, at: str) -> None:
    if path.is_file() and path.stat().st_size and not is_dicom(path):
        raise DataError(
            f"{at}: `patient_tag: {patient_tag}` needs DICOM files, and this is none. Name the patient in a column of "
            "a table (`source.columns.patient`), or take the file out."
        )
