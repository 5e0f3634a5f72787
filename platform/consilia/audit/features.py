"""What is tried as a shortcut: columns of the index, and the border of the stored pictures.

A column is what a file or a table says of an image beside its picture. The border holds markers, text, bars and frames,
but anatomy too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.preprocessing import OneHotEncoder

from consilia.audit.counts import shorten
from consilia.audit.document import Origin, Skipped
from consilia.config.records import Rows
from consilia.data.store.image_store import META, TAG, ImageStore

_MOST_VALUES = 64  # of one column; rarer ones count as one value
_BINS = 10  # of equal frequency, that numbers of more distinct values are cut into
_IDENTIFIER = 0.5  # distinct values a patient, above which a column names rather than describes
_MISSING, _RARE = -1, -2
_FILE = ("width", "height", "format", "mode")
SAVED_AS = ("file format", "file mode")  # columns of how a file was saved, whatever its size
_CELLS = 10  # cells a side; the outermost, a tenth of the side, are the border
_CHUNK_BYTES = 16_000_000  # pixels in memory at a time

Features = npt.NDArray[np.float32]  # (m, n_features)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnFeature:
    """One column as whole numbers, equal for images that it does not tell apart."""

    name: str
    origin: Origin
    codes: npt.NDArray[np.int64]  # (m,)

    @property
    def n_values(self) -> int:
        """Number of distinct codes."""
        return len(np.unique(self.codes))


def read_columns(index: pd.DataFrame) -> tuple[list[ColumnFeature], list[Skipped]]:
    """Turn every usable column of the table, of the DICOM tags and of the file itself into a feature.

    Numbers of many values are cut into ten parts of equal frequency; of text the 64 most frequent values count. An
    identifier (text or whole numbers, more than half as many values as patients) is reduced to whether it is filled.

    Args:
        index: Of the store, the rows that are tried, (m,).

    Returns:
        The features, and what was skipped, with the reason.
    """
    features: list[ColumnFeature] = []
    skipped: list[Skipped] = []
    patients = index["patient_id"].reset_index(drop=True)
    for name, origin, values in _columns(index):
        found = _encode(name, origin, values.reset_index(drop=True), patients)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            features.append(found)
    return features, skipped


def one_hot(features: Sequence[ColumnFeature]) -> npt.NDArray[np.float64]:
    """Return the features as a sparse matrix of ones and zeros, (m, sum of n_values)."""
    return OneHotEncoder().fit_transform(np.column_stack([each.codes for each in features]))  # type: ignore[no-any-return]


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


def _columns(index: pd.DataFrame) -> Iterator[tuple[str, Origin, "pd.Series[str]"]]:
    for name in index.columns:
        if name.startswith(META):
            yield name.removeprefix(META), "table", index[name]
        elif name.startswith(TAG):
            yield name.removeprefix(TAG), "tag", index[name]
    for name in _FILE:
        yield f"file {name}", "file", index[name].astype(str)
    yield "file aspect", "file", (index["width"] / index["height"]).round(4).astype(str)


def _encode(name: str, origin: Origin, values: "pd.Series[str]", patients: "pd.Series[str]") -> ColumnFeature | Skipped:
    filled = values.str.strip() != ""
    known = values[filled]
    if known.empty:
        return Skipped(name=name, origin=origin, reason="no image has a value")
    n_distinct = known.nunique()
    if n_distinct == 1 and filled.all():
        return Skipped(name=name, origin=origin, reason=f"always {shorten(known.iloc[0])!r}")
    n_patients = patients[filled].nunique()
    codes = np.full(len(values), _MISSING, dtype=np.int64)
    numbers = _numbers(known)
    if origin != "file" and _names(n_distinct, n_patients, numbers):
        if filled.all():
            reason = f"an identifier: {n_distinct:,} values among {n_patients:,} patients"
            return Skipped(name=name, origin=origin, reason=reason)
        codes[filled] = 0
        return ColumnFeature(name=f"{name}, whether it is filled", origin=origin, codes=codes)
    codes[filled] = _text_codes(known) if numbers is None or n_distinct <= _BINS else _bins(numbers)
    return ColumnFeature(name=name, origin=origin, codes=codes)


def _numbers(values: "pd.Series[str]") -> npt.NDArray[np.float64] | None:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    return numbers if np.isfinite(numbers).all() else None


def _names(n_distinct: int, n_patients: int, numbers: npt.NDArray[np.float64] | None) -> bool:
    """Tell identifiers from descriptions; a number with decimals is measured, never an identifier."""
    whole = numbers is None or bool((numbers == np.round(numbers)).all())
    return whole and n_distinct > max(2, _IDENTIFIER * n_patients)


def _text_codes(values: "pd.Series[str]") -> npt.NDArray[np.int64]:
    common = values.value_counts().index[:_MOST_VALUES]
    codes = pd.Index(common).get_indexer(values).astype(np.int64)
    return np.where(codes < 0, _RARE, codes)


def _bins(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return np.searchsorted(edges, numbers, side="right").astype(np.int64)


def _ring(pixels: npt.NDArray[np.uint8]) -> Features:
    """Reduce (m, size, size, channels) to (m, n_features)."""
    size = pixels.shape[1]
    n_cells = min(_CELLS, size)
    edges = np.linspace(0, size, n_cells + 1).round().astype(int)
    border = [(row, column) for row in range(n_cells) for column in range(n_cells) if {row, column} & {0, n_cells - 1}]
    cells = [pixels[:, edges[i] : edges[i + 1], edges[j] : edges[j + 1]].astype(np.float32) / 255 for i, j in border]
    moments = [moment for cell in cells for moment in (cell.mean(axis=(1, 2)), cell.std(axis=(1, 2)))]
    return np.concatenate(moments, axis=1)  # each (m, channels)
