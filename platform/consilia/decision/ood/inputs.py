"""Rules on the input image that a person can check by eye: shape, saturation, grey values, colour, layout.

Source: docs/methods.md section 7.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

LAYOUT_SIDE = 8  # cells; stored images have at least as many pixels
Layouts = npt.NDArray[np.float64]  # (n_images, LAYOUT_SIDE, LAYOUT_SIDE)
Pixels = npt.NDArray[np.uint8]  # (n_images, size, size, channels), as stored
Measures = npt.NDArray[np.float64]  # (n_images, n_rules), in the order of RULES; NaN where unknown


class ManyPixels(Protocol):
    """Pixels that need not be in memory together: an array, a memory map, or rows of one."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, part: slice, /) -> Pixels:
        """Return some of them."""


_BLOCK = 256  # images in memory at once
_COUNTED = 2**17  # pixels whose values are counted at once, in 8 bytes each: more are slower


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One number of an image, and on which sides it can be unusual."""

    title: str
    shown: str  # format of the number
    margin: float  # the limit lies at least this far beyond the training images
    below: bool
    above: bool


RULES = (
    Rule(title="width over height", shown="{:z.2f}", margin=0.2, below=True, above=True),
    Rule(title="share of black pixels", shown="{:.0%}", margin=0.05, below=False, above=True),
    Rule(title="share of white pixels", shown="{:.0%}", margin=0.05, below=False, above=True),
    Rule(title="mean difference of grey values, in levels", shown="{:.0f}", margin=5, below=False, above=True),
    Rule(title="colour, in levels between channels", shown="{:.0f}", margin=8, below=True, above=True),
    Rule(title="likeness to the mean training image", shown="{:z.2f}", margin=0.1, below=True, above=False),
    Rule(
        title="what turning or inverting it adds to its likeness to the mean training image",
        shown="{:z.2f}",
        margin=0.1,
        below=False,
        above=True,
    ),
)
_COLOUR = 4  # place of the rule whose number the file may know better than the stored pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputReference:
    """What usual images look like."""

    histogram: npt.NDArray[np.float64]  # (256,), cumulative shares of grey values, mean over the training images
    layout: npt.NDArray[np.float64]  # (LAYOUT_SIDE, LAYOUT_SIDE), mean of the training images
    limits: npt.NDArray[np.float64]  # (n_rules, 2), the least and the largest usual value; infinite where none is


def measure_inputs(
    pixels: ManyPixels,
    reference: InputReference,
    *,
    aspect: npt.NDArray[np.float64],
    colour: npt.NDArray[np.float64] | None = None,
) -> Measures:
    """Return the numbers that the rules look at.

    Args:
        pixels: Of the images.
        reference: For the two rules that compare.
        aspect: Width / height of each image's file, (n_images,).
        colour: Of each image's file, (n_images,), by `measure_colour`; NaN: not known. None: that of `pixels`, which
            is all grey where the ensemble takes one channel.
    """
    blocks = [_measure_block(block, reference) for block in in_blocks(pixels)]
    measures = np.column_stack([aspect, np.concatenate([np.empty((0, len(RULES) - 1)), *blocks])])
    if colour is not None:
        measures[:, _COLOUR] = colour
    return measures


def measure_colour(pixels: npt.NDArray[np.uint8]) -> float:
    """Return the mean difference between the brightest and the darkest channel of an image (h, w, channels), levels."""
    (planes,) = _planes(pixels[None])
    return float((planes.max(axis=0) - planes.min(axis=0)).mean())


def has_colour_limit(reference: InputReference) -> bool:
    """Say whether an image's colour can be unusual: not where training does not tell it."""
    return bool(np.isfinite(reference.limits[_COLOUR]).any())


def breaks_rules(measures: Measures, reference: InputReference) -> npt.NDArray[np.bool_]:
    """Say of each image, (n_images,), whether it breaks a rule; a number that is not known breaks none."""
    low, high = reference.limits.T
    result: npt.NDArray[np.bool_] = ((measures > high) | (measures < low)).any(axis=1)
    return result


def find_broken_rules(measures: npt.NDArray[np.float64], reference: InputReference) -> tuple[str, ...]:
    """Return a phrase for each rule that an image breaks; none for a usual one.

    Args:
        measures: Of one image, (n_rules,). A number that is not known breaks no rule.
        reference: Of the training images.
    """
    found = []
    for rule, value, (low, high) in zip(RULES, measures.tolist(), reference.limits.tolist(), strict=True):
        if value > high:
            bound = f"at most {rule.shown.format(high)}"
        elif value < low:
            bound = f"at least {rule.shown.format(low)}"
        else:
            continue
        found.append(f"{rule.title} is {rule.shown.format(value)}, but {bound} in training images")
    return tuple(found)


