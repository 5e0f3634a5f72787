"""Copies are gathered into groups, near duplicates stay pairs, the important ones come first."""

from audit_stores import alternating, four_to_one, make_audit_store, noise
from consilia.audit.duplicates import collect_duplicates, find_crossing_patients
from consilia.data.duplicates import DuplicatePair


def near(first: int, second: int, difference: float = 0.01) -> DuplicatePair:
    return DuplicatePair(first=first, second=second, kind="near", difference=difference)


def test_near_pairs_reaching_test_come_first_then_conflicts_then_the_most_alike():
    store = make_audit_store(alternating(40), splits=four_to_one(40))
    pairs = [near(2, 4, 0.02), near(6, 8, 0.01), near(3, 6, 0.03), near(0, 5, 0.04)]
    found = collect_duplicates(store, pairs)
    assert [tuple(image.image_id for image in case.images) for case in found.near] == [(0, 5), (3, 6), (6, 8), (2, 4)]
    assert [case.reaches_test for case in found.near] == [True, False, False, False]


def test_three_copies_are_one_group():
    pixels = noise(20)
    pixels[[5, 11]] = pixels[2]
    (case,) = collect_duplicates(make_audit_store(alternating(20), pixels=pixels), []).exact
    assert [image.image_id for image in case.images] == [2, 5, 11]


def test_a_patient_inside_one_split_does_not_cross():
    store = make_audit_store(alternating(4), patients=["a", "a", "b", "b"], splits=["train", "train", "train", "test"])
    assert [each.patient for each in find_crossing_patients(store)] == ["b"]


def test_without_patients_nobody_crosses():
    store = make_audit_store(alternating(4), splits=["train", "test"] * 2, has_patients=False)
    assert find_crossing_patients(store) == ()
