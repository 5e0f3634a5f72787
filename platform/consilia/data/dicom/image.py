"""DICOM images: stored values, modality values, window, grey. Source: DICOM PS3.4, N.2."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from consilia.config.reading import FileWindow, FixedWindows, PercentileWindow, Reading, WindowRule
from consilia.data.dicom.header import Header, collect_tags
from consilia.data.dicom.pixels import GREY, decode_frame, read_module
from consilia.data.dicom.values import FrameElements, apply_file_window, find_padding, read_modality
from consilia.data.quiet import quietly
from consilia.data.square import Picture, Pixels, choose_frame, stack_square, to_square
from consilia.data.voi import (
    Bytes,
    Levels,
    Values,
    apply_percentiles,
    apply_window,
    by_percentiles,
    find_levels,
    require_finite,
    to_bytes,
)
from consilia.errors import ReaderError


def read_dicom(header: Header, reading: Reading, *, frame: int | None, as_displayed: bool) -> Picture:
    """Decode one frame and fit it; see `consilia.data.decode.reader.read_image`.

    Raises:
        ReaderError: The file is damaged, has several frames where the reading wants one, or cannot be shown under
            the reading's window.
    """
    try:
        with quietly():
            return _read(header, reading, frame, FileWindow() if as_displayed else reading.window)
    except ReaderError:
        raise
    except Exception as error:  # damaged elements can make pydicom raise nearly anything
        raise ReaderError(f"{header.name}: the DICOM file cannot be read: {error or type(error).__name__}") from error


def _read(header: Header, reading: Reading, frame: int | None, rule: WindowRule) -> Picture:
    module = read_module(header)
    chosen = choose_frame(module.n_frames, reading, frame, header.name)
    is_grey = module.photometric in GREY
    if isinstance(rule, FixedWindows) and not is_grey:
        raise ReaderError(
            f"{header.name}: the windows are in the values of grey DICOM images (CT: Hounsfield units), and this one "
            f"is in colour ({module.photometric}). Leave it out, or set `window: {{kind: file}}`."
        )
    values = decode_frame(header, module, chosen)
    if is_grey:
        pixels = _fit_grey(values, FrameElements(header, module, chosen), reading, rule)
    else:
        pixels = _fit_colour(values, reading, rule, header.name)
    return Picture(
        pixels=pixels,
        kind="dicom",
        format="DICOM",
        mode=f"{module.photometric} {module.bits_stored} bit",
        width=module.columns,
        height=module.rows,
        tags=collect_tags(header),
    )


def _fit_colour(values: npt.NDArray[np.uint8], reading: Reading, rule: WindowRule, name: str) -> Pixels:
    if isinstance(rule, PercentileWindow):
        values = by_percentiles(values, rule, name=name)
    return to_square(Image.fromarray(np.ascontiguousarray(values)), reading, name=name)


def _fit_grey(stored: npt.NDArray[Any], elements: FrameElements, reading: Reading, rule: WindowRule) -> Pixels:
    require_finite(stored, elements.name)
    levels = find_levels(stored)
    padding = find_padding(levels.values, elements)
    windows = [levels.map(_to_shown(shares, padding, elements)) for shares in _shares(levels, padding, elements, rule)]
    if isinstance(rule, FixedWindows):
        return stack_square(windows, reading)
    return to_square(Image.fromarray(windows[0]), reading, name=elements.name)


def _to_shown(shares: Values, padding: npt.NDArray[np.bool_], elements: FrameElements) -> Bytes:
    """Invert MONOCHROME1, then make padding black under every window, since it is not tissue."""
    table = to_bytes(shares)
    if elements.module.photometric == "MONOCHROME1":
        table = 255 - table
    table[padding] = 0
    return table


def _shares(levels: Levels, padding: npt.NDArray[np.bool_], elements: FrameElements, rule: WindowRule) -> list[Values]:
    """Return the share of white of each stored value, (n_levels,), for each window."""
    modality = read_modality(elements)
    values = modality.apply(levels.values)
    if isinstance(rule, FixedWindows):
        return [apply_window(values, window.center, window.width, name=elements.name) for window in rule.windows]
    if isinstance(rule, PercentileWindow):
        counts = np.where(padding, 0, levels.counts())
        return [apply_percentiles(Levels(values, levels.image, levels.first), rule, counts)]
    return [apply_file_window(values, modality, elements)]
