"""Images listed in a CSV or Parquet file, one row an image."""

from pathlib import Path

from consilia.config.card import DataCard, TableSource
from consilia.data.sources.file_facts import check_patient_source, complete
from consilia.data.sources.label_table import LabelledRow, read_labels, stay_below
from consilia.data.sources.listing import Entry, ImageTable, make_table
from consilia.errors import DataError


def list_table(card: DataCard, source: TableSource, path: Path) -> ImageTable:
    """List the rows of `<path>/<table>` that the card selects.

    Raises:
        DataError: The table cannot be read, a column is absent, a cell is empty, `where` or `map` does not fit it, or
            a path leaves the images folder. A missing file is not an error here: it is quarantined like any
            unreadable file.
    """
    table = path / source.table
    if not table.is_file():
        raise DataError(f"Card {card.name!r}: {table} does not exist; check `path` and `source.table`.")
    images = path / source.images
    if not images.is_dir():
        raise DataError(f"Card {card.name!r}: the images folder {images} does not exist; check `source.images`.")
    check_patient_source(card, column=source.columns.patient, tag=source.patient_tag)
    columns = {meaning: name for meaning, name in source.columns.model_dump().items() if name is not None}
    labels = read_labels(source, table, columns, key="path")
    listed = [_entry(row, source, table) for row in labels.rows]
    entries, unreadable = complete(
        listed, root=path, origin=table, patient_tag=source.patient_tag, each_frame=card.frames == "each"
    )
    return make_table(
        card,
        entries,
        root=path,
        origin=table,
        classes=card.classes or labels.classes,
        left_out=labels.left_out,
        unreadable=unreadable,
    )


def _entry(row: LabelledRow, source: TableSource, table: Path) -> Entry:
    return Entry(
        file=stay_below(source.images, row.key, row=row.number, table=table),
        label=row.label,
        patient=row.patient,
        split=row.split,
        row=row.number,
        extra=row.extra,
    )
