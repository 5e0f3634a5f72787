"""Each rule sees what it is for, and nothing in usual images."""

import numpy as np
import pytest

from consilia.decision.ood.inputs import (
    RULES,
    find_broken_rules,
    gain_when_turned,
    grey_values,
    layouts,
    likeness,
    measure_colour,
    measure_inputs,
)
from consilia.ensemble.ood_reference import fit_inputs

SIZE = 32


def usual(n, *, seed=0, channels=1):
    """Grey images that are bright at the top and dark at the bottom, each a little otherwise."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(190, 60, SIZE)[:, None, None]
    images = ramp + generator.normal(0, 12, (n, 1, 1, 1)) + generator.normal(0, 6, (n, SIZE, SIZE, 1))
    return np.repeat(np.clip(images, 1, 254).astype(np.uint8), channels, axis=3)


@pytest.fixture(scope="module")
def reference():
    return fit_inputs(usual(500), aspect=np.ones(500))


def findings(images, reference, *, aspect=1.0, colour=None):
    measures = measure_inputs(images, reference, aspect=np.full(len(images), aspect), colour=colour)
    return [find_broken_rules(each, reference) for each in measures]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
def test_grey_is_the_mean_of_all_channels_which_may_be_windows_of_a_ct(channels):
    pixels = np.random.default_rng(channels).integers(0, 256, (3, SIZE, SIZE, channels), dtype=np.uint8)
    pixels[0] = 255
    np.testing.assert_array_equal(grey_values(pixels), np.rint(pixels.mean(axis=3)).astype(np.uint8))


def test_hardly_any_usual_image_breaks_a_rule(reference):
    assert sum(map(bool, findings(usual(1000, seed=1), reference))) <= 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda image: np.where(np.arange(SIZE)[:, None, None] < 8, 0, image), "share of black pixels is 25%"),
        (lambda image: np.where(np.arange(SIZE)[:, None, None] < 8, 255, image), "share of white pixels is 25%"),
        (lambda image: image // 2, "mean difference of grey values"),
        (
            lambda image: 255 - image,
            "what turning or inverting it adds to its likeness to the mean training image is 2.00",
        ),
        (
            lambda image: image[::-1],
            "what turning or inverting it adds to its likeness to the mean training image is 2.00",
        ),
        (lambda image: np.rot90(image), "likeness to the mean training image is 0.00"),
        (lambda image: np.full_like(image, 120), "likeness to the mean training image is 0.00"),
        (
            lambda image: np.random.default_rng(3).permutation(image.ravel()).reshape(image.shape),
            "likeness to the mean",
        ),
    ],
    ids=["black", "white", "dark", "inverted", "upside down", "turned", "blank", "shuffled"],
)
def test_a_changed_image_is_described_by_its_rule(reference, change, expected):
    (found,) = findings(change(usual(1, seed=2)[0])[None].astype(np.uint8), reference)
    assert any(phrase.startswith(expected) for phrase in found), found


def test_a_long_image_is_described_with_what_training_showed(reference):
    (found,) = findings(usual(1, seed=2), reference, aspect=2.5)
    assert found == ("width over height is 2.50, but at most 1.20 in training images",)


def test_colour_is_unusual_where_training_was_grey():
    grey = fit_inputs(usual(300, channels=3), aspect=np.ones(300))
    coloured = usual(1, seed=2, channels=3)
    coloured[..., 0] //= 2
    assert any(phrase.startswith("colour, in levels") for phrase in findings(coloured, grey)[0])


def test_grey_is_unusual_where_training_was_in_colour():
    images = usual(300, channels=3)
    images[..., 2] //= 3
    coloured = fit_inputs(images, aspect=np.ones(300))
    assert any("at least" in phrase for phrase in findings(usual(1, seed=2, channels=3), coloured)[0])


def test_the_colour_of_a_file_counts_where_stored_pixels_have_lost_it(reference):
    red = np.zeros((20, 20, 3), dtype=np.uint8)
    red[..., 0] = 200
    assert measure_colour(red) == 200
    (found,) = findings(usual(1, seed=2), reference, colour=np.array([measure_colour(red)]))
    assert found == ("colour, in levels between channels is 200, but at most 8 in training images",)
    assert findings(usual(1, seed=2), reference, colour=np.array([np.nan])) == [()]


def test_a_colour_that_training_does_not_tell_has_no_limit():
    unknown = fit_inputs(usual(300), aspect=np.ones(300), colour=np.full(300, np.nan))
    assert findings(usual(1, seed=2), unknown, colour=np.array([200.0])) == [()]


def test_a_few_odd_images_in_training_do_not_teach_the_rules(reference):
    images = usual(1000)
    images[:4] = 0
    spoilt = fit_inputs(images, aspect=np.ones(1000))
    assert len(findings(np.zeros((1, SIZE, SIZE, 1), dtype=np.uint8), spoilt)[0]) >= 3


def test_measures_do_not_depend_on_how_images_are_grouped(reference):
    images = usual(600, seed=4)
    whole = measure_inputs(images, reference, aspect=np.ones(600))
    parts = [measure_inputs(part, reference, aspect=np.ones(len(part))) for part in np.split(images, [1, 300])]
    assert np.concatenate(parts) == pytest.approx(whole, rel=1e-12)
    assert whole.shape == (600, len(RULES))


def test_coloured_images_are_measured_as_their_channels_say(reference):
    images = np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    images[1, :, : SIZE // 2] = 0
    images[2, 0, 0] = (255, 255, 255)
    np.testing.assert_array_equal(grey_values(images), np.rint(images.mean(axis=3)))
    _, black, white, _, colour, *_ = measure_inputs(images, reference, aspect=np.ones(3)).T
    np.testing.assert_array_equal(black, [(image == 0).mean() for image in images])
    np.testing.assert_array_equal(white, [(image == 255).mean() for image in images])
    np.testing.assert_array_equal(colour, [np.ptp(image.astype(int), axis=2).mean() for image in images])
    np.testing.assert_array_equal(colour, [measure_colour(image) for image in images])


def test_the_grey_of_every_colour_is_the_whole_number_nearest_to_its_mean():
    sums = np.arange(766)
    colours = np.stack([(sums + shift) // 3 for shift in range(3)], axis=1).astype(np.uint8)
    np.testing.assert_array_equal(grey_values(colours[None, :, None])[0, :, 0], np.rint(sums / 3))


def test_no_images_have_no_measures(reference):
    none = measure_inputs(np.empty((0, SIZE, SIZE, 1), dtype=np.uint8), reference, aspect=np.empty(0))
    assert none.shape == (0, len(RULES))


@pytest.mark.parametrize("size", [8, 28, 37, 64])
def test_likeness_is_the_correlation_of_cell_means(size):
    generator = np.random.default_rng(size)
    images = generator.integers(0, 256, (5, size, size, 1), dtype=np.uint8)
    edges = [np.arange(8) * size // 8, np.append(np.arange(1, 8) * size // 8, size)]
    cells = np.array(
        [[[image[a:b, c:d].mean() for c, d in zip(*edges, strict=True)] for a, b in zip(*edges, strict=True)]
         for image in images]
    )  # fmt: skip
    mean = generator.normal(size=(8, 8))
    expected = [np.corrcoef(each.ravel(), mean.ravel())[0, 1] for each in cells]
    assert likeness(layouts(grey_values(images)), mean) == pytest.approx(expected)


def test_turning_back_is_worth_what_turning_has_cost():
    mean = np.random.default_rng(0).normal(size=(1, 8, 8))
    mean -= mean.mean()
    for quarters in (1, 2, 3):
        turned = np.rot90(mean, quarters, axes=(1, 2))
        assert gain_when_turned(turned, mean[0]) == pytest.approx(1 - likeness(turned, mean[0]))
    assert gain_when_turned(-mean, mean[0]) == pytest.approx([2])
    assert gain_when_turned(mean, mean[0])[0] < 0
