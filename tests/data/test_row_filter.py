"""A query selects what pandas selects, compares text with text and numbers with numbers, and stays in the table."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilia.data.sources.row_filter import select_rows
from consilia.errors import DataError

ROWS = [
    {"view": "PA", "age": "17", "site": "3", "slice mm": "1.5", "date": "2019-12-31", "a": "1", "b": "2"},
    {"view": "AP", "age": "18", "site": "03", "slice mm": "2", "date": "2020-01-01", "a": "10", "b": "9"},
    {"view": "AP Supine", "age": "", "site": "B", "slice mm": "0.5", "date": "2020-06-01", "a": "3", "b": "3"},
    {"view": "", "age": "100", "site": "3", "slice mm": "1e1", "date": "2021-01-01", "a": "-4", "b": "5"},
]


def selected(where: str) -> list[int]:
    chosen = select_rows(ROWS, where, origin="t.csv", numbers=[2, 3, 5, 6])
    return [position for position, choice in enumerate(chosen.tolist()) if choice]


def refused(where: str) -> str:
    with pytest.raises(DataError) as caught:
        selected(where)
    return str(caught.value)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("view == 'PA'", [0]),
        ("view != 'PA'", [1, 2, 3]),
        ("view in ['PA', 'AP']", [0, 1]),
        ("view not in ('PA', 'AP')", [2, 3]),
        ("view == ['PA', 'AP']", [0, 1]),
        ("view.isin(['PA', 'AP'])", [0, 1]),
        ("not view == 'PA' and ~(view == 'AP')", [2, 3]),
        ("view == 'PA' | view == 'AP'", [0, 1]),
        ("view == 'AP' & site == '03' | age > 99", [1, 3]),
        ("age >= 18", [1, 3]),
        ("18 > age", [0]),
        ("17 < age <= 100", [1, 3]),
        ("age.between(17, 18)", [0, 1]),
        ("age != 17", [1, 2, 3]),
        ("age == 18.0", [1]),
        ("age in [17, 100]", [0, 3]),
        ("age.isna()", [2]),
        ("age.notna() and age == '18'", [1]),
        ("site == '3'", [0, 3]),
        ("site == '03'", [1]),
        ("`slice mm` <= 1.5", [0, 2]),
        ("a > -4", [0, 1, 2]),
        ("date >= '2020-01-01'", [1, 2, 3]),
        ("view.str.contains('AP')", [1, 2]),
        ("view.str.contains('ap', case=False)", [1, 2]),
        ("view.str.startswith('AP S')", [2]),
        ("view.str.fullmatch('A?P?A?') and view != ''", [0, 1]),
        ("a > b", [1]),
        ("a == b", [2]),
    ],
)
def test_rows_are_selected_by(where, rows):
    assert selected(where) == rows


@given(
    views=st.lists(st.sampled_from(["PA", "AP", "L"]), min_size=1, max_size=8),
    low=st.integers(-3, 9),
    view=st.sampled_from(["PA", "AP"]),
    join=st.sampled_from(["and", "or", "&", "|", "and not", "or not"]),
)
def test_pandas_itself_selects_the_same(views, low, view, join):
    frame = pd.DataFrame({"view": views, "number": range(len(views))})
    where = f"view == '{view}' {join} number >= {low}"
    expected = frame.query(where, engine="python").index.tolist()
    rows = [{"view": v, "number": str(n)} for v, n in zip(frame["view"], frame["number"], strict=True)]
    if expected:
        chosen = select_rows(rows, where, origin="t", numbers=list(range(len(rows))))
        assert [i for i, choice in enumerate(chosen.tolist()) if choice] == expected
    else:
        with pytest.raises(DataError, match="selects none"):
            select_rows(rows, where, origin="t", numbers=list(range(len(rows))))


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("veiw == 'PA'", "no column 'veiw' (did you mean 'view'?)"),
        ("`slice` < 1", "no column 'slice'"),
        ("view == 'L'", "selects none of the 4 rows"),
        ("view = 'PA'", "equal is written =="),
        ("view == 'PA", "unterminated"),
        ("", "invalid syntax"),
        ("view == PA", "no column 'PA'"),
        ("view", "no comparison"),
        ("'a' == 'a'", "must name a column"),
        ("view == True", "neither a column"),
        ("view == None", "neither a column"),
        ("view is 'PA'", "'is'"),
        ("site > 2", "column 'site' is compared with a number, but row 5 holds 'B'"),
        ("view == 3", "row 2 holds 'PA'"),
        ("age > '18'", "write the number without quotes"),
        ("age in ['17', 18]", "mixes texts and numbers"),
        ("view in 'PA'", "needs a list"),
        ("view in []", "needs a list"),
        ("view.str.contains('(')", "view.str.contains('(')"),
        ("view.str.contains(1)", "view.str.contains(1)"),
    ],
)
def test_a_query_that_cannot_be_used_is_quoted_with_the_reason_and_the_columns(where, says):
    message = refused(where)
    assert f"t.csv: `where: {where}`" in message
    assert says in message
    assert "'slice mm'" in message


@pytest.mark.parametrize(
    "where",
    [
        "@os.system('true') == 'x'",
        "view == @secret",
        "view.to_csv('/tmp/x')",
        "view.__class__ == 'x'",
        "view.str.__class__('x')",
        "view.map(print)",
        "view.str.cat('x')",
        "__import__('os')",
        "print(view)",
        "(lambda: 1)() == 1",
        "[x for x in view]",
        "view[0] == 'PA'",
        "age ** 99999999999 > 1",
        "'a' * 99999999999 == view",
        "(view := 'PA')",
        "f'{view}' == 'PA'",
        "view.str.contains(__import__('os').name)",
    ],
)
def test_nothing_but_comparisons_of_the_table_is_run(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(where)
    assert not list(tmp_path.iterdir())
