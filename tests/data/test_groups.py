"""Groups are the connected components of three bonds: one patient, equal pixels, nearly equal pictures."""

import numpy as np

from consilia.data.groups import merge_duplicates
from data_tables import balanced, picture, row


def test_a_patient_called_like_another_is_another(make_store):
    rows = [row(i, "ab"[i % 2], name) for i, name in enumerate(["7", "007", "07", "7.0"])]
    assert merge_duplicates(make_store(rows)).tolist() == [0, 1, 2, 3]


def test_a_chain_of_exact_and_near_copies_and_patients_merges_its_ends(make_store):
    rows = balanced(patients=6, images=2)
    exact, near = picture(500, height=32, width=32), picture(600, height=32, width=32)
    store = make_store(rows, size=32, pictures={1: exact, 2: exact, 3: near, 4: near // 2 + 50})
    assert merge_duplicates(store).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_images_that_are_not_bound_stay_alone(make_store):
    rows = [row(number, "ab"[number % 2], str(number)) for number in range(40)]
    assert np.array_equal(merge_duplicates(make_store(rows, size=32)), np.arange(40))
