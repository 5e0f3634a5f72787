"""The benchmark of heat maps runs on one network, and its shares are shares."""

import pytest

from benchmark_runs import run


@pytest.mark.slow("trains networks until they see lesions")
def test_heat_maps_prints_where_peaks_lie_by_measured_cells_by_a_ruler_and_by_chance():
    (row,) = run("heat_maps.py")["networks"]
    assert row["n"] > 0
    assert row["cell"] == 8
    shares = ("in the lesion", "within half a cell", "by a ruler: in it", "within half", "by chance", "fresh weights")
    assert all(0 <= row[name] <= 1 for name in shares)
    assert row["in the lesion"] <= row["within half a cell"]
    assert row["by a ruler: in it"] <= row["within half"]
    assert -1 <= row["likeness"] <= 1
