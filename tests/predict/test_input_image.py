"""What comes with an image beside the square that the networks see: its shape, and the colour that grey hides."""

import numpy as np
import pytest
from PIL import Image

from consilia.config.reading import Reading
from consilia.predict.images import Frame, is_grey, read_input
from dicom_files import write_ct

GREY = Reading(size=16, channels=1)


def read(image, reading=GREY, kinds=("raster", "dicom"), **options):
    return read_input(image, reading, kinds=kinds, on_unknown_kind="refuse", name="it", **options)


@pytest.fixture
def wide():
    return np.random.default_rng(0).integers(0, 256, (20, 50), dtype=np.uint8)


def test_the_aspect_is_that_of_the_file_the_picture_or_the_array(wide, tmp_path):
    Image.fromarray(wide).save(tmp_path / "wide.png")
    ct = write_ct(tmp_path / "wide.dcm", wide.astype(np.int16), WindowCenter=128, WindowWidth=256)
    for image in (wide, wide[..., None], Image.fromarray(wide), tmp_path / "wide.png", str(tmp_path / "wide.png"), ct):
        found = read(image)
        assert found.aspect == 2.5
        assert found.pixels.shape == (16, 16, 1)


def test_a_frame_is_measured_as_its_file(tmp_path):
    reading = GREY.model_copy(update={"frames": "each"})
    stack = write_ct(tmp_path / "stack.dcm", np.zeros((3, 20, 40)), WindowCenter=40, WindowWidth=400)
    found = read(Frame(stack, 1), reading, with_colour=True)
    assert (found.aspect, found.colour) == (2, 0)


def test_colour_is_measured_of_what_the_networks_see_in_grey(wide, tmp_path):
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "red.png")
    Image.fromarray(red).convert("P").save(tmp_path / "palette.png")
    for image in (red, Image.fromarray(red), tmp_path / "red.png", tmp_path / "palette.png"):
        assert read(image, with_colour=True).colour == pytest.approx(200, abs=2)  # a palette has no exact red
        assert np.isnan(read(image).colour)
    for image in (wide, Image.fromarray(wide), Image.fromarray(wide).convert("RGB"), wide.astype(np.uint16)):
        assert read(image, with_colour=True).colour == 0


def test_where_networks_see_colour_it_is_in_the_pixels(wide):
    assert np.isnan(read(np.stack([wide] * 3, axis=2), Reading(size=16, channels=3), with_colour=True).colour)


def test_measuring_colour_does_not_change_the_pixels():
    picture = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    plain, measured = read(picture), read(picture, with_colour=True)
    assert (plain.pixels == measured.pixels).all()
    assert measured.colour > 0


@pytest.mark.parametrize(
    ("mode", "grey"),
    [
        *((mode, True) for mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F", "MONOCHROME1 8 bit")),
        *((mode, False) for mode in ("RGB", "RGBA", "P", "PA", "CMYK", "YBR_FULL_422 8 bit", "PALETTE COLOR 8 bit")),
    ],
)
def test_a_mode_tells_whether_it_can_hold_colour(mode, grey):
    assert is_grey(mode) == grey
