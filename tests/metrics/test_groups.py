import numpy as np
import pytest

from consilia.errors import DataError
from consilia.metrics.subgroups import make_groups


def named(values, **settings):
    groups = make_groups("age", values, **settings)
    return [groups.names[code] for code in groups.codes], groups.names


def test_words_are_groups_of_their_own_and_what_is_missing_is_the_last():
    found, names = named(["m", "", "f", " m ", "NaN", "unknown"])
    assert found == ["m", "unknown", "f", "m", "unknown", "unknown"]
    assert names == ("f", "m", "unknown")


def test_many_numbers_fall_into_bands_of_ten():
    values = [str(age) for age in (9, 10, 19, 20, 29.5, 31, 42, 55, 60, 71, 88, 100)]
    found, names = named([*values, ""])
    assert found[:5] == ["0 to under 10", "10 to under 20", "10 to under 20", "20 to under 30", "20 to under 30"]
    assert found[-2:] == ["100 to under 110", "unknown"]
    assert [int(name.split()[0]) for name in names[:-1]] == sorted(int(name.split()[0]) for name in names[:-1])


def test_negative_numbers_lie_in_their_band():
    found, names = named([str(number) for number in range(-12, 3)])
    assert (found[0], found[2], found[12]) == ("-20 to under -10", "-10 to under 0", "0 to under 10")
    assert names == ("-20 to under -10", "-10 to under 0", "0 to under 10")


def test_few_numbers_stand_for_themselves_in_the_order_of_numbers():
    assert named(["10", "2", "2.0", "1"]) == (["10", "2", "2", "1"], ("1", "2", "10"))


def test_large_numbers_that_nearly_agree_are_not_one_group():
    assert named(["1234567", "1234568"])[1] == ("1234567", "1234568")


def test_an_edge_begins_a_band():
    found, names = named(["17.9", "18", "64", "65", "90", ""], edges=(18, 65))
    assert found == ["under 18", "18 to under 65", "18 to under 65", "65 and over", "65 and over", "unknown"]
    assert names == ("under 18", "18 to under 65", "65 and over", "unknown")


def test_ages_as_dicom_writes_them_are_years():
    found, _ = named(["045Y", "006M", "052W", "720D"], edges=(1, 2, 18))
    assert found == ["18 and over", "under 1", "under 1", "1 to under 2"]


def test_every_group_has_an_image():
    groups = make_groups("age", ["5", "95"], edges=(10, 20, 30, 90))
    assert np.bincount(groups.codes).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("values", "edges", "says"),
    [
        (["m", "3"], (2,), "edges need a column of numbers, but it holds 'm'"),
        (["1", "2"], (5, 5), "edges must ascend, but are 5, 5"),
        ([f"name {number}" for number in range(31)], (), "at most 30 groups, but there are 31"),
    ],
)
def test_what_cannot_be_grouped_is_refused(values, edges, says):
    with pytest.raises(DataError, match=says):
        make_groups("age", values, edges=edges)
