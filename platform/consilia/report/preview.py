"""One image under many draws of its augmentation, as the network sees them, on one sheet for people's eyes."""

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from consilia.config.augmentation import AugmentationPolicy
from consilia.train.input import Preprocessing
from consilia.train.warp import draw_warps, training_input

Picture = npt.NDArray[np.uint8]

_ROWS, _COLUMNS = 4, 4
N_DRAWS = _ROWS * _COLUMNS
_GAP = 6  # pixels between the draws; three times as much beside the original
_CAPTION = 14  # height of the line of text, pixels
_SMALLEST, _LARGEST = 128, 512  # sides of a shown image, pixels: smaller ones are enlarged, larger ones reduced
PAPER, INK = (24, 24, 24), (220, 220, 220)


def draw_views(image: Picture, *, policy: AugmentationPolicy, strength: float, seed: int = 0) -> Picture:
    """Return what a network is shown of one stored image.

    The images go through the training's own `training_input` and are de-normalised; what lies beyond black and white,
    which a network does see, is cut off.

    Args:
        image: (size, size, channels), as it is stored.
        policy: Of the card.
        strength: 0 ... 1.
        seed: Decides the draws.

    Returns:
        (1 + N_DRAWS, size, size, channels): the evaluation view, then the draws.
    """
    size, channels = image.shape[1:]
    half = (0.5,) * channels
    recipe = Preprocessing(size=size, channels=channels, image_size=size, mean=half, std=half)
    images = torch.from_numpy(np.repeat(image[None], N_DRAWS, axis=0))
    warps = draw_warps(np.random.default_rng(seed), N_DRAWS, policy=policy, strength=strength)
    seen = torch.cat([training_input(images[:1], None, recipe), training_input(images, warps, recipe)])
    pixels: Picture = ((seen + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return pixels


def make_sheet(views: Picture) -> Image.Image:
    """Return the original on the left and its draws in four rows of four.

    Args:
        views: Of `draw_views`. One channel is shown grey, three as red, green and blue, others side by side.
    """
    tiles = [as_tile(view) for view in views]
    width, height = tiles[0].size
    left = width + 3 * _GAP
    size = (_GAP + left + _COLUMNS * (width + _GAP), _CAPTION + _ROWS * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, PAPER)
    sheet.paste(tiles[0], (_GAP, _CAPTION))
    for number, tile in enumerate(tiles[1:]):
        row, column = divmod(number, _COLUMNS)
        sheet.paste(tile, (_GAP + left + column * (width + _GAP), _CAPTION + row * (height + _GAP)))
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 1), "original", fill=INK)
    pen.text((_GAP + left, 1), f"{N_DRAWS} draws", fill=INK)
    return sheet


def describe_policy(policy: AugmentationPolicy, strength: float) -> list[tuple[str, str]]:
    """Return what may be done to an image at a strength, in words: (what, within which limits)."""
    axes = {"left-right": policy.flip_horizontal, "up-down": policy.flip_vertical}
    flips = [axis for axis, allowed in axes.items() if allowed]
    return [
        ("turn", f"up to {policy.rotate_degrees * strength:g} degrees to either side"),
        ("quarter turns", _chance(policy.quarter_turns, strength)),
        ("flip", f"{' and '.join(flips)}, each {_chance(True, strength / 2)}" if flips else "never"),
        ("zoom", f"up to {policy.scale * strength:.3g} of the side, in and out"),
        ("shift", f"up to {policy.translate * strength:.3g} of the side"),
        ("brightness", f"up to {policy.brightness * strength:.3g} of the range, up and down"),
        ("contrast", f"up to {policy.contrast * strength:.3g}, more and less; never inverted"),
    ]


def _chance(allowed: bool, probability: float) -> str:
    return f"in {probability:.0%} of the draws" if allowed else "never"


def as_tile(view: Picture) -> Image.Image:
    """Return one view in a size that people can look at."""
    size, _, channels = view.shape
    if channels not in (1, 3):
        view = np.concatenate(np.split(view, channels, axis=2), axis=1)
    tile = Image.fromarray(view[..., 0] if view.shape[2] == 1 else view).convert("RGB")
    if size > _LARGEST:
        scale = _LARGEST / size
        return tile.resize((round(tile.width * scale), _LARGEST), Image.Resampling.LANCZOS)
    factor = math.ceil(_SMALLEST / size)  # whole, so that a pixel stays a square
    return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)
