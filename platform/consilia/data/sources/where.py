"""Which rows of a table meet the conditions of a card's `where`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from consilia.config.conditions import Condition, Conditions
from consilia.data.sources.listing import suggest
from consilia.errors import DataError

Selected = npt.NDArray[np.bool_]  # (n_rows,)
_Cells = npt.NDArray[Any]  # (n_rows,) texts, or numbers with NaN for an empty cell

_SHOWN = 20  # values of a column that an error lists


def select_rows(
    rows: Sequence[Mapping[str, str]], where: Conditions, *, origin: object, numbers: Sequence[int]
) -> Selected:
    """Tell which rows meet all conditions.

    Cells are text, so patient "007" is not "7". A column is read as numbers only where a condition holds numbers; its
    empty cells are then missing, and lie in no range. Both ends of a range belong to it; texts are ordered by their
    characters, which suits dates such as "2020-01-31".

    Args:
        rows: Cells by column, all of them text; at least one row.
        where: Conditions by column.
        origin: The table, for errors.
        numbers: Row number of each row, for errors.

    Returns:
        Whether each row is selected, (n_rows,).

    Raises:
        DataError: A column does not exist, a value stands in no row, a cell that is compared with a number is not
            one, or no row is selected.
    """
    table = _Table(rows, where, origin=origin, numbers=numbers)
    met = [table.test(column, condition) for column, condition in where.items()]
    selected = np.asarray(np.logical_and.reduce(met), dtype=np.bool_)
    if not selected.any():
        raise table.error(f"no row of {len(rows)} meets all conditions")
    return selected


def written(where: Conditions) -> str:
    """Return the conditions in one line, as a card has them."""
    plain = {column: _plain(condition) for column, condition in where.items()}
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=float("inf")).strip()


class _Table:
    def __init__(
        self, rows: Sequence[Mapping[str, str]], where: Conditions, *, origin: object, numbers: Sequence[int]
    ) -> None:
        self._rows, self._where, self._origin, self._numbers = rows, where, origin, numbers

    def error(self, reason: str) -> DataError:
        return DataError(
            f"{self._origin}: `where: {written(self._where)}` cannot be used: {reason}. "
            f"The columns are {list(self._rows[0])}."
        )

    def test(self, column: str, condition: Condition) -> Selected:
        """Tell which rows meet the condition of one column."""
        if column not in self._rows[0]:
            raise self.error(f"there is no column {column!r}{suggest(column, self._rows[0])}")
        if not isinstance(condition, Mapping):
            return self._is_one_of(column, _values(condition))
        if "not" in condition:
            return ~self._is_one_of(column, _values(condition["not"]))
        return self._is_between(column, condition)

    def _is_one_of(self, column: str, values: list[Any]) -> Selected:
        cells = self._cells(column, as_numbers=not isinstance(values[0], str))
        for value in values:
            if not (cells == value).any():
                held = list(dict.fromkeys(row[column] for row in self._rows))
                more = f", ... and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
                raise self.error(
                    f"no row has {value!r} in column {column!r}{suggest(str(value), held)}, which holds "
                    f"{', '.join(map(repr, held[:_SHOWN]))}{more}"
                )
        return np.isin(cells, values)

    def _is_between(self, column: str, ends: Mapping[str, Any]) -> Selected:
        as_numbers = not isinstance(next(iter(ends.values())), str)
        cells = self._cells(column, as_numbers=as_numbers)
        if not as_numbers and not np.isnan(_to_numbers([cell for cell in cells if cell])).any():
            raise self.error(f"column {column!r} holds numbers; write min and max without quotes")
        inside = ~np.isnan(cells) if as_numbers else np.asarray(cells != "")
        filled = inside.copy()
        if "min" in ends:
            inside &= cells >= ends["min"]
        if "max" in ends:
            inside &= cells <= ends["max"]
        if not inside.any():
            span = f"its cells span {min(cells[filled])} ... {max(cells[filled])}" if filled.any() else "it is empty"
            raise self.error(f"no row of column {column!r} lies in {_plain(ends)}; {span}")
        return inside

    def _cells(self, column: str, *, as_numbers: bool) -> _Cells:
        texts = [row[column] for row in self._rows]
        if not as_numbers:
            return np.array(texts, dtype=np.object_)
        values = _to_numbers(texts)
        for number, text, value in zip(self._numbers, texts, values.tolist(), strict=True):
            if text and value != value:
                raise self.error(
                    f"column {column!r} is compared with a number, but row {number} holds {text!r}; to compare texts, "
                    "write the values in quotes"
                )
        return values


def _values(condition: Any) -> list[Any]:
    return list(condition) if isinstance(condition, (list, tuple)) else [condition]


def _plain(condition: Any) -> Any:
    if isinstance(condition, Mapping):
        return {key: _plain(value) for key, value in condition.items()}
    return list(condition) if isinstance(condition, (list, tuple)) else condition


def _to_numbers(cells: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read cells as numbers; NaN for those that are not."""
    return pd.to_numeric(pd.Series(cells, dtype="object"), errors="coerce").to_numpy(dtype=np.float64)
