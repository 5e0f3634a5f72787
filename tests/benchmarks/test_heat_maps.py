"""The benchmark of heat maps runs on one network, and its shares are shares."""

import pytest

from benchmark_runs import run


@pytest.mark.slow("trains networks until they see lesions")
def test_heat_maps_prints_where_the_peaks_of_each_way_lie():
    (row,) = run("heat_maps.py")["phantoms"]
    assert row["n"] > 0
    assert set(row["peak in the lesion"]) == {"consilia", "last stage", "two stages before it", "occlusion"}
    for shares in (row["peak in the lesion"], row["mass in the lesion"]):
        assert all(0 <= share <= 1 for share in shares.values())
    assert 0 <= row["drawn"] <= 1
    assert all(-1 <= row["forgotten"][depth] <= 1 for depth in ("head", "half", "all"))
