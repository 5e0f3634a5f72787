"""A picture at low resolution, as frequencies, which compression, resizing and brightness hardly change.

Source of the hash: the DCT hash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.fft import dct

Span = tuple[int, int]  # first pixel, and the one after the last
Frequencies = npt.NDArray[np.float32]  # (kept, kept) cosine coefficients, [0, 0] is the mean grey

_HASH_SIDE, _HASH_FREQUENCIES = 32, 8  # cells a side that the picture is reduced to; frequencies a side that are kept


def grey_frequencies(
    image: npt.NDArray[np.uint8], *, side: int, kept: int, box: tuple[Span, Span] | None = None
) -> Frequencies:
    """Return the lowest cosine frequencies of an image's grey means.

    Args:
        image: (size, size, channels).
        side: The grey means are taken over side x side cells of equal area.
        kept: Frequencies a side that are returned, up to `side`.
        box: Rows and columns to look at; None: all.
    """
    grey = image[:, :, 0].astype(np.float32) if image.shape[2] == 1 else image.mean(axis=2, dtype=np.float32)
    rows, columns = box or ((0, len(grey)), (0, len(grey)))
    down = _transform(rows, side=side, kept=kept)
    across = _transform(columns, side=side, kept=kept)
    result: Frequencies = down @ grey[slice(*rows), slice(*columns)] @ across.T
    return result


def content_box(image: npt.NDArray[np.uint8], *, dark: int, share: float) -> tuple[Span, Span]:
    """Return rows and columns without the dark border: that of a padded image would make all such images alike.

    Args:
        image: (size, size, channels).
        dark: Grey value from which on a pixel is content.
        share: A row or column belongs to the border while it has fewer such pixels than this share of the fullest
            one, so that a text in the border does not widen the box.
    """
    bright = (image >= dark).any(axis=2)
    return _span(bright.sum(axis=1), share), _span(bright.sum(axis=0), share)


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """Return the hash of one stored image.

    Args:
        pixels: (size, size, channels).

    Returns:
        A whole number of 64 bits; the number of bits in which two hashes differ says how unlike they are.
    """
    low = grey_frequencies(pixels, side=_HASH_SIDE, kept=_HASH_FREQUENCIES).ravel()
    # The median without the mean grey, which would move it; np.median takes twenty times longer for its 63 values.
    bits = low > np.partition(low[1:], 31)[31]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _span(counts: npt.NDArray[np.int64], share: float) -> Span:
    filled = np.flatnonzero(counts >= max(1.0, share * counts.max()))
    return (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)


@lru_cache(maxsize=4096)
def _transform(span: Span, *, side: int, kept: int) -> npt.NDArray[np.float32]:
    """Return the matrix that averages the pixels of `span` into cells and takes their frequencies, (kept, pixels)."""
    length = span[1] - span[0]
    edges = np.arange(side + 1) * length / side
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    means = overlap.clip(min=0) * side / length
    frequencies: npt.NDArray[np.float32] = dct(means, axis=0, norm="ortho")[:kept].astype(np.float32)
    return frequencies
