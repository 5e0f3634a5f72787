"""64 bits that are close for pictures that look alike, whatever their size, compression or brightness.

Source: the DCT hash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

_SIDE = 32  # pixels that the picture is reduced to
_LOW = 8  # frequencies a side that are kept
_ANGLES = np.pi * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5) / _SIDE
_DCT = np.cos(_ANGLES) * np.sqrt(np.array([[1.0], *[[2.0]] * (_LOW - 1)]) / _SIDE)  # orthonormal DCT-II


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """Return the hash of one stored image.

    Args:
        pixels: (size, size, channels).

    Returns:
        A whole number of 64 bits; the number of bits in which two hashes differ says how unlike they are.
    """
    channels = pixels.shape[2]
    grey = pixels[:, :, 0] if channels == 1 else pixels.mean(axis=2, dtype=np.float32).astype(np.uint8)
    image = Image.fromarray(grey)
    factor, remainder = divmod(len(grey), _SIDE)  # whole boxes are averaged three times faster
    image = image.resize((_SIDE, _SIDE), Image.Resampling.BOX) if remainder else image.reduce(factor)
    small = np.asarray(image, dtype=np.float64)
    # Rounded, so that the last bits of a sum, which differ between machines, decide nothing.
    low = np.round(_DCT @ small @ _DCT.T, 6).ravel()
    # The median of the 63 without the mean grey, which would move it; np.median takes ten times longer.
    bits = low > np.partition(low[1:], 31)[31]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
