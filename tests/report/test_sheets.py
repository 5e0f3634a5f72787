"""The sheet shows the training's own pixels, in a layout that any number of channels fits."""

import numpy as np
import pytest
import torch

from consilia.config.augmentation import POLICIES
from consilia.config.network import Preprocessing
from consilia.report.sheets import N_DRAWS, describe_policy, draw_views, make_sheet
from consilia.train.warp import draw_warps, training_input


def image(size: int = 32, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(30, 220, (size, size, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_what_is_shown_is_what_the_network_is_given(channels):
    stored, policy = image(channels=channels), POLICIES["histology"]
    views = draw_views(stored, policy=policy, strength=0.7, seed=3)
    mean, std = (0.3,) * channels, (0.17,) * channels  # some training's; the draws do not depend on it
    recipe = Preprocessing(size=32, channels=channels, image_size=32, mean=mean, std=std)
    warps = draw_warps(np.random.default_rng(3), N_DRAWS, policy=policy, strength=0.7)
    batch = torch.from_numpy(np.repeat(stored[None], N_DRAWS, axis=0))
    given = training_input(batch, warps, recipe).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(views[0], stored)
    np.testing.assert_allclose(views[1:], np.clip((given * 0.17 + 0.3) * 255, 0, 255), atol=0.51)


def test_without_strength_every_draw_is_the_original():
    views = draw_views(image(), policy=POLICIES["xray"], strength=0.0)
    assert (views == views[0]).all()


@pytest.mark.parametrize(
    ("size", "channels", "tile"),
    [(28, 1, (140, 140)), (224, 3, (224, 224)), (64, 2, (256, 128)), (1024, 1, (512, 512)), (64, 8, (1024, 128))],
)
def test_tiles_have_a_size_for_people_whatever_the_image_s(size, channels, tile):
    width, height = make_sheet(np.zeros((1 + N_DRAWS, size, size, channels), np.uint8)).size
    assert (width - 48, height - 14 - 30) == (5 * tile[0], 4 * tile[1])


def test_grey_is_grey_three_channels_are_a_colour_and_windows_lie_side_by_side():
    def pixel(*values: int, at: tuple[int, int] = (10, 20)) -> tuple[int, ...]:
        views = np.broadcast_to(np.array(values, np.uint8), (1 + N_DRAWS, 128, 128, len(values)))
        return make_sheet(views).getpixel(at)

    assert pixel(90) == (90, 90, 90)
    assert pixel(10, 100, 200) == (10, 100, 200)
    assert pixel(50, 150) == (50, 50, 50)
    assert pixel(50, 150, at=(10 + 128, 20)) == (150, 150, 150)


def test_words_name_the_flips_that_are_allowed_and_no_others():
    radiograph, slide = (dict(describe_policy(POLICIES[name], 0.5)) for name in ("xray", "histology"))
    assert radiograph["flip"] == radiograph["quarter turns"] == "never"
    assert radiograph["turn"] == "up to 5 degrees to either side"
    assert slide["flip"] == "left-right and up-down, each in 25% of the draws"
    assert slide["quarter turns"] == "in 50% of the draws"
