"""From a card to the checked list of its images, and from the list to blocks to decode."""

from collections.abc import Iterator
from pathlib import Path

from consilia.config.card import DataCard, DicomSource, FolderSource, NpzSource, TableSource
from consilia.data.decode.block import Block
from consilia.data.sources.dicom import list_dicom
from consilia.data.sources.folder import list_folder
from consilia.data.sources.listing import ImageTable
from consilia.data.sources.npz import list_npz, read_blocks
from consilia.data.sources.table import list_table
from consilia.errors import DataError


def list_images(card: DataCard) -> ImageTable:
    """List the images that `card` describes, with checked labels, patients and splits; no pixel is decoded.

    Labels and patients are compared as text, so patient "007" stays "007". The order is that of the table or
    archive; of folders, that of the sorted names.

    Raises:
        DataError: The data is not where the card says, or a file, row, column or class cannot be used.
    """
    path = _locate(card)
    match card.source:
        case FolderSource() as source:
            return list_folder(card, source, path)
        case TableSource() as source:
            return list_table(card, source, path)
        case DicomSource() as source:
            return list_dicom(card, source, path)
        case NpzSource() as source:
            return list_npz(card, source, path)


def list_blocks(table: ImageTable, *, rows: int, start: int = 0) -> Iterator[Block]:
    """Yield the images of a list as blocks to decode, in its order.

    Args:
        table: The images.
        rows: Images in a block, at most.
        start: Number of listed images that are decoded already: a sum of the first blocks' lengths.
    """
    if not table.archive:
        for first in range(start, len(table), rows):
            files, frames = table.files[first : first + rows], table.frames[first : first + rows]
            yield tuple((table.root / file, frame) for file, frame in zip(files, frames, strict=True))
        return
    seen = 0
    for block in read_blocks(table.root, rows=rows):
        if seen >= start:
            yield block
        seen += len(block)


def _locate(card: DataCard) -> Path:
    origin = f"\nThe data: {card.homepage}" if card.homepage else ""
    setting = _setting(card)
    if card.path is None:
        raise DataError(f"Card {card.name!r} has no path yet.{origin}\n{setting}")
    path = Path(card.path).expanduser()
    if isinstance(card.source, NpzSource) and path.is_dir():
        sized = path / f"{Path(card.source.file).stem}_{card.size}.npz"  # as MedMNIST names its larger editions
        path = sized if sized.is_file() else path / card.source.file
    if not path.exists():
        raise DataError(f"Card {card.name!r}: {path} does not exist.{origin}\n{setting}")
    if path.is_file() != isinstance(card.source, NpzSource):
        kind = "a file" if path.is_file() else "a folder"
        raise DataError(f"Card {card.name!r}: {path} is {kind}. {setting}")
    return path.resolve()


def _setting(card: DataCard) -> str:
    match card.source:
        case NpzSource(file=file):
            what, value = f"the file {file}", "FILE"
        case TableSource(table=table) | DicomSource(table=table):
            what, value = f"the folder that holds {table}", "DIR"
        case FolderSource():
            what, value = "the folder that holds one folder per class", "DIR"
    return f"Say where {what} lies: --set path={value} (in a study: --set data.path={value})."
