"""Finds pictures that a store holds more than once, exactly or nearly, without comparing all with all.

Two pictures are near duplicates when their 16 x 16 grey means, without the coarsest frequencies, correlate almost
perfectly: cosine frequencies keep what is left of a picture that was compressed, resized or made brighter, while the
coarsest ones are left out, since all images of one kind share them. Pictures are compared within the leaves of a few
random trees, which put close ones into one leaf; time and memory do not depend on how alike the pictures are.

Source: Dasgupta and Freund, Random Projection Trees and Low Dimensional Manifolds, STOC 2008, for the trees;
docs/methods.md section 1 for the criterion, with what its limits were chosen on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn brings it, without types

from consilia.config.records import Rows
from consilia.data.decode.low_resolution import content_box, grey_frequencies
from consilia.data.store.image_store import ImageStore

LIMIT, LIMIT_SMALL = 0.025, 0.015  # greatest difference of near duplicates; the second in stores under SMALL pixels
SMALL = 128
_SIDE = 16
_COARSEST = 3  # frequencies (i, j) with i + j below this are left out
_TREE_FREQUENCIES = 39  # the lowest ones, by which the trees are split
_DARK, _SHARE = 10, 0.3  # of `content_box`
_LEAST_CONTENT = 12  # pixels a side; less is compared exactly only
_LEAST_CONTRAST = 2.0  # grey values, standard deviation without the coarsest frequencies
_TREES, _LEAF = 16, 64
_CROWD = 4  # near pairs an image, in a leaf or in all, above which only those are kept that connect it
_ABOVE_ZERO = 1e-6  # a weight of 0 would not count as an edge

Pixels = npt.NDArray[np.uint8]  # (n, size, size, channels)
Pairs = npt.NDArray[np.int64]  # (m, 2)
Differences = npt.NDArray[np.float64]  # (m,)
Signatures = npt.NDArray[np.floating]  # (n, d) unit vectors, lowest frequency first; not-a-number: shows too little

_ORDER = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).ravel()
_COMPARED = np.argsort(_ORDER, kind="stable")[np.count_nonzero(_ORDER < _COARSEST) :]

_found: "dict[str, tuple[DuplicatePair, ...]]" = {}  # of the last stores, by digest, since folds and audit both ask
_REMEMBERED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePair:
    """Two images that show the same picture."""

    first: int  # row
    second: int  # row, above `first`
    kind: Literal["exact", "near"]
    difference: float  # 0 for exact; else 1 - the correlation of the pictures at low resolution, up to 0.025


def find_duplicates(store: ImageStore) -> tuple[DuplicatePair, ...]:
    """Find the images that are copies of each other, exactly or nearly.

    Of several equal images each is paired with the first; only the first of them takes part in near duplicates. Time
    grows almost linearly with the number of images; of the pixels, only those of a few images are in memory at once.

    Returns:
        Pairs, ordered by their rows. Every image of a group can be reached from any other through pairs.
    """
    if store.digest not in _found:
        while len(_found) >= _REMEMBERED:
            del _found[next(iter(_found))]
        pairs = [*_exact(store), *_near(store)]
        _found[store.digest] = tuple(sorted(pairs, key=lambda pair: (pair.first, pair.second)))
    return _found[store.digest]


def find_near(pixels: Pixels, hashes: npt.NDArray[np.uint64], rows: Rows) -> tuple[Pairs, Differences]:
    """Find near duplicates among pictures that differ.

    Pictures with the same perceptual hash are first compared with the first of them, and one that hardly differs from
    it is represented by it from then on.

    Args:
        pixels: Of the store.
        hashes: Perceptual hash of each image, (n,).
        rows: Images to look at, ascending, no two equal.

    Returns:
        Pairs of rows, the lower first, and their differences, 0 ... limit. Of a crowd of copies not every pair is
        named, but it is connected.
    """
    with threadpool_limits(1):  # products of small matrices: threads would wait for each other
        return _find_near(pixels, hashes, rows, limit=LIMIT_SMALL if pixels.shape[1] < SMALL else LIMIT)


def signature(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return what is compared of one picture: 1 - the product of two signatures is their difference.

    Args:
        image: (size, size, channels).

    Returns:
        A unit vector, lowest frequency first; or not-a-number throughout where the picture is too small within its
        dark border or shows too little contrast to be distinguished from others.
    """
    rows, columns = content_box(image, dark=_DARK, share=_SHARE)
    nothing = np.full(len(_COMPARED), np.nan, dtype=np.float32)
    if min(rows[1] - rows[0], columns[1] - columns[0]) < _LEAST_CONTENT:
        return nothing
    values = grey_frequencies(image, side=_SIDE, kept=_SIDE, box=(rows, columns)).ravel()[_COMPARED]
    length = float(np.linalg.norm(values))
    if length / _SIDE < _LEAST_CONTRAST:
        return nothing
    unit: npt.NDArray[np.float32] = values / length
    return unit


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


