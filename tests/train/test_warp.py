import numpy as np
import pytest
import torch
import torch.nn.functional as F

from consilia.config.augmentation import AugmentationPolicy
from consilia.config.network import Preprocessing
from consilia.train.input import network_input
from consilia.train.warp import draw_warps, sampling_grid, warp_images

NOTHING = AugmentationPolicy(rotate_degrees=0, scale=0, translate=0, brightness=0, contrast=0)


def plain(size: int, image_size: int | None = None, channels: int = 1) -> Preprocessing:
    """Normalisation that leaves pixel / 255 as it is."""
    return Preprocessing(
        size=size,
        channels=channels,
        image_size=image_size or size,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def warp(images: np.ndarray, policy: AugmentationPolicy, *, strength: float = 1.0, seed: int = 0) -> torch.Tensor:
    warps = draw_warps(np.random.default_rng(seed), len(images), policy=policy, strength=strength)
    return warp_images(torch.from_numpy(images), warps, plain(images.shape[1], channels=images.shape[3]))


def marked_left(n: int, size: int = 32) -> np.ndarray:
    images = np.zeros((n, size, size, 1), dtype=np.uint8)
    images[:, 12:20, 6:10] = 200
    return images


def centre_x(planes: torch.Tensor) -> torch.Tensor:
    columns = torch.arange(planes.shape[-1], dtype=torch.float32)
    mass = planes[:, 0].sum(dim=1)
    return (mass * columns).sum(dim=1) / mass.sum(dim=1)


@pytest.mark.parametrize(("size", "image_size"), [(24, 24), (20, 32), (32, 24), (64, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_without_strength_the_training_view_is_the_evaluation_view(size, image_size, channels):
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (3, size, size, channels), dtype=np.uint8))
    everything = AugmentationPolicy(rotate_degrees=90, flip_horizontal=True, flip_vertical=True, quarter_turns=True)
    warps = draw_warps(rng, 3, policy=everything, strength=0.0)
    recipe = plain(size, image_size, channels)
    torch.testing.assert_close(warp_images(images, warps, recipe), network_input(images, recipe), atol=2e-4, rtol=0)


def test_a_marker_on_the_left_stays_on_the_left_while_flips_are_forbidden():
    warped = warp(marked_left(500), AugmentationPolicy(rotate_degrees=15, brightness=0, contrast=0))
    assert centre_x(warped).max() < 15.5


@pytest.mark.parametrize("allowed", ["flip_horizontal", "flip_vertical"])
def test_an_allowed_flip_happens_to_half_of_the_images_along_its_own_axis(allowed):
    images = marked_left(400)
    axis = 3 if allowed == "flip_horizontal" else 2
    if allowed == "flip_vertical":
        images = images.transpose(0, 2, 1, 3).copy()
    warped = warp(images, NOTHING.model_copy(update={allowed: True}))
    same = network_input(torch.from_numpy(images), plain(32))
    kept = (warped - same).abs().amax(dim=(1, 2, 3)) < 1e-4
    flipped = (warped - same.flip(axis)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (kept | flipped).all()
    assert 160 < flipped.sum() < 240


def test_quarter_turns_are_the_four_exact_turns_in_equal_shares():
    images = marked_left(400)
    warped = warp(images, NOTHING.model_copy(update={"quarter_turns": True}))
    same = network_input(torch.from_numpy(images), plain(32))
    counts = [((warped - same.rot90(k, (2, 3))).abs().amax(dim=(1, 2, 3)) < 1e-3).sum().item() for k in range(4)]
    assert sum(counts) == 400
    assert min(counts) > 60


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_turn_zoom_and_shift_stay_within_strength_times_the_policy(strength):
    policy = AugmentationPolicy(rotate_degrees=20, scale=0.2, translate=0.1)
    theta = draw_warps(np.random.default_rng(0), 4000, policy=policy, strength=strength).theta.double()
    linear = theta[:, :, :2]
    zoom = 1 / torch.linalg.det(linear).sqrt()  # det > 0: nothing is mirrored
    angle = torch.rad2deg(torch.atan2(linear[:, 0, 1], linear[:, 0, 0]))
    shift = -torch.linalg.solve(linear, theta[:, :, 2:]) / 2  # fraction of the side
    assert 0.95 * 20 * strength < angle.abs().max() <= 20 * strength + 1e-4
    assert 0.95 * 0.2 * strength < (zoom - 1).abs().max() <= 0.2 * strength + 1e-4
    assert 0.95 * 0.1 * strength < shift.abs().max() <= 0.1 * strength + 1e-4


def test_a_shift_moves_the_image_by_its_fraction_of_the_side():
    policy = NOTHING.model_copy(update={"translate": 0.1})
    images = marked_left(50)
    warps = draw_warps(np.random.default_rng(0), 50, policy=policy, strength=1.0)
    moved = centre_x(warp_images(torch.from_numpy(images), warps, plain(32)))
    expected = 7.5 - warps.theta[:, 0, 2] / 2 * 32  # theta leads from the output back to the input
    torch.testing.assert_close(moved, expected, atol=0.02, rtol=0)


def test_brightness_and_contrast_stay_within_the_policy():
    rng = np.random.default_rng(0)
    images = rng.integers(60, 200, (200, 8, 8, 1), dtype=np.uint8)
    before = torch.from_numpy(images).float()[..., 0] / 255
    brighter = warp(images, NOTHING.model_copy(update={"brightness": 0.1}))[:, 0] - before
    assert brighter.std(dim=(1, 2)).max() < 1e-4
    assert 0.09 < brighter.abs().max() <= 0.1 + 1e-4
    stronger = warp(images, NOTHING.model_copy(update={"contrast": 0.2}))[:, 0]
    torch.testing.assert_close(stronger.mean(dim=(1, 2)), before.mean(dim=(1, 2)), atol=1e-4, rtol=0)
    ratio = stronger.std(dim=(1, 2)) / before.std(dim=(1, 2))
    assert 0.19 < (ratio - 1).abs().max() <= 0.2 + 1e-4


def test_draws_repeat_with_the_seed_and_take_equally_many_numbers_whatever_the_policy():
    first, second = np.random.default_rng(5), np.random.default_rng(5)
    one = draw_warps(first, 7, policy=AugmentationPolicy(), strength=0.5)
    two = draw_warps(second, 7, policy=AugmentationPolicy(), strength=0.5)
    torch.testing.assert_close(one.theta, two.theta, atol=0, rtol=0)
    draw_warps(first, 7, policy=NOTHING, strength=0.1)
    draw_warps(second, 7, policy=AugmentationPolicy(flip_vertical=True), strength=1.0)
    assert first.random() == second.random()
    torch.testing.assert_close(one[2:4].theta, one.theta[2:4], atol=0, rtol=0)


@pytest.mark.parametrize("side", [1, 2, 7, 32, 224])
def test_the_sampling_grid_is_torch_s_affine_grid(side):
    everything = AugmentationPolicy(rotate_degrees=180, flip_horizontal=True, flip_vertical=True, translate=0.3)
    theta = draw_warps(np.random.default_rng(side), 16, policy=everything, strength=1.0).theta
    expected = F.affine_grid(theta.double(), [16, 1, side, side], align_corners=False).float()
    torch.testing.assert_close(sampling_grid(theta, side), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "image_size", "channels"), [(28, 28, 1), (48, 32, 3), (96, 32, 2)])
def test_a_warp_is_what_torch_s_own_operations_compute_one_after_the_other(size, image_size, channels):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, size, size, channels), dtype=np.uint8))
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    recipe = Preprocessing(size=size, channels=channels, image_size=image_size, mean=mean, std=std)
    warps = draw_warps(np.random.default_rng(1), 8, policy=AugmentationPolicy(), strength=1.0)
    planes = images.permute(0, 3, 1, 2).double()
    if size > 1.5 * image_size:
        planes = F.interpolate(planes, size=(image_size,) * 2, mode="bilinear", antialias=True)
    grid = F.affine_grid(warps.theta.double(), [8, channels, image_size, image_size], align_corners=False)
    planes = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    centre = planes.mean(dim=(1, 2, 3), keepdim=True)
    planes = (planes - centre) * warps.contrast + centre + warps.brightness
    expected = (planes / 255 - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    torch.testing.assert_close(warp_images(images, warps, recipe), expected.float(), atol=2e-4, rtol=0)
