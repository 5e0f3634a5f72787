"""Conditions on the cells of a table, as a card writes them: a value, a list, `{min, max}`, or `{not: ...}`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

Cell = str | int | float
Condition = Cell | tuple[Cell, ...] | Mapping[str, Cell | tuple[Cell, ...]]

_FORMS = "a value, a list of values, {min: ..., max: ...} or {not: ...}"


def _check_conditions(conditions: Any) -> Any:
    """Refuse what is not a mapping from columns to conditions.

    Raises:
        ValueError: Says which column's condition is wrong.
    """
    if not isinstance(conditions, Mapping) or not conditions:
        raise ValueError(
            f"it must map columns of the table to {_FORMS}, such as {{view: [PA, AP], age: {{min: 18}}}}, "
            f"but got {conditions!r}"
        )
    for column, condition in conditions.items():
        _check_condition(str(column), condition)
    return {str(column): condition for column, condition in conditions.items()}


def _check_condition(column: str, condition: Any) -> None:
    if not isinstance(condition, Mapping):
        _check_cells(column, condition)
    elif set(condition) == {"not"} and not isinstance(condition["not"], Mapping):
        _check_cells(column, condition["not"])
    elif condition and set(condition) <= {"min", "max"}:
        ends = list(condition.values())
        _check_cells(column, ends)
        if len(ends) == 2 and condition["min"] > condition["max"]:
            raise ValueError(f"{column}: min must not be above max, but got {dict(condition)}")
    else:
        raise ValueError(f"{column}: a condition is {_FORMS}, but got {dict(condition)}")


def _check_cells(column: str, cells: Any) -> None:
    values = list(cells) if isinstance(cells, (list, tuple)) else [cells]
    if not values:
        raise ValueError(f"{column}: the list of values is empty; name one or more")
    for value in values:
        # YAML makes `yes` a truth value and 2020-01-31 a date, which no cell of a table is.
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{column}: values must be texts or numbers, but got {value!r}; write texts in quotes")
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError(f"{column}: texts and numbers are mixed in {values}; write all in quotes, or none")


Conditions = Annotated[Mapping[str, Condition], BeforeValidator(_check_conditions)]
