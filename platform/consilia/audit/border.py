"""What stands at the border of the stored pictures: markers, text, bars and frames, but anatomy too."""

import numpy as np
import numpy.typing as npt

from consilia.config.records import Rows
from consilia.data.store.image_store import ImageStore

Features = npt.NDArray[np.float32]  # (m, n_features)

_CELLS = 10  # cells a side; the outermost, a tenth of the side, are the border
_CHUNK_BYTES = 16_000_000  # pixels in memory at a time


def border_features(store: ImageStore, rows: Rows) -> Features:
    """Return mean and deviation of every border cell and channel, each feature at mean 0 and deviation 1.

    Args:
        store: The data set; its pixels are read chunk by chunk.
        rows: Which images, ascending, (m,).
    """
    size, channels = store.manifest.size, store.manifest.channels
    chunk = max(1, _CHUNK_BYTES // (size * size * channels))
    parts = [_ring(store.pixels[rows[start : start + chunk]]) for start in range(0, len(rows), chunk)]
    features = np.concatenate(parts)
    deviation = features.std(axis=0)
    scaled: Features = (features - features.mean(axis=0)) / np.where(deviation > 1e-6, deviation, 1.0)
    return scaled


def _ring(pixels: npt.NDArray[np.uint8]) -> Features:
    """Reduce (m, size, size, channels) to (m, n_features)."""
    size = pixels.shape[1]
    n_cells = min(_CELLS, size)
    edges = np.linspace(0, size, n_cells + 1).round().astype(int)
    border = [(row, column) for row in range(n_cells) for column in range(n_cells) if {row, column} & {0, n_cells - 1}]
    cells = [pixels[:, edges[i] : edges[i + 1], edges[j] : edges[j + 1]].astype(np.float32) / 255 for i, j in border]
    moments = [moment for cell in cells for moment in (cell.mean(axis=(1, 2)), cell.std(axis=(1, 2)))]
    return np.concatenate(moments, axis=1)  # each (m, channels)
