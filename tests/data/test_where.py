"""A card's `where` compares text with text and numbers with numbers, and refuses what matches nothing."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilia.config.card import DataCard
from consilia.config.frozen import validate
from consilia.data.sources.where import select_rows, written
from consilia.errors import DataError, PlanError

ROWS = [
    {"view": "PA", "age": "17", "site": "3", "slice mm": "1.5", "date": "2019-12-31"},
    {"view": "AP", "age": "18", "site": "03", "slice mm": "2", "date": "2020-01-01"},
    {"view": "AP Supine", "age": "", "site": "B", "slice mm": "0.5", "date": "2020-06-01"},
    {"view": "", "age": "100", "site": "3", "slice mm": "1e1", "date": ""},
]


def selected(where) -> list[int]:
    chosen = select_rows(ROWS, where, origin="t.csv", numbers=[2, 3, 5, 6])
    return [position for position, choice in enumerate(chosen.tolist()) if choice]


def card(where) -> DataCard:
    return validate(DataCard, {"name": "x", "source": {"kind": "table", "where": where}}, where="x.yaml")


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({"view": "PA"}, [0]),
        ({"view": {"not": "PA"}}, [1, 2, 3]),
        ({"view": ["PA", "AP"]}, [0, 1]),
        ({"view": {"not": ["PA", "AP"]}}, [2, 3]),
        ({"view": ""}, [3]),
        ({"view": {"not": ""}}, [0, 1, 2]),
        ({"age": {"min": 18}}, [1, 3]),
        ({"age": {"max": 18}}, [0, 1]),
        ({"age": {"min": 17.5, "max": 100}}, [1, 3]),
        ({"age": {"not": 17}}, [1, 2, 3]),
        ({"age": 18.0}, [1]),
        ({"age": [17, 100]}, [0, 3]),
        ({"age": "18"}, [1]),
        ({"age": ""}, [2]),
        ({"site": "3"}, [0, 3]),
        ({"site": "03"}, [1]),
        ({"slice mm": {"max": 1.5}}, [0, 2]),
        ({"slice mm": 10}, [3]),
        ({"date": {"min": "2020-01-01"}}, [1, 2]),
        ({"date": {"max": "2020-01-01"}}, [0, 1]),
        ({"view": ["AP", "AP Supine"], "age": {"min": 18}}, [1]),
        ({"site": "3", "age": {"not": 17}}, [3]),
    ],
)
def test_rows_are_selected_by(where, rows):
    assert selected(where) == rows
    assert selected(card(where).source.where) == rows


@given(
    views=st.lists(st.sampled_from(["PA", "AP", "L"]), min_size=1, max_size=8),
    low=st.integers(-3, 9),
    view=st.sampled_from(["PA", "AP"]),
    inverted=st.booleans(),
)
def test_pandas_selects_the_same(views, low, view, inverted):
    frame = pd.DataFrame({"view": views, "number": range(len(views))})
    expected = frame.query(f"view {'!=' if inverted else '=='} '{view}' and number >= {low}").index.tolist()
    rows = [{"view": v, "number": str(n)} for v, n in zip(frame["view"], frame["number"], strict=True)]
    where = {"view": {"not": view} if inverted else view, "number": {"min": low}}
    if expected and view in views:
        chosen = select_rows(rows, where, origin="t", numbers=list(range(len(rows))))
        assert [i for i, choice in enumerate(chosen.tolist()) if choice] == expected
    else:
        with pytest.raises(DataError, match="cannot be used"):
            select_rows(rows, where, origin="t", numbers=list(range(len(rows))))


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"veiw": "PA"}, "no column 'veiw' (did you mean 'view'?)"),
        ({"slice": 1}, "no column 'slice'"),
        ({"view": "L"}, "no row has 'L' in column 'view'"),
        ({"view": ["PA", "AP supine"]}, "no row has 'AP supine' in column 'view' (did you mean 'AP Supine'?)"),
        ({"view": "L"}, "which holds 'PA', 'AP', 'AP Supine', ''"),
        ({"view": {"not": "PAA"}}, "did you mean 'PA'?"),
        ({"age": 19}, "no row has 19 in column 'age'"),
        ({"site": "3", "age": 18}, "no row of 4 meets all conditions"),
        ({"view": {"not": ["PA", "AP", "AP Supine", ""]}}, "no row of 4 meets all conditions"),
        ({"age": {"min": 101}}, "no row of column 'age' lies in {'min': 101}; its cells span 17.0 ... 100.0"),
        ({"site": {"min": 2}}, "column 'site' is compared with a number, but row 5 holds 'B'"),
        ({"view": 3}, "row 2 holds 'PA'"),
        ({"age": {"min": "18"}}, "write min and max without quotes"),
    ],
)
def test_conditions_that_match_nothing_are_quoted_with_the_reason_and_the_columns(where, says):
    with pytest.raises(DataError) as caught:
        selected(where)
    message = str(caught.value)
    assert f"t.csv: `where: {written(where)}`" in message
    assert says in message
    assert "'slice mm'" in message


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("view == 'PA'", "must map columns"),
        ({}, "must map columns"),
        (["view"], "must map columns"),
        ({"view": []}, "list of values is empty"),
        ({"view": True}, "texts or numbers, but got True"),
        ({"view": None}, "texts or numbers, but got None"),
        ({"view": ["PA", ["AP"]]}, "texts or numbers, but got ['AP']"),
        ({"age": ["17", 18]}, "texts and numbers are mixed"),
        ({"age": {"min": 18, "max": "20"}}, "texts and numbers are mixed"),
        ({"age": {"min": 18, "max": 17}}, "min must not be above max"),
        ({"age": {"min": [18]}}, "texts or numbers, but got [18]"),
        ({"age": {"least": 18}}, "a condition is a value"),
        ({"age": {}}, "a condition is a value"),
        ({"age": {"not": 3, "min": 2}}, "a condition is a value"),
        ({"age": {"not": {"min": 2}}}, "a condition is a value"),
    ],
)
def test_what_is_not_a_condition_is_refused_with_the_card(where, says):
    with pytest.raises(PlanError) as caught:
        card(where)
    assert "x.yaml: source.where" in str(caught.value)
    assert says in str(caught.value)


def test_a_card_that_is_written_and_read_again_has_the_same_conditions():
    made = card({"view": ["PA", "AP"], "age": {"min": 18}, "site": {"not": "B"}})
    assert DataCard.model_validate(made.model_dump(mode="json")) == made
    assert written(made.source.where) == "{view: [PA, AP], age: {min: 18}, site: {not: B}}"
