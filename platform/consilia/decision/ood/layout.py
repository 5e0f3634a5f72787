"""Where an image is bright and where it is dark: what is left of it at 8 x 8 pixels.

Source: docs/methods.md section 7.
"""

import numpy as np
import numpy.typing as npt

LAYOUT_SIDE = 8  # cells; stored images have at least as many pixels
Layouts = npt.NDArray[np.float64]  # (n_images, LAYOUT_SIDE, LAYOUT_SIDE)


def grey_values(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the mean over the channels of images (n_images, size, size, channels), (n_images, size, size)."""
    if pixels.shape[3] == 1:
        return pixels[..., 0]
    grey: npt.NDArray[np.uint8] = np.rint(pixels.mean(axis=3)).astype(np.uint8)
    return grey


def layouts(grey: npt.NDArray[np.uint8]) -> Layouts:
    """Return the means of grey images (n_images, size, size) over a grid of cells.

    Each layout has the mean 0 and, whatever the image's contrast, nearly the standard deviation 1; that of an image of
    one grey is 0 throughout.
    """
    edges = np.arange(LAYOUT_SIDE) * grey.shape[1] // LAYOUT_SIDE
    lengths = np.diff(np.append(edges, grey.shape[1]))
    sums = np.add.reduceat(np.add.reduceat(grey.astype(np.float64), edges, axis=1), edges, axis=2)
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
