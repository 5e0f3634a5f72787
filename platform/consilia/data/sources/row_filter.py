"""Which rows of a table a query selects, in pandas' query language.

The language is read here and not given to `DataFrame.query`, which would follow attributes out of the table
(`label.to_csv(...)`), and would find text column "3" unequal to number 3 without a word.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.data.sources.listing import suggest
from consilia.errors import DataError

Selected = npt.NDArray[np.bool_]  # (n_rows,)

# Text in quotes, a column in backticks, or a sign that pandas reads in its own way.
_TOKENS = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|`([^`]*)`|([&|@])""")
_TEXT_TESTS = ("contains", "startswith", "endswith", "match", "fullmatch")
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_GRAMMAR = (
    "A query compares columns (in backticks where a name is not one word) with texts and numbers: "
    f"== != < <= > >= in not and or ( ) [ ], .isin .between .isna .notna, .str.{' .str.'.join(_TEXT_TESTS)}"
)


def select_rows(rows: Sequence[Mapping[str, str]], where: str, *, origin: object, numbers: Sequence[int]) -> Selected:
    """Tell which rows a query selects.

    Cells are text, so patient "007" is not "7". A column is read as numbers only where the query compares it with one;
    its empty cells are then missing: no comparison but `!=` holds for them.

    Args:
        rows: Cells by column, all of them text; at least one row.
        where: Such as "modality == 'X-ray' and age >= 18".
        origin: The table, for errors.
        numbers: Row number of each row, for errors.

    Raises:
        DataError: The query is not valid, names a column that is not there, compares with a number what is none, or
            selects no row.
    """
    query = _Query(where, rows, origin=origin, numbers=numbers)
    selected = query.run()
    if not selected.any():
        raise query.error(f"it selects none of the {len(rows)} rows")
    return selected


