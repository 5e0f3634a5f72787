"""The index of a store: one row a readable image, from what its source said and what its file was."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from consilia.data.decode import ImageFacts
from consilia.data.listing import ImageTable
from consilia.data.store import COLUMNS, META, TAG


def make_index(table: ImageTable, rows: Sequence[int], facts: Sequence[ImageFacts]) -> pd.DataFrame:
    """Return the index that `ImageStore` describes; without patients each image is its own, named by its image id.

    Args:
        table: Every listed image.
        rows: Those that could be read, (m,).
        facts: Of their files, (m,).
    """
    patients = [table.patients[row] for row in rows] if table.has_patients else [str(i) for i in range(len(rows))]
    columns = {
        "image_id": np.arange(len(rows), dtype=np.int64),
        "file": _text(table.files[row] for row in rows),
        "frame": np.array([table.frames[row] or 0 for row in rows], dtype=np.int64),
        "patient_id": _text(patients),
        "label": table.labels[list(rows)],
        "split": _text(table.splits[row] for row in rows),
        "mean": [each.mean for each in facts],
        "mean_square": [each.mean_square for each in facts],
        "pixel_digest": _text(each.pixel_digest for each in facts),
        "perceptual_hash": np.array([each.perceptual_hash for each in facts], dtype=np.uint64),
        "kind": _text(each.kind for each in facts),
        "format": _text(each.format for each in facts),
        "mode": _text(each.mode for each in facts),
        "width": np.array([each.width for each in facts], dtype=np.int64),
        "height": np.array([each.height for each in facts], dtype=np.int64),
    }
    assert tuple(columns) == COLUMNS
    meta = {META + name: _text(cells[row] for row in rows) for name, cells in table.extra.items()}
    names = sorted({name for each in facts for name in each.tags})
    tags = {TAG + name: _text(each.tags.get(name, "") for each in facts) for name in names}
    return pd.DataFrame(columns | meta | tags)


def _text(cells: Iterable[str]) -> pd.api.extensions.ExtensionArray:
    return pd.array(list(cells), dtype="str")
