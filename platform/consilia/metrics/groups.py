"""The values of a column as groups of images: bands of numbers, or the values themselves."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from consilia.errors import DataError

UNKNOWN = "unknown"
_MISSING = frozenset({"", "nan", "na", "n/a", UNKNOWN})
_MOST_GROUPS = 30
_MOST_NUMBERS = 10  # that stand for themselves, such as a grade; more are cut into bands
_BAND = 10
_DICOM_AGE = re.compile(r"(\d{3})([DWMY])")  # DICOM PS3.5 section 6.2, value representation AS
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Each image in one of some groups, which all have an image."""

    column: str
    names: tuple[str, ...]  # in ascending order of values; "unknown" last
    codes: npt.NDArray[np.int64]  # (n_images,) the number of each image's group


def make_groups(column: str, values: Sequence[str], *, edges: Sequence[float] = ()) -> Groups:
    """Group images by the values of a column.

    Numbers, and ages as DICOM writes them (045Y), fall into bands: between the edges, or, without any, of ten where
    there are more than ten different ones. Other values are groups of their own, and missing ones the group "unknown".

    Args:
        column: Its name, for errors.
        values: Cell of each image as text, (n_images,).
        edges: Ascending; each begins a band.

    Raises:
        DataError: Edges for a column of words, or edges that do not ascend; more than 30 groups.
    """
    texts = [value.strip() for value in values]
    known = [text for text in dict.fromkeys(texts) if text.casefold() not in _MISSING]
    words = [text for text in known if _number(text) is None]
    if edges and words:
        raise DataError(
            f"{column}: edges need a column of numbers, but it holds {words[0]!r}. Correct that value in the table, or "
            "leave the edges out."
        )
    if any(high <= low for low, high in pairwise(edges)):
        raise DataError(f"{column}: edges must ascend, but are {', '.join(f'{edge:g}' for edge in edges)}.")
    if words:
        order, band_of = sorted(known), dict(zip(known, known, strict=True))
    else:
        order, band_of = _bands({text: number for text in known if (number := _number(text)) is not None}, edges)
    names = [*order, UNKNOWN]
    place = {name: code for code, name in enumerate(names)}
    codes = np.array([place[band_of.get(text, UNKNOWN)] for text in texts], dtype=np.int64)
    present = np.unique(codes)
    if len(present) > _MOST_GROUPS:
        raise DataError(
            f"{column}: there must be at most {_MOST_GROUPS} groups, but there are {len(present)}. Choose another "
            f"column, or, of numbers, edges ({column}=18,40,65)."
        )
    return Groups(column=column, names=tuple(names[code] for code in present), codes=np.searchsorted(present, codes))


def _bands(numbers: Mapping[str, float], edges: Sequence[float]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the bands in order, and the band of each text."""
    if edges:
        between = [_band(low, high) for low, high in pairwise(edges)]
        names = [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]
        places = np.searchsorted(edges, list(numbers.values()), side="right")
        return names, {text: names[place] for text, place in zip(numbers, places, strict=True)}
    different = sorted(set(numbers.values()))
    if len(different) <= _MOST_NUMBERS:
        return [_exactly(each) for each in different], {text: _exactly(number) for text, number in numbers.items()}
    starts = {text: int(number // _BAND) * _BAND for text, number in numbers.items()}
    names = [_band(start, start + _BAND) for start in sorted(set(starts.values()))]
    return names, {text: _band(start, start + _BAND) for text, start in starts.items()}


def _band(low: float, high: float) -> str:
    return f"{low:g} to under {high:g}"


def _exactly(number: float) -> str:
    return f"{number:.15g}"


def _number(text: str) -> float | None:
    """Return the number that a cell holds, an age in years; None for words."""
    if age := _DICOM_AGE.fullmatch(text):
        return int(age[1]) * _YEARS[age[2]]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
