"""Windows against their definitions, and percentiles against NumPy."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from consilia.config.reading import PercentileWindow
from consilia.data.voi import apply_percentiles, apply_window, by_percentiles, find_levels
from consilia.errors import ReaderError

VALUES = np.arange(-1100, 1200, dtype=np.float64)


def _as_pydicom(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    header = Dataset()
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsStored, header.PixelRepresentation = 16, 0
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, function
    return apply_windowing(values, header) / 65535


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (0.25, 80.5), (50, 12)])
def test_a_window_is_the_one_of_the_standard(function, center, width):
    found = apply_window(VALUES, center, width, function=function, name="a")
    assert np.allclose(found, _as_pydicom(VALUES, center, width, function), atol=1e-12)


def test_the_standards_examples_of_linear_windows_hold():
    # PS3.3, C.11.2.1.2.1: center 2048 and width 4096 is the identity on 0 ... 4095; width 1 is a threshold.
    whole = np.arange(4096, dtype=np.float64)
    assert np.allclose(apply_window(whole, 2048, 4096, name="a"), whole / 4095)
    assert apply_window(np.array([2046.0, 2047, 2048]), 2048, 1, name="a").tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("function", "width"), [("LINEAR", 0.5), ("LINEAR", 0), ("LINEAR_EXACT", 0), ("SIGMOID", -1), ("LINEAR", np.nan)]
)
def test_a_window_without_width_is_refused(function, width):
    with pytest.raises(ReaderError, match=r"^the file: a .* window must have a width"):
        apply_window(VALUES, 0, width, function=function, name="the file")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_percentiles_are_numpys(dtype):
    generator = np.random.default_rng(0)
    for _ in range(20):
        scale = 250 if dtype == np.uint8 else 30_000
        image = (generator.random((9, 13)) ** 3 * scale).astype(dtype)
        low, high = sorted(generator.choice(99, 2, replace=False) + 0.5)
        start, stop = np.percentile(image.astype(np.float64), [low, high])
        found = by_percentiles(image, PercentileWindow(low=low, high=high), name="a")
        wanted = np.rint(np.clip((image.astype(np.float64) - start) / (stop - start), 0, 1) * 255)
        assert np.array_equal(found, wanted)


def test_a_wide_range_of_whole_numbers_needs_no_memory_for_it():
    image = np.array([[0, 1], [2, 2**31 - 1]], dtype=np.int32)
    assert len(find_levels(image).values) == 4
    assert by_percentiles(image, PercentileWindow(low=0, high=100), name="a").tolist() == [[0, 0], [0, 255]]


def test_an_image_without_contrast_or_of_padding_alone_is_black():
    levels = find_levels(np.full((4, 4), 7, dtype=np.uint16))
    assert not by_percentiles(levels.image, PercentileWindow(), name="a").any()
    assert not apply_percentiles(levels, PercentileWindow(), np.zeros(1, dtype=np.int64)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value):
    image = np.zeros((4, 4), dtype=np.float32)
    image[1, 2] = value
    with pytest.raises(ReaderError, match="the file: float pixels must be finite"):
        by_percentiles(image, PercentileWindow(), name="the file")
