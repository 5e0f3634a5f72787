"""Intensity statistics against a pass over the pixels."""

import numpy as np
import pytest
from PIL import Image

from consilia.data.store.image_store import intensity
from consilia.data.store.prepare import prepare
from consilia.errors import DataError
from data_tables import balanced, card_of, write_table


@pytest.mark.parametrize("channels", [1, 3])
def test_the_moments_are_those_of_the_chosen_pixels_and_of_no_others(make_store, channels):
    store = make_store(balanced(), channels=channels)
    rows = np.array([1, 4, 9, 17])
    values = store.pixels[rows] / 255.0
    found = intensity(store, rows)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-9)
    assert intensity(store, np.arange(8)).mean != found.mean


def test_no_rows_and_no_contrast_are_refused(make_store, tmp_path):
    store = make_store(balanced())
    with pytest.raises(DataError, match="at least one image"):
        intensity(store, np.array([], dtype=np.int64))
    folder = write_table(tmp_path / "flat", balanced())
    for file in folder.glob("*.png"):
        Image.new("L", (12, 12), 51).save(file)
    flat = prepare(card_of(folder), root=tmp_path / "stores")
    with pytest.raises(DataError, match=r"one and the same grey, 0\.200 of white"):
        intensity(flat, np.arange(len(flat)))
