"""Images listed in a CSV or Parquet file, one row an image."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import pyarrow as pa
import pyarrow.parquet as pq

from consilia.data.listing import Entry, ImageTable, make_table, suggest
from consilia.errors import DataError
from consilia.plan.data import DataCard, TableSource

Row = tuple[int, Mapping[str, str]]  # row number, the header being row 1, and the cells by column


def list_table(card: DataCard, source: TableSource, path: Path) -> ImageTable:
    """List the rows of `<path>/<table>`; cells are text, without the white space around them.

    Raises:
        DataError: The table cannot be read, a column is absent, a cell is empty or a path leaves the images
            folder. A row that names a file that is not there ends in the quarantine like any unreadable file.
    """
    table = path / source.table
    if not table.is_file():
        raise DataError(f"Card {card.name!r}: {table} does not exist; check `path` and `source.table`.")
    images = path / source.images
    if not images.is_dir():
        raise DataError(f"Card {card.name!r}: the images folder {images} does not exist; check `source.images`.")
    columns = _columns(card, source)
    rows = _read_parquet(table) if table.suffix == ".parquet" else _read_csv(table)
    entries: list[Entry] = []
    for number, cells in rows:
        if not entries:
            _check_columns(columns, cells, table)
        entries.append(_entry(number, cells, columns, source, table))
    return make_table(card, entries, root=path, origin=table)


def _columns(card: DataCard, source: TableSource) -> dict[str, str]:
    if card.group == "patient" and source.columns.patient is None:
        raise DataError(
            f"Card {card.name!r}: `group: patient` needs `source.columns.patient`, the column that names the "
            "patient. A data set without patients must say `group: none`."
        )
    if card.group == "none" and source.columns.patient is not None:
        raise DataError(
            f"Card {card.name!r}: `group: none` would ignore the patient column {source.columns.patient!r}; "
            "say `group: patient`, or remove `source.columns.patient`."
        )
    return {key: name for key, name in source.columns.model_dump().items() if name is not None}


def _check_columns(columns: Mapping[str, str], cells: Mapping[str, str], table: Path) -> None:
    for key, name in columns.items():
        if name not in cells:
            raise DataError(
                f"{table} has no column {name!r}{suggest(name, cells)}; it has {list(cells)}. "
                f"Name the right one in the card: `source.columns.{key}`."
            )


def _entry(
    number: int, cells: Mapping[str, str], columns: Mapping[str, str], source: TableSource, table: Path
) -> Entry:
    value = {key: cells[name].strip() for key, name in columns.items()}
    for key in ("path", "split"):
        if value.get(key) == "":
            raise DataError(f"{table}, row {number}: column {columns[key]!r} is empty; every row must fill it.")
    relative = PurePosixPath(value["path"])
    absolute = relative.is_absolute() or PureWindowsPath(value["path"]).is_absolute()
    if absolute or ".." in relative.parts:
        raise DataError(
            f"{table}, row {number}: a path must stay below the images folder {source.images!r}, "
            f"but got {value['path']!r}."
        )
    file = PurePosixPath(source.images, relative).as_posix()
    return Entry(
        file=file,
        label=value["label"],
        patient=value.get("patient", ""),
        split=value.get("split", ""),
        row=number,
    )


def _read_csv(table: Path) -> Iterable[Row]:
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{table}, row {row}: a CSV file must be UTF-8, but byte {error.start} is not. "
            "Save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, table)
        for cells in reader:
            if not cells:
                continue  # a blank line is no row
            if len(cells) != len(header):
                raise DataError(
                    f"{table}, row {reader.line_num}: the header has {len(header)} columns, "
                    f"but this row has {len(cells)}."
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{table}, row {reader.line_num}: not a valid CSV row: {error}.") from error


def _check_header(header: Sequence[str], table: Path) -> None:
    if not header:
        raise DataError(f"{table} is empty; its first row must name the columns.")
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{table}, row 1: column {name!r} stands there twice; column names must differ.")


def _read_parquet(table: Path) -> Iterable[Row]:
    try:
        content = pq.read_table(table)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{table} is not a Parquet file that can be read: {error}.") from error
    for number, row in enumerate(content.to_pylist(), start=2):
        yield number, {name: "" if cell is None else str(cell) for name, cell in row.items()}
