import numpy as np
import pytest

from audit_stores import alternating, make_audit_store
from consilia.ensemble.by_column import read_groups
from consilia.errors import DataError


@pytest.fixture
def store():
    columns = {
        "meta_age": [str(20 + number) for number in range(40)],
        "meta_site=main": ["A", "B"] * 20,
        "tag_PatientSex": ["F"] * 10 + [""] * 30,
        "tag_age": ["045Y"] * 40,
    }
    return make_audit_store(alternating(40), columns=columns)


def test_columns_of_the_table_of_dicom_and_of_the_file_are_known_by_their_names(store):
    rows = np.arange(5, 15)
    assert read_groups(store, rows, "PatientSex").names == ("F", "unknown")
    assert read_groups(store, rows, "PatientSex").codes.tolist() == [0] * 5 + [1] * 5
    assert read_groups(store, rows, "site=main").names == ("A", "B")
    assert read_groups(store, rows, "format").names == ("PNG",)


def test_the_table_goes_before_a_tag_of_its_name_and_takes_edges(store):
    groups = read_groups(store, np.arange(40), "age=30,50")
    assert groups.names == ("under 30", "30 to under 50", "50 and over")
    assert np.bincount(groups.codes).tolist() == [10, 20, 10]


def test_an_unknown_column_and_edges_that_are_no_numbers_are_refused(store):
    with pytest.raises(DataError, match="got 'aeg': did you mean age"):
        read_groups(store, np.arange(40), "aeg")
    with pytest.raises(DataError, match=r"choose one of kind, format, .*PatientSex.*age"):
        read_groups(store, np.arange(40), "zzzzzzzz")
    for wrong in ("age=20,old", "age=20,nan"):
        with pytest.raises(DataError, match="edges must be numbers"):
            read_groups(store, np.arange(40), wrong)
