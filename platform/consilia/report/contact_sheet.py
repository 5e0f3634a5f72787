"""Many small pictures with a caption each, on one sheet for people's eyes."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from consilia.report.preview import INK, PAPER, as_tile

_COLUMNS = 5
_GAP, _LINE = 8, 14  # pixels: between tiles, of a line of text
_NARROWEST = 180  # pixels, so that a caption has room
_CHARACTER = 6  # pixels; the built-in font's width


def contact_sheet(pictures: Sequence[npt.NDArray[np.uint8]], captions: Sequence[Sequence[str]]) -> Image.Image:
    """Return the pictures in rows of five, each above its lines of text; a line that is too long is cut in its middle.

    Args:
        pictures: At least one, (size, size, channels) each, of one size.
        captions: As many lines for each.
    """
    tiles = [as_tile(picture) for picture in pictures]
    width = max(_NARROWEST, *(tile.width for tile in tiles))
    height = max(tile.height for tile in tiles) + _LINE * max(len(lines) for lines in captions)
    n_columns = min(_COLUMNS, len(tiles))
    n_rows = math.ceil(len(tiles) / _COLUMNS)
    sheet = Image.new("RGB", (_GAP + n_columns * (width + _GAP), _GAP + n_rows * (height + _GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (width + _GAP), _GAP + row * (height + _GAP)
        sheet.paste(tile, (left, top))
        for place, line in enumerate(lines):
            pen.text((left, top + tile.height + place * _LINE), _fit(line, width // _CHARACTER), fill=INK)
    return sheet


def _fit(line: str, n_characters: int) -> str:
    if len(line) <= n_characters:
        return line
    head = (n_characters - 3) // 3
    return f"{line[:head]}...{line[-(n_characters - 3 - head) :]}"
