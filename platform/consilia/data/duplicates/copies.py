"""Pictures that stand in a store more than once: bit by bit, or nearly so.

Source: docs/methods.md section 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from consilia.data.duplicates.near import find_near
from consilia.data.store.image_store import ImageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePair:
    """Two images that show the same picture."""

    first: int  # row
    second: int  # row, above `first`
    kind: Literal["exact", "near"]
    difference: float  # 0 for exact; else 1 - the correlation of the pictures at low resolution, up to 0.025


_found: dict[str, tuple[DuplicatePair, ...]] = {}  # of the last stores, by digest: folds and audit both ask
_REMEMBERED = 4


def find_duplicates(store: ImageStore) -> tuple[DuplicatePair, ...]:
    """Find the images that are copies of each other, exactly or nearly.

    Of several equal images each is paired with the first; only the first of them takes part in near duplicates. Time
    grows almost linearly with the number of images; of the pixels, only those of a few images are in memory at once.

    Returns:
        Pairs, ordered by their rows: whoever follows them reaches every image of a group.
    """
    if store.digest not in _found:
        while len(_found) >= _REMEMBERED:
            del _found[next(iter(_found))]
        pairs = [*_exact(store), *_near(store)]
        _found[store.digest] = tuple(sorted(pairs, key=lambda pair: (pair.first, pair.second)))
    return _found[store.digest]


def _exact(store: ImageStore) -> Iterator[DuplicatePair]:
    firsts: dict[str, int] = {}
    for row, digest in enumerate(store.index["pixel_digest"].tolist()):
        first = firsts.setdefault(digest, row)
        if first != row:
            yield DuplicatePair(first=first, second=row, kind="exact", difference=0.0)


def _near(store: ImageStore) -> Iterator[DuplicatePair]:
    rows = np.flatnonzero(~store.index["pixel_digest"].duplicated().to_numpy())
    hashes = store.index["perceptual_hash"].to_numpy(np.uint64)
    pairs, differences = find_near(store.pixels, hashes, rows)
    for (first, second), difference in zip(pairs.tolist(), differences.tolist(), strict=True):
        yield DuplicatePair(first=first, second=second, kind="near", difference=difference)
