"""DICOM files below a folder, joined to a table of labels."""

from pathlib import Path

from consilia.data.listing import ImageTable
from consilia.errors import DataError
from consilia.plan.data import DataCard, DicomSource


def list_dicom(card: DataCard, source: DicomSource, path: Path) -> ImageTable:
    """List the images of `<path>/<images>` that the rows of `<path>/<table>` name.

    Raises:
        DataError: Not built yet.
    """
    raise DataError(f"Card {card.name!r}: {source.kind} sources in {path} cannot be listed yet.")
