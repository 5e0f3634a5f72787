"""The numbers of a picture are those that counting its pixels gives."""

import numpy as np
import pytest

from consilia.decision.ood.inputs import grey_values, layouts
from consilia.decision.ood.picture import N_FEATURES, PARTS, STARTS, describe

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def quantiles(levels):
    """The smallest level that at least so large a share of the pixels does not exceed."""
    return [np.quantile(levels, share, method="inverted_cdf") for share in SHARES]


def one_by_one(image):
    grey = grey_values(image[None])[0].astype(np.int64)
    layout = layouts(grey_values(image[None]))[0].ravel()
    found = [np.array(quantiles(grey)) / 16]
    for scale in range(3):
        if scale:
            side = len(grey) // 2
            blocks = grey[: 2 * side, : 2 * side].reshape(side, 2, side, 2)
            grey = (blocks.sum(axis=(1, 3)) + 2) // 4
        found += [np.log2(1 + np.array(quantiles(np.abs(np.diff(grey, axis=axis))))) for axis in (1, 0)]
    return np.concatenate([*found, layout])


@pytest.mark.parametrize("size", [8, 28, 45, 64])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_they_are_what_numpy_counts_in_each_image(size, channels):
    generator = np.random.default_rng(size)
    images = generator.integers(0, 256, (3, size, size, channels), dtype=np.uint8)
    images[1] //= 16
    found = describe(images)
    assert found.shape == (3, N_FEATURES)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.stack([one_by_one(image) for image in images]), abs=1e-5)


def test_a_batch_says_what_each_image_says_alone():
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28, 1), dtype=np.uint8)
    assert (describe(images) == np.concatenate([describe(image[None]) for image in images])).all()


def test_each_part_hears_what_it_is_named_for():
    image = np.random.default_rng(0).integers(60, 120, (1, 64, 64, 1), dtype=np.uint8)
    image[:, :20] += 80
    starts, names = [*STARTS, N_FEATURES], list(PARTS)

    def moved(other):
        difference = np.abs(describe(other) - describe(image))[0]
        return {name for name, a, b in zip(names, starts, starts[1:], strict=False) if difference[a:b].max() > 0.3}

    assert moved(image + 20) == {"grey values"}
    assert moved(np.rot90(image, 2, axes=(1, 2))) == {"layout"}
    sorted_by_eights = np.sort(image.reshape(1, 64, 8, 8), axis=3).reshape(image.shape)
    assert moved(sorted_by_eights) == {"edges"}