def _find_near(
    pixels: Pixels, hashes: npt.NDArray[np.uint64], rows: Rows, *, limit: float
) -> tuple[Pairs, Differences]:
    signatures = np.empty((len(rows), len(_COMPARED)), dtype=np.float16)  # half the bytes; exact to a thousandth
    for place, row in enumerate(rows.tolist()):
        signatures[place] = signature(pixels[row])
    shows = np.isfinite(signatures[:, 0])
    rows, signatures = rows[shows], signatures[shows]
    pairs, differences, is_represented = _compare_with_first(signatures, hashes[rows], limit)
    alone = np.flatnonzero(~is_represented)
    found = [(pairs, differences)]
    for leaf in _leaves(signatures[alone, :_TREE_FREQUENCIES].astype(np.float32)):
        found.append(_compare_leaf(signatures, alone[leaf], limit))
    pairs, first = np.unique(np.concatenate([pairs for pairs, _ in found]), axis=0, return_index=True)
    differences = np.concatenate([differences for _, differences in found])[first]
    if len(pairs) > _CROWD * len(rows):
        weights = coo_array((differences + _ABOVE_ZERO, (pairs[:, 0], pairs[:, 1])), shape=(len(rows), len(rows)))
        tree = minimum_spanning_tree(weights).tocoo()
        pairs, differences = np.sort(np.stack([tree.row, tree.col], axis=1), axis=1), tree.data - _ABOVE_ZERO
    return rows[pairs], differences.clip(min=0)


def _compare_with_first(
    signatures: Signatures, hashes: npt.NDArray[np.uint64], limit: float
) -> tuple[Pairs, Differences, npt.NDArray[np.bool_]]:
    """Pair pictures with the first one of the same hash; also return which pictures that one can represent."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[group] != np.arange(len(hashes)))
    pairs = np.stack([first[group][later], later], axis=1)
    products = [signatures[one].astype(np.float32) @ signatures[two].astype(np.float32) for one, two in pairs.tolist()]
    differences = (1 - np.array(products, dtype=np.float64)).clip(min=0)
    is_represented = np.zeros(len(hashes), dtype=np.bool_)
    is_represented[later[differences < limit / 10]] = True
    near = differences <= limit
    return pairs[near], differences[near], is_represented


def _leaves(vectors: Signatures) -> Iterator[Rows]:
    """Yield the leaves of every tree; each holds up to `_LEAF` places of `vectors`, and each place is in each tree."""
    for tree in range(_TREES):
        generator = np.random.default_rng(tree)
        nodes = [np.arange(len(vectors))]
        while nodes:
            node = nodes.pop()
            if len(node) <= _LEAF:
                yield np.sort(node)
                continue
            # A line through two random members mostly runs along the longer side of a node.
            one, two = vectors[generator.choice(node, 2, replace=False)]
            order = np.argsort(vectors[node] @ (one - two), kind="stable")
            nodes += [node[order[: len(node) // 2]], node[order[len(node) // 2 :]]]


def _compare_leaf(signatures: Signatures, leaf: Rows, limit: float) -> tuple[Pairs, Differences]:
    members = signatures[leaf].astype(np.float32)
    differences = (1 - members @ members.T).clip(min=0)
    near = np.triu(differences <= limit, k=1)
    if np.count_nonzero(near) > _CROWD * len(leaf):
        near = minimum_spanning_tree(np.where(near, differences + _ABOVE_ZERO, 0)).toarray() > 0
    one, two = np.nonzero(near)
    return np.stack([leaf[one], leaf[two]], axis=1), differences[one, two].astype(np.float64)
