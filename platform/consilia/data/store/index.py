"""The index of a store: one row for each readable image, with what its source and its file say."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from consilia.config.records import Rows
from consilia.data.decode.block import ImageFacts
from consilia.data.sources.listing import ImageTable
from consilia.data.store.image_store import COLUMNS, META, TAG
from consilia.data.store.partial import BlockRecord

_NUMBERS = {
    "mean": np.float64,
    "mean_square": np.float64,
    "perceptual_hash": np.uint64,
    "width": np.int64,
    "height": np.int64,
}
_TEXTS = ("pixel_digest", "kind", "format", "mode")


def make_index(table: ImageTable, records: Iterable[BlockRecord]) -> pd.DataFrame:
    """Return the index that `ImageStore` describes; without patients each image is its own, named by its image id.

    Columns grow as arrays, not as objects: a million images need about 300 MB while this runs.

    Args:
        table: Every listed image.
        records: The records of all its blocks, in order.
    """
    facts = _Facts()
    for record in records:
        facts.add(record)
    rows = facts.rows()
    patients = (table.patients[row] for row in rows) if table.has_patients else map(str, range(len(rows)))
    columns = {
        "image_id": np.arange(len(rows), dtype=np.int64),
        "file": _text(table.files[row] for row in rows),
        "frame": np.array([table.frames[row] or 0 for row in rows], dtype=np.int64),
        "patient_id": _text(patients),
        "label": table.labels[rows],
        "split": _text(table.splits[row] for row in rows),
        **facts.columns(),
    }
    meta = {META + name: _text(cells[row] for row in rows) for name, cells in table.extra.items()}
    return pd.DataFrame({name: columns[name] for name in COLUMNS} | meta | facts.tags())


class _Facts:
    """The columns that come from files, growing block by block."""

    def __init__(self) -> None:
        self._n_listed = self._n_images = 0
        self._rows: list[Rows] = []
        self._numbers: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in _NUMBERS}
        self._texts: dict[str, list[pa.Array]] = {name: [] for name in _TEXTS}
        self._tags: dict[str, list[pa.Array]] = {}

    def add(self, record: BlockRecord) -> None:
        facts = record.facts
        self._rows.append(self._n_listed + np.array([each.position for each in facts], dtype=np.int64))
        for name, kind in _NUMBERS.items():
            self._numbers[name].append(np.array([getattr(each, name) for each in facts], dtype=kind))
        for name in _TEXTS:
            self._texts[name].append(_array(getattr(each, name) for each in facts))
        for name in self._tags.keys() | {name for each in facts for name in each.tags}:
            before = self._tags.setdefault(name, [_array([""] * self._n_images)])
            before.append(_array(_tag(facts, name)))
        self._n_listed += record.n_listed
        self._n_images += len(facts)

    def rows(self) -> Rows:
        """Positions of the readable images among the listed ones."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._rows])

    def columns(self) -> dict[str, pd.api.extensions.ExtensionArray | npt.NDArray[np.generic]]:
        numbers = {
            name: np.concatenate([np.empty(0, dtype=_NUMBERS[name]), *parts]) for name, parts in self._numbers.items()
        }
        return {**numbers, **{name: _joined(parts) for name, parts in self._texts.items()}}

    def tags(self) -> dict[str, pd.api.extensions.ExtensionArray]:
        return {TAG + name: _joined(self._tags[name]) for name in sorted(self._tags)}


def _tag(facts: tuple[ImageFacts, ...], name: str) -> Iterator[str]:
    return (each.tags.get(name, "") for each in facts)


def _array(cells: Iterable[str]) -> pa.Array:
    return pa.array(list(cells), type=pa.large_string())


def _text(cells: Iterable[str]) -> pd.api.extensions.ExtensionArray:
    return _joined([_array(cells)])


def _joined(parts: list[pa.Array]) -> pd.api.extensions.ExtensionArray:
    joined: pd.api.extensions.ExtensionArray = pd.array(pa.chunked_array(parts, type=pa.large_string()), dtype="str")
    return joined