class _Query:
    def __init__(
        self, where: str, rows: Sequence[Mapping[str, str]], *, origin: object, numbers: Sequence[int]
    ) -> None:
        self._where, self._rows, self._origin, self._numbers = where, rows, origin, numbers
        self._quoted: list[str] = []  # names in backticks

    def error(self, reason: object) -> DataError:
        columns = list(self._rows[0])
        return DataError(f"{self._origin}: `where: {self._where}` cannot be used: {reason}. The columns are {columns}.")

    def run(self) -> Selected:
        text = _TOKENS.sub(self._plain, self._where)
        try:
            return self._test(ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            hint = "; equal is written ==" if re.search(r"[^=!<>]=[^=]", text) else ""
            raise self.error(f"{getattr(error, 'msg', error)}{hint}") from error

    def _plain(self, token: re.Match[str]) -> str:
        """Make a token plain Python. As in pandas, & and | bind like `and` and `or`."""
        text, column, sign = token.groups()
        if column is not None:
            self._quoted.append(column)
            return f"quoted__{len(self._quoted) - 1}"
        if sign == "@":
            raise self.error("@ would reach outside the table")
        return str(text) if text is not None else {"&": " and ", "|": " or "}[sign]

    def _test(self, node: ast.expr) -> Selected:
        match node:
            case ast.BoolOp(op=ast.And(), values=parts):
                return reduce(operator.and_, [self._test(part) for part in parts])
            case ast.BoolOp(values=parts):
                return reduce(operator.or_, [self._test(part) for part in parts])
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=part):
                return ~self._test(part)
            case ast.Compare(left=left, ops=ops, comparators=others):
                pairs = zip([left, *others], ops, others, strict=False)
                return reduce(operator.and_, [self._compare(a, op, b) for a, op, b in pairs])
            case ast.Call(func=ast.Attribute(value=ast.Attribute(value=column, attr="str"), attr=name)):
                return self._text_test(column, name, node)
            case ast.Call(func=ast.Attribute(value=column, attr=name), args=arguments, keywords=[]):
                return self._column_test(column, name, arguments)
        raise self.error(f"{ast.unparse(node)!r} is no comparison. {_GRAMMAR}")

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Selected:
        if isinstance(op, (ast.Is, ast.IsNot)):
            raise self.error(f"'is' is not for columns. {_GRAMMAR}")
        listed = isinstance(right, (ast.List, ast.Tuple)) and isinstance(op, (ast.Eq, ast.NotEq))
        if listed or isinstance(op, (ast.In, ast.NotIn)):
            inside = self._inside(left, right)
            return ~inside if isinstance(op, (ast.NotIn, ast.NotEq)) else inside
        if not any(isinstance(side, ast.Name) for side in (left, right)):
            raise self.error(f"a comparison must name a column. {_GRAMMAR}")
        ordered = not isinstance(op, (ast.Eq, ast.NotEq))
        constants = [self._constant(side) for side in (left, right) if not isinstance(side, ast.Name)]
        if constants:
            as_numbers = not isinstance(constants[0], str)
        else:  # two columns: texts unless their order is asked for and both hold numbers
            as_numbers = ordered and all(self._holds_numbers(side) for side in (left, right))
        if ordered and constants and not as_numbers:
            self._refuse_text_order(left if isinstance(left, ast.Name) else right)
        sides = [self._column(s, as_numbers) if isinstance(s, ast.Name) else self._constant(s) for s in (left, right)]
        return np.asarray(_COMPARISONS[type(op)](*sides), dtype=np.bool_)

    def _inside(self, column: ast.expr, choice: ast.expr) -> Selected:
        if not isinstance(choice, (ast.List, ast.Tuple)) or not choice.elts:
            raise self.error("`in` needs a list, such as view in ['PA', 'AP']")
        values = [self._constant(each) for each in choice.elts]
        if len({isinstance(value, str) for value in values}) > 1:
            raise self.error(f"{ast.unparse(choice)} mixes texts and numbers")
        return np.isin(self._column(column, not isinstance(values[0], str)), values)

    def _column_test(self, column: ast.expr, name: str, arguments: list[ast.expr]) -> Selected:
        match name, arguments:
            case "isin", [choice]:
                return self._inside(column, choice)
            case "between", [low, high]:
                return self._compare(low, ast.LtE(), column) & self._compare(column, ast.LtE(), high)
            case "isna", []:
                return np.asarray(self._column(column, as_numbers=False) == "", dtype=np.bool_)
            case "notna", []:
                return np.asarray(self._column(column, as_numbers=False) != "", dtype=np.bool_)
        raise self.error(f".{name}(...) is not known. {_GRAMMAR}")

    def _text_test(self, column: ast.expr, name: str, call: ast.Call) -> Selected:
        if name not in _TEXT_TESTS:
            raise self.error(f".str.{name} is not known. {_GRAMMAR}")
        try:
            arguments = [ast.literal_eval(each) for each in call.args]
            options = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
            found = getattr(pd.Series(self._column(column, as_numbers=False)).str, name)(*arguments, **options)
        except (ValueError, TypeError, re.error) as error:  # pandas' own reason
            raise self.error(f"{ast.unparse(call)}: {error}") from error
        return np.asarray(found, dtype=np.bool_)

    def _name(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise self.error(f"{ast.unparse(node)!r} is no column. {_GRAMMAR}")
        name = node.id
        if name.startswith("quoted__"):
            name = self._quoted[int(name.removeprefix("quoted__"))]
        if name not in self._rows[0]:
            raise self.error(f"there is no column {name!r}{suggest(name, self._rows[0])}")
        return name

    def _column(self, node: ast.expr, as_numbers: bool) -> npt.NDArray[Any]:
        name = self._name(node)
        cells = [row[name] for row in self._rows]
        if not as_numbers:
            return np.array(cells, dtype=np.object_)
        values = _to_numbers(cells)
        for number, cell, value in zip(self._numbers, cells, values.tolist(), strict=True):
            if cell and value != value:
                raise self.error(f"column {name!r} is compared with a number, but row {number} holds {cell!r}")
        return values

    def _constant(self, node: ast.expr) -> str | float:
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return float(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as value):
                return -float(self._constant(value))
        raise self.error(f"{ast.unparse(node)} is neither a column, a text in quotes nor a number. {_GRAMMAR}")

    def _holds_numbers(self, node: ast.expr) -> bool:
        cells = [cell for cell in self._column(node, as_numbers=False).tolist() if cell]
        return bool(cells) and not np.isnan(_to_numbers(cells)).any()

    def _refuse_text_order(self, column: ast.expr) -> None:
        if self._holds_numbers(column):
            raise self.error(f"column {self._name(column)!r} holds numbers; write the number without quotes")


def _to_numbers(cells: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read cells as numbers; NaN for those that are none."""
    return pd.to_numeric(pd.Series(cells, dtype="object"), errors="coerce").to_numpy(dtype=np.float64)
