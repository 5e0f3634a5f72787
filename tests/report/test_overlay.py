"""An overlay shows the image, and colour only where the heat map has any."""

import numpy as np
import pytest

from consilia.report.overlay import draw_overlay

TOP, GAP = 26, 8  # of the pictures in the sheet


def halves(pixels, heat_map):
    """Return the two pictures of a sheet, (side, side, 3) each."""
    sheet = np.asarray(draw_overlay(pixels, heat_map, caption="a", unit="c", footnote="b"))
    side = 256
    left = sheet[TOP : TOP + side, GAP : GAP + side]
    right = sheet[TOP : TOP + side, 2 * GAP + side : 2 * (GAP + side)]
    return left.astype(int), right.astype(int)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)


def test_without_heat_both_halves_are_the_image(pixels):
    left, right = halves(pixels, np.zeros((64, 64), np.float32))
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(left[2::4, 2::4, 0], pixels[..., 0])


def test_heat_colours_its_own_place_only(pixels):
    heat_map = np.zeros((64, 64), np.float32)
    heat_map[40:50, 10:20] = 1
    left, right = halves(pixels, heat_map)
    coloured = (left != right).any(axis=2)
    rows, columns = np.nonzero(coloured)
    assert coloured[170:190, 50:70].all()
    assert rows.min() >= 156
    assert rows.max() < 204
    assert columns.min() >= 36
    assert columns.max() < 84
    red, green, blue = right[172:188, 52:68].mean(axis=(0, 1))
    assert red > blue + 50  # the strong end of the colour map is yellow
    assert green > blue + 50


def test_what_speaks_against_the_class_has_no_colour_and_the_unit_changes_none(pixels):
    heat_map = np.zeros((64, 64), np.float32)
    heat_map[40:50, 10:20] = 1
    _, right = halves(pixels, heat_map)
    both = heat_map.copy()
    both[:20] = -5
    np.testing.assert_array_equal(halves(pixels, 7 * both)[1], right)


def test_a_sentence_stands_where_there_is_no_heat_map(pixels):
    left, right = halves(pixels, "No place speaks for it, and this says at some length why that is so.")
    np.testing.assert_array_equal(left[2::4, 2::4, 0], pixels[..., 0])
    assert len(np.unique(right.reshape(-1, 3), axis=0)) > 2  # letters
    assert np.median(right) == 24  # on paper
    assert (right[:, -8:] == 24).all()  # none of them cut off


def test_brightness_of_the_colours_rises_with_heat():
    black = np.zeros((64, 64, 1), np.uint8)
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None], 64, axis=0)
    _, right = halves(black, ramp)
    brightness = right[128] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(brightness) > -1.5).all()
    assert brightness[-1] > 100


@pytest.mark.parametrize(("size", "channels", "side"), [(28, 1, 280), (64, 3, 256), (300, 2, 300), (1024, 1, 512)])
def test_a_sheet_has_a_size_for_people_whatever_the_image_s(size, channels, side):
    sheet = draw_overlay(
        np.zeros((size, size, channels), np.uint8),
        np.zeros((size, size), np.float32),
        **{"caption": "結節", "unit": "log odds per 1 % of the image", "footnote": ""},
    )
    assert sheet.size == (2 * side + 86, side + 52)