def in_blocks(pixels: ManyPixels) -> Iterator[Pixels]:
    """Yield images, (n, size, size, channels), of which at most 256 are in memory at once."""
    for start in range(0, len(pixels), _BLOCK):
        yield np.asarray(pixels[start : start + _BLOCK])


def _measure_block(pixels: Pixels, reference: InputReference) -> npt.NDArray[np.float64]:
    """All but the aspect, (n_images, n_rules - 1)."""
    planes = _planes(pixels)
    grey = _mean_plane(planes)
    counts, places = count_values(grey), layouts(grey)
    if pixels.shape[3] == 1:  # the pixels are the grey values
        black, white = counts[:, [0, 255]].T / grey[0].size
        spread = np.zeros(len(pixels))
    else:
        black, white = ([np.count_nonzero(image == value) / image.size for image in planes] for value in (0, 255))
        spread = (planes.max(axis=1) - planes.min(axis=1)).mean(axis=(1, 2))
    # The area between two cumulative histograms is how far grey values must move, on average, from one to the other.
    difference = np.abs(_cumulative(counts) - reference.histogram).sum(axis=1)
    likenesses = [likeness(places, reference.layout), gain_when_turned(places, reference.layout)]
    return np.stack([black, white, difference, spread, *likenesses], axis=1)


def histograms(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return cumulative shares of grey values, (n_images, 256), of images (n_images, size, size)."""
    return _cumulative(count_values(grey))


def _cumulative(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = counts.cumsum(axis=1) / counts[0].sum()
    return result


def count_values(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return how often each image has each grey value, (n_images, 256), of images (n_images, size, size)."""
    images = grey.reshape(len(grey), -1)
    n_at_once = max(1, _COUNTED // images.shape[1])
    parts = []
    for start in range(0, len(images), n_at_once):
        part = images[start : start + n_at_once]
        own_values = part + 256 * np.arange(len(part))[:, None]  # no two images have one in common
        parts.append(np.bincount(own_values.ravel(), minlength=256 * len(part)).reshape(-1, 256))
    return np.concatenate(parts)


def grey_values(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the mean over the channels of images (n_images, size, size, channels), (n_images, size, size)."""
    return _mean_plane(_planes(pixels))


def _planes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return images channel by channel, (n_images, channels, size, size): ten times faster to compute with."""
    return np.ascontiguousarray(np.moveaxis(pixels, 3, 1))


def _mean_plane(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the mean over the channels, of which there may be one, three, or one for each window of a CT."""
    n_channels = planes.shape[1]
    if n_channels == 1:
        return planes[:, 0]
    mean = planes[:, 0].astype(np.float32)  # sums of bytes are exact in it
    for channel in range(1, n_channels):
        mean += planes[:, channel]
    mean /= n_channels
    return np.rint(mean, out=mean).astype(np.uint8)


def layouts(grey: npt.NDArray[np.uint8]) -> Layouts:
    """Return the means of grey images (n_images, size, size) over a grid of cells.

    Each layout has the mean 0 and, whatever the image's contrast, nearly the standard deviation 1; that of an image of
    one grey is 0 throughout.
    """
    edges = np.arange(LAYOUT_SIDE) * grey.shape[1] // LAYOUT_SIDE
    ends = np.append(edges[1:], grey.shape[1])
    lengths = ends - edges
    # Whole numbers until they are divided: sums in the smallest type that holds them are exact, and the fastest.
    smallest = np.uint16 if 255 * lengths.max() < 2**16 else np.uint32
    rows = [grey[:, start:end].sum(axis=1, dtype=smallest) for start, end in zip(edges, ends, strict=True)]
    sums = np.add.reduceat(np.stack(rows, axis=1), edges, axis=2, dtype=np.float64)
    means = sums / np.outer(lengths, lengths)
    centred = means - means.mean(axis=(1, 2), keepdims=True)
    result: Layouts = centred / (means.std(axis=(1, 2), keepdims=True) + 1)  # one grey level, so that 0 stays 0
    return result


def likeness(images: Layouts, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Pearson's correlation of each layout with the mean of many, (n_images,); 0 for an image of one grey."""
    centred, expected = images.reshape(len(images), -1), (mean - mean.mean()).ravel()
    norms = np.linalg.norm(centred, axis=1) * np.linalg.norm(expected)
    result = np.zeros(len(images))
    np.divide(centred @ expected, norms, out=result, where=norms > 1e-9)
    return result


def gain_when_turned(images: Layouts, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return by how much each layout's likeness grows when turned by quarters or inverted as is best, (n_images,)."""
    own = likeness(images, mean)
    turned = [likeness(np.rot90(images, quarters, axes=(1, 2)), mean) for quarters in (1, 2, 3)]
    result: npt.NDArray[np.float64] = np.max([*turned, -own], axis=0) - own
    return result
