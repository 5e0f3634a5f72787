"""A table of labels: its rows as text, those that the card selects, and their labels as class names."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from consilia.config.card import LabelTable
from consilia.data.sources.listing import LeftOut, suggest
from consilia.data.sources.where import select_rows, written
from consilia.errors import DataError

Row = tuple[int, Mapping[str, str]]  # row number, the header being row 1, and the cells by column


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRow:
    """A row of the table, by the meaning of its columns."""

    number: int  # the header being row 1
    key: str  # the path, or another identifier of images
    label: str  # after the card's `map`
    patient: str  # "" where no column names it
    split: str  # "" where no column names it
    extra: Mapping[str, str]  # columns without a meaning of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRows:
    """The rows of a table as a card reads them."""

    rows: tuple[LabelledRow, ...]
    excluded: frozenset[str]  # keys of rows that `where` leaves out
    left_out: tuple[LeftOut, ...]
    classes: tuple[str, ...] | None  # in the order of `map`; None without one


def read_labels(source: LabelTable, table: Path, columns: Mapping[str, str], *, key: str) -> LabelRows:
    """Read a table; cells are text, without the white space around them.

    Args:
        source: Selects rows and maps labels.
        table: CSV (UTF-8, commas) or Parquet.
        columns: Names of the table's columns by meaning: `key`, "label" and, where there are any, "patient", "split".
        key: The meaning, among `columns`, of what names the image.

    Raises:
        DataError: The table cannot be read, a column is absent, a path or split is empty, `where` cannot be used, or
            a label is not one of `map`.
    """
    rows = read_rows(table)
    if rows:
        _check_columns(columns, rows[0][1], table)
    selected, left_out = _select(rows, source, table)
    kept = {number for number, _ in selected}
    return LabelRows(
        rows=tuple(_labelled(number, cells, columns, source, key=key, table=table) for number, cells in selected),
        excluded=frozenset(cells[columns[key]] for number, cells in rows if number not in kept),
        left_out=left_out,
        classes=tuple(dict.fromkeys(source.map.values())) if source.map else None,
    )


def read_rows(table: Path) -> list[Row]:
    """Read a CSV (UTF-8, commas) or Parquet file as text.

    Raises:
        DataError: It cannot be read; names the row.
    """
    return list(_read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table))


def stay_below(folder: str, path: str, *, row: int, table: Path) -> str:
    """Return a row's path with `folder` before it, both below the card's path.

    Raises:
        DataError: The path is absolute, or leaves the folder.
    """
    relative = PurePosixPath(path)
    absolute = relative.is_absolute() or PureWindowsPath(path).is_absolute()
    if absolute or ".." in relative.parts:
        raise DataError(f"{table}, row {row}: a path must stay below the images folder {folder!r}, but got {path!r}.")
    return PurePosixPath(folder, relative).as_posix()


def _check_columns(columns: Mapping[str, str], cells: Mapping[str, str], table: Path) -> None:
    for meaning, name in columns.items():
        if name not in cells:
            raise DataError(
                f"{table} has no column {name!r}{suggest(name, cells)}; it has {list(cells)}. "
                f"Name the right one in the card: `source.columns.{meaning}`."
            )


def _select(rows: list[Row], source: LabelTable, table: Path) -> tuple[list[Row], tuple[LeftOut, ...]]:
    if source.where is None or not rows:
        return rows, ()
    numbers = [number for number, _ in rows]
    chosen = select_rows([cells for _, cells in rows], source.where, origin=table, numbers=numbers)
    selected = [row for row, choice in zip(rows, chosen.tolist(), strict=True) if choice]
    count = len(rows) - len(selected)
    return selected, (LeftOut(reason=f"where: {written(source.where)}", count=count),) if count else ()


def _labelled(
    number: int, cells: Mapping[str, str], columns: Mapping[str, str], source: LabelTable, *, key: str, table: Path
) -> LabelledRow:
    value = {meaning: cells[name] for meaning, name in columns.items()}
    for meaning in (key, "split"):
        if value.get(meaning) == "":
            raise DataError(f"{table}, row {number}: column {columns[meaning]!r} is empty; every row must fill it.")
    label = value["label"]
    if source.map is not None and label:
        if label not in source.map:
            raise DataError(
                f"{table}, row {number}: the card's `map` does not name label {label!r}{suggest(label, source.map)}; "
                f"it names {list(source.map)}. Add it, or leave such rows out with `where`."
            )
        label = source.map[label]
    meant = set(columns.values())
    return LabelledRow(
        number=number,
        key=value[key],
        label=label,
        patient=value.get("patient", ""),
        split=value.get("split", ""),
        extra={name: cell for name, cell in cells.items() if name not in meant},
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
                continue  # a blank line is not a row
            if len(cells) != len(header):
                raise DataError(
                    f"{table}, row {reader.line_num}: the header has {len(header)} columns, "
                    f"but this row has {len(cells)}."
                )
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise DataError(f"{table}, row {reader.line_num}: not a valid CSV row: {error}.") from error


def _check_header(header: Sequence[str], table: Path) -> None:
    if not header:
        raise DataError(f"{table} is empty; its first row must name the columns.")
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{table}, row 1: column {name!r} stands there twice; the names of columns must differ.")


def _read_parquet(table: Path) -> Iterable[Row]:
    try:
        _check_header(pq.read_schema(table).names, table)
        content = pq.read_table(table)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{table} is not a Parquet file that can be read: {error}.") from error
    for number, row in enumerate(content.to_pylist(), start=2):
        yield number, {name: _text(cell) for name, cell in row.items()}


def _text(cell: Any) -> str:
    # A missing number is NaN to some writers; as text, all patients without a number would be one patient "nan".
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    return "" if missing else str(cell).strip()
