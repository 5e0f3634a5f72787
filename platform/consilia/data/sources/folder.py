"""Images in one folder per class, with or without a folder per split above."""

from collections.abc import Iterator
from pathlib import Path

from consilia.config.card import DataCard, FolderSource
from consilia.data.sources.file_facts import check_patient_source, complete
from consilia.data.sources.listing import SPLITS, Entry, ImageTable, make_table, suggest
from consilia.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom")


def list_folder(card: DataCard, source: FolderSource, path: Path) -> ImageTable:
    """List `<path>/<class>/<image>`, or `<path>/<split>/<class>/<image>` where `<path>/train` exists.

    Every file of a class folder counts as an image, so that one of another type is quarantined, not forgotten. Only
    names that start with a dot are skipped.

    Raises:
        DataError: The card asks for patients, which neither folders nor files other than DICOM can name; or the
            folders are not laid out in this way.
    """
    if card.group == "patient" and source.patient_tag is None:
        raise DataError(
            f"Card {card.name!r}: folders name no patients, so its card must say `group: none`. With patients, "
            "describe the images in a table (`source: {kind: table}`), or, if they are DICOM files, say "
            "`source: {kind: folder, patient_tag: PatientID}`."
        )
    check_patient_source(card, column=None, tag=source.patient_tag)
    listed: list[Entry] = []
    if (path / "train").is_dir():
        for folder in _folders(path):
            if folder.name not in SPLITS:
                raise DataError(
                    f"{folder}: beside the folder train, folders must be named val or test, "
                    f"but got {folder.name!r}{suggest(folder.name, SPLITS)}."
                )
            listed.extend(_classes(path, folder, split=folder.name))
    else:
        listed.extend(_classes(path, path, split=""))
    entries, unreadable = complete(
        listed, root=path, origin=path, patient_tag=source.patient_tag, each_frame=card.frames == "each"
    )
    return make_table(card, entries, root=path, origin=path, unreadable=unreadable)


def _classes(root: Path, parent: Path, *, split: str) -> Iterator[Entry]:
    for folder in _folders(parent):
        files = _visible(folder)
        if not files:
            raise DataError(f"{folder}: the folder of class {folder.name!r} is empty; fill it or remove it.")
        for file in files:
            if file.is_dir():
                raise DataError(f"{file}: images must lie directly in the folder of their class, but this is a folder.")
            yield Entry(file=file.relative_to(root).as_posix(), label=folder.name, split=split)


def _folders(parent: Path) -> list[Path]:
    children = _visible(parent)
    for child in children:
        if child.suffix.lower() in IMAGE_SUFFIXES and child.is_file():
            raise DataError(f"{child}: an image must lie in the folder of its class, not beside the folders.")
    return [child for child in children if child.is_dir()]


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
