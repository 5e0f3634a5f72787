"""The elements that turn the stored values of a frame into modality values, and those into grey.

Source: DICOM PS3.3, C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (padding), C.7.6.16.2 (elements by frame).
pydicom 3's `pixels.processing` is not used: it does not see elements by frame, and its 8-bit lookup tables wrap around.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from consilia.data.dicom.header import Header
from consilia.data.dicom.pixels import PixelModule
from consilia.data.voi import Values, VoiFunction, apply_window
from consilia.errors import ReaderError

_FULL_RANGE_BITS = 8  # a grey image of more bits needs a window
_TRANSFORM, _FRAME_VOI = "PixelValueTransformationSequence", "FrameVOILUTSequence"
_GROUPS = {
    "RescaleSlope": _TRANSFORM,
    "RescaleIntercept": _TRANSFORM,
    "WindowCenter": _FRAME_VOI,
    "WindowWidth": _FRAME_VOI,
    "VOILUTFunction": _FRAME_VOI,
}
_FUNCTIONS: dict[str, VoiFunction] = {"LINEAR": "LINEAR", "LINEAR_EXACT": "LINEAR_EXACT", "SIGMOID": "SIGMOID"}


@dataclass(frozen=True, slots=True)
class FrameElements:
    """Elements of one frame: its own, else those that all frames share, else the image's."""

    header: Header
    module: PixelModule
    frame: int

    @property
    def name(self) -> str:
        """Return what an error calls the file."""
        return self.header.name

    def first_number(self, keyword: str) -> float | None:
        """Return an element's first value; None where it is absent or empty.

        Raises:
            ReaderError: It is not a finite number.
        """
        try:
            value = self.get(keyword)
            if value is not None and not isinstance(value, (str, bytes)) and hasattr(value, "__getitem__"):
                value = value[0] if len(value) else None
            number = None if value is None or value == "" else float(value)
        except Exception as error:  # pydicom converts on access, and damaged bytes can make that raise nearly anything
            raise ReaderError(f"{self.name}: DICOM's {keyword} is damaged: {error}") from error
        if number is not None and not np.isfinite(number):
            raise ReaderError(f"{self.name}: DICOM's {keyword} must be a finite number, but is {number}.")
        return number

    def get(self, keyword: str) -> Any:
        """Return an element's value; None where it is absent."""
        group = _GROUPS.get(keyword, "")
        for place in (*self._functional_groups(group), self.header.dataset):
            if keyword in place:
                return place[keyword].value
        return None

    def _functional_groups(self, group: str) -> list[Dataset]:
        dataset = self.header.dataset
        own = dataset.get("PerFrameFunctionalGroupsSequence") or []
        shared = dataset.get("SharedFunctionalGroupsSequence") or []
        items = [*own[self.frame : self.frame + 1], *shared[:1]] if group else []
        return [found[0] for item in items if (found := item.get(group))]

    def table(self, keyword: str) -> "LookupTable | None":
        """Return the first item of a sequence of lookup tables; None where it is absent.

        Raises:
            ReaderError: It is damaged.
        """
        sequence = self.header.dataset.get(keyword)
        if not sequence:
            return None
        try:
            return _read_table(sequence[0], self)
        except Exception as error:
            raise ReaderError(f"{self.name}: DICOM's {keyword} is damaged: {error}") from error


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A modality or VOI LUT; values outside it take its first or last entry."""

    entries: Values  # (n_entries,)
    first: int  # the value that the first entry stands for
    highest: float  # that an entry may have, by its bits

    def apply(self, values: Values) -> Values:
        """Look values up, any shape."""
        positions = np.clip(np.floor(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[positions.astype(np.intp)])


@dataclass(frozen=True, slots=True)
class Modality:
    """Turns stored values into those of the modality, such as Hounsfield units."""

    slope: float
    intercept: float
    table: LookupTable | None

    def apply(self, values: Values) -> Values:
        """Return modality values, any shape."""
        return self.table.apply(values) if self.table else values * self.slope + self.intercept


def read_modality(elements: FrameElements) -> Modality:
    """Read the modality LUT, or slope and intercept; without either, the stored values are taken as they are.

    Raises:
        ReaderError: They are damaged, or the slope is 0.
    """
    slope, intercept = elements.first_number("RescaleSlope"), elements.first_number("RescaleIntercept")
    if slope == 0:
        raise ReaderError(f"{elements.name}: DICOM's RescaleSlope must not be 0: every pixel would be equal.")
    return Modality(
        1.0 if slope is None else slope,
        0.0 if intercept is None else intercept,
        elements.table("ModalityLUTSequence"),
    )


def apply_file_window(values: Values, modality: Modality, elements: FrameElements) -> Values:
    """Map modality values to [0, 1] as the file says: VOI LUT, first window, or the full range of 8 bits.

    Raises:
        ReaderError: The window is damaged, or it is absent and the image has more than 8 bits.
    """
    if (table := elements.table("VOILUTSequence")) is not None:
        return table.apply(values) / table.highest
    center, width = elements.first_number("WindowCenter"), elements.first_number("WindowWidth")
    if center is not None and width is not None:
        named = str(elements.get("VOILUTFunction") or "LINEAR").strip().upper()
        if named not in _FUNCTIONS:
            raise ReaderError(f"{elements.name}: DICOM's VOILUTFunction must be {', '.join(_FUNCTIONS)}, not {named}.")
        return apply_window(values, center, width, function=_FUNCTIONS[named], name=elements.name)
    n_bits = elements.module.bits_stored
    if n_bits > _FULL_RANGE_BITS:
        raise ReaderError(
            f"{elements.name}: a grey DICOM image of {n_bits} bits must say how it is to be shown, but it has no "
            "window. Set `window: {kind: percentiles}`, or `{kind: fixed, windows: [...]}` with the windows for this "
            "kind of image."
        )
    half = 1 << (n_bits - 1)
    stored = (-half, half - 1) if elements.module.is_signed else (0, 2 * half - 1)
    ends = modality.apply(np.array(stored, dtype=np.float64))
    low, high = (0.0, modality.table.highest) if modality.table else (ends.min(), ends.max())
    return np.clip((values - low) / (high - low), 0, 1)


def find_padding(stored: Values, elements: FrameElements) -> npt.NDArray[np.bool_]:
    """Tell which stored values are padding, not image.

    Raises:
        ReaderError: The elements are damaged.
    """
    start, limit = elements.first_number("PixelPaddingValue"), elements.first_number("PixelPaddingRangeLimit")
    if start is None:
        return np.zeros(stored.shape, dtype=bool)
    ends = [_signed_as_pixels(end, elements.module) for end in (start, start if limit is None else limit)]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _signed_as_pixels(value: float, module: PixelModule) -> float:
    """Give a padding value the sign that the pixels have, since files mix up the types US and SS."""
    span = float(1 << module.bits_allocated)
    if module.is_signed and value >= span / 2:
        return value - span
    return value + span if not module.is_signed and value < 0 else value


def _read_table(item: Dataset, elements: FrameElements) -> LookupTable:
    n_entries, first, n_bits = (int(part) for part in item.LUTDescriptor)
    n_entries = n_entries or 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if elements.header.syntax.is_little_endian else ">"
        packed = len(data) < 2 * n_entries  # one byte an entry
        data = np.frombuffer(data, dtype=np.uint8 if packed else f"{order}u2")
    entries = np.atleast_1d(np.asarray(data, dtype=np.float64))[:n_entries]
    if len(entries) < n_entries or not 1 <= n_bits <= 16:
        raise ValueError(f"{len(entries)} entries of {n_bits} bits, but the descriptor says {n_entries}")
    if elements.module.is_signed and first >= 1 << 15:
        first -= 1 << 16
    # Some files state fewer bits than their entries have.
    return LookupTable(entries, first, max((1 << n_bits) - 1, (1 << int(entries.max()).bit_length()) - 1))
