"""What holds for every image, window and size, on examples drawn by Hypothesis; and damaged files of each kind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consilia.config.reading import FileWindow, FixedWindows, PercentileWindow, Reading, Window
from consilia.data.decode.reader import read_image
from consilia.data.raster import fit_image
from consilia.data.voi import apply_window, by_percentiles
from dicom_encodings import write_dicom

FIXED = settings(
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SIDES = st.integers(1, 40)
FITS = st.sampled_from(["pad", "crop", "stretch"])
FUNCTIONS = st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])
STORED = st.tuples(SIDES, SIDES).flatmap(
    lambda shape: st.sampled_from([np.uint8, np.uint16, np.int16]).flatmap(lambda dtype: arrays.arrays(dtype, shape))
)
RULES = st.sampled_from(["fixed", "percentiles", "file"])
PERCENTILES = st.tuples(st.integers(0, 99), st.integers(1, 100)).filter(lambda pair: pair[0] < pair[1])


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    shape = (draw(SIDES), draw(SIDES), *draw(st.sampled_from([(), (1,), (3,)])))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    values = st.floats(0, 1, width=32) if dtype == np.float32 else None
    return draw(arrays.arrays(dtype, shape, elements=values))


@FIXED
@given(images(), st.integers(8, 40), st.sampled_from([1, 3]), FITS, st.booleans())
def test_whatever_the_image_the_square_has_its_shape_and_type(image, size, channels, fit, percentiles):
    window = PercentileWindow() if percentiles else FileWindow()
    before = image.copy()
    found = fit_image(image, Reading(size=size, channels=channels, fit=fit, window=window), name="a")
    assert found.shape == (size, size, channels)
    assert found.dtype == np.uint8
    assert np.array_equal(image, before)


@FIXED
@given(
    arrays.arrays(np.float64, 50, elements=st.floats(-4000, 4000)),
    st.floats(-2000, 2000),
    st.floats(1, 5000),
    FUNCTIONS,
)
def test_a_window_is_monotone_and_within_black_and_white(values, center, width, function):
    shares = apply_window(np.sort(values), center, width, function=function, name="a")
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(shares) >= 0).all()


@FIXED
@given(STORED, PERCENTILES)
def test_percentiles_are_monotone_and_blind_to_shift_and_scale(image, pair):
    rule = PercentileWindow(low=pair[0], high=pair[1])
    found = by_percentiles(image, rule, name="a")
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(found.reshape(-1)[order].astype(int)) >= 0).all()
    moved = by_percentiles(image.astype(np.int64) * 4 - 1000, rule, name="a")
    assert np.abs(moved.astype(int) - found).max() <= 1  # a half may round either way


@FIXED
@given(st.integers(1, 60), st.integers(1, 60), st.integers(8, 50))
def test_padding_keeps_the_sides_in_proportion_and_the_image_central(height, width, size):
    shown = fit_image(np.full((height, width), 255, np.uint8), Reading(size=size, channels=1), name="a")[:, :, 0] > 0
    rows, columns = shown.any(axis=1).sum(), shown.any(axis=0).sum()
    assert max(rows, columns) == size
    scale = size / max(height, width)
    assert abs(rows - max(1, height * scale)) <= 0.5
    assert abs(columns - max(1, width * scale)) <= 0.5
    assert shown.sum() == rows * columns
    first = np.argmax(shown.any(axis=1))
    assert abs(first - (size - rows - first)) <= 1


@FIXED
@given(st.integers(8, 60), st.integers(8, 60), st.integers(8, 50), FITS)
def test_every_fit_of_a_plain_image_is_plain_where_there_is_image(height, width, size, fit):
    found = fit_image(np.full((height, width), 77, np.uint8), Reading(size=size, channels=1, fit=fit), name="a")
    assert set(np.unique(found)) <= ({0, 77} if fit == "pad" else {77})


@FIXED
@given(
    STORED, st.sampled_from(["fixed", "percentiles", "file"]), st.integers(-500, 500), st.integers(1, 3000), PERCENTILES
)
def test_monochrome1_is_the_mirror_of_monochrome2(tmp_path: Path, stored, kind, center, width, pair):
    rules = {
        "fixed": FixedWindows(windows=(Window(center=center, width=width),)),
        "percentiles": PercentileWindow(low=pair[0], high=pair[1]),
        "file": FileWindow(),
    }
    size = max(8, *stored.shape)
    reading = Reading(size=size, channels=1, window=rules[kind], fit="stretch")
    tags = {"WindowCenter": center, "WindowWidth": width}
    if stored.shape != (size, size):  # only what is not resized mirrors exactly
        stored = np.resize(stored, (size, size))
    shown, mirrored = (
        read_image(write_dicom(tmp_path / "a", stored, PhotometricInterpretation=photometric, **tags), reading).pixels
        for photometric in ("MONOCHROME2", "MONOCHROME1")
    )
    assert np.array_equal(mirrored, 255 - shown)


@FIXED
@given(STORED, st.integers(-500, 500), st.integers(1, 3000))
def test_a_window_of_a_file_sees_only_values_and_not_how_they_are_stored(tmp_path: Path, stored, center, width):
    size = max(8, *stored.shape)
    stored = np.resize(stored, (size, size))
    rule = FixedWindows(windows=(Window(center=center, width=width),))
    reading = Reading(size=size, channels=1, window=rule)
    found = read_image(write_dicom(tmp_path / "a", stored, RescaleIntercept=-1024, RescaleSlope=2), reading).pixels
    wanted = np.rint(apply_window(stored * 2.0 - 1024, center, width, name="a") * 255)
    assert np.array_equal(found[:, :, 0], wanted)


@pytest.mark.skipif(os.name == "nt", reason="the fuzz run bounds memory and watches pipes as POSIX does")
def test_damaged_files_of_each_kind_end_in_an_image_or_an_error_that_names_them():
    script = Path(__file__).with_name("fuzz_readers.py")
    environment = {name: value for name, value in os.environ.items() if name != "CONSILIA_REAL_DATA"}
    command = [sys.executable, str(script), "--cases", "300", "--seed", "1"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stdout + run.stderr
    kinds = {"PNG", "JPEG", "WebP", "BMP", "TIFF raw", "DICOM RLELossless", "DICOM JPEGLSNearLossless"}
    assert all(re.search(rf"^{kind} ", run.stdout, re.MULTILINE) for kind in kinds)
    totals = re.search(r"^all 300 +(\d+) +(\d+) +(\d+)$", run.stdout, re.MULTILINE)
    assert totals
    images, refused, violations = map(int, totals.groups())
    assert images > 20
    assert refused > 100
    assert images + refused == 300
    assert violations == 0
