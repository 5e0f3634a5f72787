"""Several pictures on one sheet for people: an image under many draws of its augmentation, and images with captions."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from consilia.config.augmentation import AugmentationPolicy
from consilia.config.network import Preprocessing
from consilia.train.warp import draw_warps, training_input

Picture = npt.NDArray[np.uint8]

N_DRAWS = 16
_DRAWS_IN_A_ROW = 4
_DRAWS_GAP = 6  # pixels between the draws; three times as much beside the original
_CAPTIONED_IN_A_ROW = 5
_CAPTIONED_GAP = 8  # pixels
_NARROWEST = 180  # pixels, so that a caption has room
_CHARACTER, _LINE = 6, 14  # pixels: width of the built-in font, height of a line of text
_SMALLEST, _LARGEST = 128, 512  # sides of a shown image, pixels: smaller ones are enlarged, larger ones reduced
_PAPER, _INK = (24, 24, 24), (220, 220, 220)


def draw_views(image: Picture, *, policy: AugmentationPolicy, strength: float, seed: int = 0) -> Picture:
    """Return what a network is shown of one stored image.

    The images go through the training's own `training_input` and are de-normalised; values beyond black and white,
    which a network does see, are clipped.

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
    """Return the original on the left and its draws in rows of four.

    Args:
        views: Of `draw_views`. One channel is shown grey, three as red, green and blue, others side by side.
    """
    tiles = [_as_tile(view) for view in views]
    width, height = tiles[0].size
    gap, n_columns, n_rows = _DRAWS_GAP, _DRAWS_IN_A_ROW, N_DRAWS // _DRAWS_IN_A_ROW
    left = width + 3 * gap
    size = (gap + left + n_columns * (width + gap), _LINE + n_rows * (height + gap) + gap)
    sheet = Image.new("RGB", size, _PAPER)
    sheet.paste(tiles[0], (gap, _LINE))
    for number, tile in enumerate(tiles[1:]):
        row, column = divmod(number, n_columns)
        sheet.paste(tile, (gap + left + column * (width + gap), _LINE + row * (height + gap)))
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, 1), "original", fill=_INK)
    pen.text((gap + left, 1), f"{N_DRAWS} draws", fill=_INK)
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


def contact_sheet(pictures: Sequence[Picture], captions: Sequence[Sequence[str]]) -> Image.Image:
    """Return the pictures in rows of five, each above its lines of text; a line that is too long is cut in its middle.

    Args:
        pictures: At least one, (size, size, channels) each, all of one size.
        captions: The lines of text of each picture.
    """
    tiles = [_as_tile(picture) for picture in pictures]
    gap = _CAPTIONED_GAP
    width = max(_NARROWEST, *(tile.width for tile in tiles))
    height = max(tile.height for tile in tiles) + _LINE * max(len(lines) for lines in captions)
    n_columns = min(_CAPTIONED_IN_A_ROW, len(tiles))
    n_rows = math.ceil(len(tiles) / n_columns)
    sheet = Image.new("RGB", (gap + n_columns * (width + gap), gap + n_rows * (height + gap)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(number, n_columns)
        left, top = gap + column * (width + gap), gap + row * (height + gap)
        sheet.paste(tile, (left, top))
        for place, line in enumerate(lines):
            pen.text((left, top + tile.height + place * _LINE), _fit(line, width // _CHARACTER), fill=_INK)
    return sheet


def _chance(allowed: bool, probability: float) -> str:
    return f"in {probability:.0%} of the draws" if allowed else "never"


def _as_tile(view: Picture) -> Image.Image:
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


def _fit(line: str, n_characters: int) -> str:
    if len(line) <= n_characters:
        return line
    head = (n_characters - 3) // 3
    return f"{line[:head]}...{line[-(n_characters - 3 - head) :]}"
