"""Which images make up an epoch, and how their bytes reach the device. No decoding, no loader processes."""

import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from consilia.data.store import ImageStore
from consilia.records import Labels, Rows

_DEVICE_SHARE = 0.25  # of a GPU's free memory that the images may take: the rest is for the network


class Images(Protocol):
    """Hands out stored images by row."""

    def gather(self, rows: Rows) -> torch.Tensor:
        """Return uint8 (b, size, size, channels) on the device; valid until the next call."""


class DeviceImages:
    """The whole store on the device: a batch costs one indexing."""

    def __init__(self, pixels: npt.NDArray[np.uint8], device: torch.device) -> None:
        self._pixels = torch.from_numpy(np.array(pixels)).to(device)

    def gather(self, rows: Rows) -> torch.Tensor:
        """Return the images of `rows`."""
        return self._pixels[torch.from_numpy(rows).to(self._pixels.device)]


class MappedImages:
    """The store on disk: a batch is gathered from the memory map into a buffer that is used again.

    For a GPU there are two pinned buffers, so that one is filled while the other is still being copied.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], device: torch.device) -> None:
        self._pixels = pixels
        self._device = device
        self._buffers: list[torch.Tensor] = []
        self._copied: list[torch.cuda.Event] = []  # of each buffer's last copy
        self._turn = 0

    def gather(self, rows: Rows) -> torch.Tensor:
        """Return the images of `rows`."""
        if not self._buffers or len(self._buffers[0]) < len(rows):
            self._allocate(len(rows))
        self._turn = (self._turn + 1) % len(self._buffers)
        if self._copied:
            self._copied[self._turn].synchronize()
        buffer = self._buffers[self._turn][: len(rows)]
        # mode="clip" writes to `out` directly; the rows come from the fold plan, so nothing is clipped.
        np.take(self._pixels, rows, axis=0, out=buffer.numpy(), mode="clip")
        images = buffer.to(self._device, non_blocking=True)
        if self._copied:
            self._copied[self._turn].record()
        return images

    def _allocate(self, n: int) -> None:
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self._device)  # copies from the buffers that go away
        shape = (n, *self._pixels.shape[1:])
        count = 2 if on_gpu else 1
        self._buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(count)]
        self._copied = []
        if on_gpu:
            self._copied = [torch.cuda.Event() for _ in range(count)]  # type: ignore[no-untyped-call] # torch's


def open_images(store: ImageStore, device: torch.device) -> Images:
    """Choose how the store's images reach the device: all at once where they fit, else batch by batch.

    The CPU always reads the memory map, whose pages all workers of a node share.
    """
    if device.type == "cuda" and store.pixels.nbytes <= _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return DeviceImages(store.pixels, device)
    return MappedImages(store.pixels, device)


def epoch_order(rows: Rows, rng: np.random.Generator) -> Rows:
    """Return every row once, shuffled."""
    return rng.permutation(rows)


def sqrt_sampled_order(rows: Rows, labels: Labels, rng: np.random.Generator) -> Rows:
    """Draw as many rows as there are, with replacement, each class in proportion to the root of its size.

    Args:
        rows: Of the training images, (m,).
        labels: Class of each of them, (m,).
        rng: Decides the draw.

    Source: Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining, ECCV 2018, section 2.2.
    """
    counts = np.bincount(labels)
    weights = 1 / np.sqrt(counts[labels])
    return rng.choice(rows, size=len(rows), p=weights / weights.sum())


def batch_slices(n_images: int, batch_size: int) -> list[slice]:
    """Cut an epoch into batches of equal size, give or take one image, none above `batch_size`.

    So no small last batch disturbs batch normalisation. Where a batch of one image would remain, which
    BatchNorm refuses, there is one batch fewer.
    """
    n_batches = -(-n_images // batch_size)
    if n_batches > 1 and n_images // n_batches < 2:
        n_batches -= 1
    edges = np.linspace(0, n_images, n_batches + 1).round().astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def evaluation_batches(rows: Rows, batch_size: int) -> Iterator[Rows]:
    """Return the rows in order, `batch_size` at a time."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]
