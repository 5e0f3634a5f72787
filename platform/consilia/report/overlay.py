"""A heat map over its image, for people's eyes: the plain image beside it, since the overlay hides what it marks."""

import textwrap
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from consilia.predict.explain import UNIT, Explanation

Picture = npt.NDArray[np.uint8]

COLOUR_MAP = "viridis"  # perceptually uniform, told apart by colour-blind people, and free of the image's greys
_OPACITY = 0.65  # of the strongest place; the weaker a place, the more of the image it shows
_SMALLEST, _LARGEST = 256, 512  # side of the shown image, pixels: smaller ones are enlarged, larger ones reduced
_GAP = 8
_LINE = 18  # height of a line of text, pixels
_LETTER = 12  # height of a letter
_BAR = 12  # width of the colour bar
_SCALE = 34  # width of its numbers and unit
_PAPER, _INK = (24, 24, 24), (220, 220, 220)


def draw_explanation(explanation: Explanation, name: str = "", *, footnote: str) -> Image.Image:
    """Return the overlay of an image's heat map; where the map says nothing, the sentence on why stands in its place.

    Args:
        explanation: The heat map.
        name: Of the image; of a path, its last part is shown. "": the picture names no file.
        footnote: As of `draw_overlay`.
    """
    said = f"{explanation.label}   calibrated probability {explanation.probability:.3f}"
    return draw_overlay(
        explanation.pixels,
        explanation.says_nothing_because or explanation.heat_map,
        caption=f"{said}   {Path(name).name}" if name else said,
        unit=UNIT,
        footnote=footnote,
    )


def draw_overlay(
    pixels: Picture, heat_map: npt.NDArray[np.float32] | str, *, caption: str, unit: str, footnote: str
) -> Image.Image:
    """Return the image on the left, the image under its heat map on the right, and the colours' scale.

    Args:
        pixels: (size, size, channels); several channels are shown as their grey mean.
        heat_map: (size, size), of which what is above 0 is drawn; or a sentence on why there is none, which stands in
            its place.
        caption: Above; cut off where the picture ends.
        unit: Of the heat map.
        footnote: Below, likewise.
    """
    grey = _shown(Image.fromarray(pixels.mean(axis=2).round().astype(np.uint8)), Image.Resampling.NEAREST)
    plain = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    side = len(plain)
    sheet = Image.new("RGB", (5 * _GAP + 2 * side + _BAR + _SCALE, 2 * _LINE + side + 2 * _GAP), _PAPER)
    top, right = _LINE + _GAP, 2 * _GAP + side
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_LETTER)
    sheet.paste(Image.fromarray(plain), (_GAP, top))
    if isinstance(heat_map, str):
        words = textwrap.fill(heat_map, side // 7)  # letters are 6 pixels wide on average
        pen.multiline_text((right + _GAP, top + _GAP), words, fill=_INK, font=font, spacing=6)
    else:
        bar = np.repeat(np.linspace(1, 0, side, dtype=np.float32)[:, None], _BAR, axis=1)
        sheet.paste(_under_heat(plain, heat_map), (right, top))
        sheet.paste(Image.fromarray(_coloured(bar)), (right + side + _GAP, top))
        scale = right + side + _GAP + _BAR + 4
        pen.text((scale, top), f"{heat_map.max():.2g}", fill=_INK, font=font)
        pen.text((scale, top + side - 14), "0", fill=_INK, font=font)
        sheet.paste(_upright(unit, font), (scale, top + 20))
    pen.text((_GAP, _GAP // 2), caption, fill=_INK, font=font)
    pen.text((_GAP, top + side + 2), footnote, fill=_INK, font=font)
    return sheet


def draw_pair(pixels: Picture, heat_map: npt.NDArray[np.float32] | None, *, side: int) -> Image.Image:
    """Return the image, and beside it itself under its heat map, without any text.

    Args:
        pixels: (size, size, channels); several channels are shown as their grey mean.
        heat_map: (size, size), of which what is above 0 is drawn; None: its place stays empty.
        side: Of each of the two, pixels.
    """
    grey = Image.fromarray(pixels.mean(axis=2).round().astype(np.uint8))
    resampling = Image.Resampling.NEAREST if side % grey.width == 0 else Image.Resampling.LANCZOS
    plain = np.repeat(np.asarray(grey.resize((side, side), resampling))[..., None], 3, axis=2)
    pair = Image.new("RGB", (2 * side + _GAP // 2, side), _PAPER)
    pair.paste(Image.fromarray(plain), (0, 0))
    if heat_map is not None:
        pair.paste(_under_heat(plain, heat_map), (side + _GAP // 2, 0))
    return pair


def _upright(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """Return the text from the bottom to the top."""
    line = Image.new("RGB", (round(font.getlength(text)), _LINE), _PAPER)
    ImageDraw.Draw(line).text((0, 0), text, fill=_INK, font=font)
    return line.transpose(Image.Transpose.ROTATE_90)


def _shown(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    side = image.width
    if side < _SMALLEST:
        side *= -(-_SMALLEST // side)
    elif side > _LARGEST:
        side, resampling = _LARGEST, Image.Resampling.BOX
    return image.resize((side, side), resampling)


def _under_heat(plain: Picture, heat_map: npt.NDArray[np.float32]) -> Image.Image:
    """Return the picture under what is above 0 in its heat map, which is enlarged or reduced to it."""
    highest, side = float(heat_map.max()), len(plain)
    positive = np.clip(heat_map / highest if highest > 0 else 0 * heat_map, 0, None).astype(np.float32)
    resampling = Image.Resampling.BOX if side < len(heat_map) else Image.Resampling.BILINEAR
    heat = Image.fromarray(positive, mode="F").resize((side, side), resampling)
    return Image.fromarray(_blend(plain, np.asarray(heat).clip(0, 1)))


def _blend(plain: Picture, heat: npt.NDArray[np.float32]) -> Picture:
    opacity = _OPACITY * heat[..., None]
    mixed: Picture = (plain * (1 - opacity) + _coloured(heat) * opacity).round().astype(np.uint8)
    return mixed


def _coloured(heat: npt.NDArray[np.float32]) -> Picture:
    index = (heat * 255).round().astype(np.uint8)
    return _colours()[index]


@lru_cache(maxsize=1)
def _colours() -> Picture:
    """The colour map, (256, 3)."""
    table: Picture = (np.asarray(colormaps[COLOUR_MAP](np.arange(256)))[:, :3] * 255).round().astype(np.uint8)
    return table
