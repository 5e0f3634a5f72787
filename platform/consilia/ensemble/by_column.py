"""The columns of a store that an evaluation can be split by."""

import difflib
import math
from collections.abc import Mapping

from consilia.config.records import Rows
from consilia.data.store.image_store import META, TAG, ImageStore
from consilia.errors import DataError
from consilia.metrics.subgroups import Groups, make_groups

_OF_FILES = ("kind", "format", "mode", "width", "height")


def read_groups(store: ImageStore, rows: Rows, by: str) -> Groups:
    """Group images by a column of the card's table, a DICOM tag, or a fact of their files.

    Args:
        store: The prepared data set.
        rows: Its images to group.
        by: Name of the column, such as `age` or `PatientSex`; `age=18,40,65` gives the edges of bands.

    Raises:
        DataError: No such column, edges that are not numbers, or as of `make_groups`.
    """
    columns = _columns(store)
    name, _, text = (by, "", "") if by in columns else by.partition("=")
    if name not in columns:
        near = difflib.get_close_matches(name, columns, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(columns)}."
        raise DataError(f"{store.folder}: a column to group by must be known, but got {name!r}: {hint}")
    values = store.index[columns[name]].iloc[rows].astype(str)
    return make_groups(name, values.tolist(), edges=_edges(by, text))


def _columns(store: ImageStore) -> Mapping[str, str]:
    """Return the name in the index of each column, by the name that people know; the table's own go first."""
    index = store.index.columns
    tags = {name.removeprefix(TAG): name for name in index if name.startswith(TAG)}
    table = {name.removeprefix(META): name for name in index if name.startswith(META)}
    return {**{name: name for name in _OF_FILES}, **tags, **table}


def _edges(by: str, text: str) -> tuple[float, ...]:
    try:
        edges = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        edges = (math.nan,)
    if not all(map(math.isfinite, edges)):
        raise DataError(f"{by}: edges must be numbers with commas between them, such as age=18,40,65.")
    return edges
