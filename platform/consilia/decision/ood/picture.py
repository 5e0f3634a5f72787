"""What a picture is made of, whatever it shows: grey values, edges at three scales, and where it is light and dark.

Plots, text, screens, noise and photographs differ from medical images in these, and it takes no network to tell.
Source: docs/methods.md section 7.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from consilia.decision.ood.inputs import LAYOUT_SIDE, count_values, grey_values, layouts

Features = npt.NDArray[np.float32]  # (n_images, N_FEATURES)

_SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of the pixels, that a quantile is not above
_SCALES = 3  # the image, and twice its mean over 2 x 2 pixels
_GREY = 16  # levels that count as much as twice as steep an edge

PARTS = {  # of the features, in their order: their names in reasons, and how many there are
    "grey values": len(_SHARES),
    "edges": 2 * _SCALES * len(_SHARES),
    "layout": LAYOUT_SIDE**2,
}
N_FEATURES = sum(PARTS.values())
STARTS = np.cumsum([0, *PARTS.values()])[:-1]  # of each part


def describe(pixels: npt.NDArray[np.uint8]) -> Features:
    """Return the features of images (n_images, size, size, channels), of at least 8 pixels a side.

    Quantiles of the grey values; at each scale, quantiles of the differences between neighbours in a row and in a
    column, as logarithms; and the layout, which tells an image that is upside down.
    """
    grey = grey_values(pixels)
    layout = layouts(grey).reshape(len(grey), -1)
    planes = [grey]
    for scale in range(_SCALES):
        if scale:
            grey = _halved(grey)
        for one, next_one in ((grey[:, :, :-1], grey[:, :, 1:]), (grey[:, :-1], grey[:, 1:])):
            planes.append(np.maximum(one, next_one) - np.minimum(one, next_one))
    levels, *edges = _quantiles(planes)
    return np.concatenate([levels / _GREY, *(np.log2(1 + each) for each in edges), layout], axis=1).astype(np.float32)


def _quantiles(planes: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    """Return quantiles of each image in each plane of levels, (n_planes, n_images, n_shares)."""
    counts = np.stack([count_values(plane) for plane in planes]).cumsum(axis=2)
    sizes = np.array([plane[0].size for plane in planes])
    # One sorted row of all cumulative counts: each one's lie above those before it.
    offsets = (np.arange(counts.shape[0] * counts.shape[1]) * (1 + sizes.max())).reshape(*counts.shape[:2], 1)
    wanted = np.ceil(np.outer(sizes, _SHARES)).astype(np.int64)[:, None]
    places = np.searchsorted((counts + offsets).ravel(), (wanted + offsets).ravel())
    result: npt.NDArray[np.int64] = (places % counts.shape[2]).reshape(*counts.shape[:2], len(_SHARES))
    return result


def _halved(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the rounded mean over 2 x 2 pixels; an odd last row or column is left out."""
    even = grey[:, : grey.shape[1] // 2 * 2, : grey.shape[2] // 2 * 2].astype(np.uint16)
    rows = even[:, ::2] + even[:, 1::2]
    return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) // 4).astype(np.uint8)
