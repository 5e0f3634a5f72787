"""How the bytes of stored images reach the device, a batch at a time. No decoding, no loader processes."""

import mmap
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from consilia.config.records import Rows
from consilia.data.store.image_store import ImageStore
from consilia.train.step_case import fits

_UPLOAD_BYTES = 64 * 2**20  # that move to the device at a time, so that the store never lies in main memory as a whole
_ADVISED_PAGES = 4  # of an image: what the kernel reads around a smaller one is other images


class Images(Protocol):
    """Hands out stored images by row."""

    def batches(self, parts: Sequence[Rows]) -> Generator[torch.Tensor, None, None]:
        """Yield the images of each part, uint8 (len(part), size, size, channels) on the device.

        A batch is valid until the next one is asked for, and the next is on its way while it is used. A
        caller that leaves early must close the generator.

        Args:
            parts: Rows of each batch, at least one a batch, in any order; a row may come again.

        Raises:
            IndexError: A row that the store does not have.
        """


class DeviceImages:
    """The whole store on the device: a batch costs one indexing."""

    def __init__(self, pixels: npt.NDArray[np.uint8], device: torch.device) -> None:
        self._pixels = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        step = max(1, _UPLOAD_BYTES // max(1, pixels[:1].nbytes))
        for start in range(0, len(pixels), step):
            part = np.array(pixels[start : start + step])  # torch does not take read-only memory
            self._pixels[start : start + step] = torch.from_numpy(part)

    def batches(self, parts: Sequence[Rows]) -> Generator[torch.Tensor, None, None]:
        """Yield the images of each part."""
        _check_rows(parts, len(self._pixels))
        # All rows at once: a copy from pageable memory at every step would wait until the step before it is done.
        rows = torch.from_numpy(np.concatenate([*parts, np.empty(0, np.int64)])).to(self._pixels.device)
        for part in torch.split(rows, [len(each) for each in parts]):
            yield self._pixels[part]


class MappedImages:
    """The store on disk: a thread gathers the next batch from the memory map while the present one is in use.

    It tells the kernel first which images these are, and fills one of two buffers. For a GPU they are pinned, and a
    stream of its own copies them to the device.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], device: torch.device) -> None:
        self._pixels = pixels
        self._device = device

    def batches(self, parts: Sequence[Rows]) -> Generator[torch.Tensor, None, None]:
        """Yield the images of each part."""
        _check_rows(parts, len(self._pixels))
        buffers = self._make_buffers(max((len(part) for part in parts), default=0))
        with ThreadPoolExecutor(1, thread_name_prefix="images") as thread:
            ahead = [thread.submit(buffers.fill, 0, parts[0])] if parts else []
            for number in range(len(parts)):
                images = ahead.pop().result()
                if number + 1 < len(parts):
                    ahead.append(thread.submit(buffers.fill, number + 1, parts[number + 1]))
                yield buffers.deliver(images, number)

    def _make_buffers(self, largest: int) -> "_Buffers":
        if self._device.type == "cuda":
            return _PinnedBuffers(self._pixels, largest, self._device)
        return _Buffers(self._pixels, largest)


class _Buffers:
    """Two buffers in turn: batch `number` lies in one, the next is written into the other."""

    def __init__(self, pixels: npt.NDArray[np.uint8], largest: int, *, pinned: bool = False) -> None:
        self._pixels = pixels
        shape = (largest, *pixels.shape[1:])
        with torch.inference_mode(mode=False):  # else buffers made while scoring could not be used in training
            self._buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]

    def fill(self, number: int, rows: Rows) -> torch.Tensor:
        """Gather batch `number`; runs in the thread."""
        buffer = self._buffers[number % 2][: len(rows)]
        _announce(self._pixels, rows)
        # mode="clip" writes to `out` directly; the rows have been checked, so nothing is clipped.
        np.take(self._pixels, rows, axis=0, out=buffer.numpy(), mode="clip")
        return buffer

    def deliver(self, images: torch.Tensor, number: int) -> torch.Tensor:
        """Return batch `number`, ready for the device's present stream; runs where it is used."""
        return images


class _PinnedBuffers(_Buffers):
    """Adds the copy to a GPU, on a stream of its own, so that it runs beside the network."""

    def __init__(self, pixels: npt.NDArray[np.uint8], largest: int, device: torch.device) -> None:
        super().__init__(pixels, largest, pinned=True)
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's
        # Each buffer's last copy.
        self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call] # torch's

    def fill(self, number: int, rows: Rows) -> torch.Tensor:
        """Gather batch `number` once its buffer's last copy has left it, and start its own copy."""
        copied = self._copied[number % 2]
        copied.synchronize()
        buffer = super().fill(number, rows)
        with torch.cuda.stream(self._stream):
            images = buffer.to(self._device, non_blocking=True)
            copied.record()
        return images

    def deliver(self, images: torch.Tensor, number: int) -> torch.Tensor:
        """Let the present stream wait for the copy, and keep the memory until that stream has used it."""
        present = torch.cuda.current_stream(self._device)
        present.wait_event(self._copied[number % 2])
        images.record_stream(present)
        return images


def _announce(pixels: npt.NDArray[np.uint8], rows: Rows) -> None:
    """Tell the kernel which images of a memory map come, so that it reads them all at a time.

    One that is met by page faults alone waits for the one before it, and for all that is read around that.
    """
    mapped, n_bytes = pixels.base, pixels[:1].nbytes
    if not (isinstance(pixels, np.memmap) and isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise")):
        return
    if n_bytes < _ADVISED_PAGES * mmap.PAGESIZE:
        return
    begin = pixels.offset % mmap.ALLOCATIONGRANULARITY  # of the array in the map
    with suppress(OSError):  # an advice
        for start in (begin + rows * n_bytes).tolist():
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + n_bytes - page)


class _Kept(NamedTuple):
    store: ImageStore
    device: torch.device
    images: Images


_kept: list[_Kept] = []  # at most one: what the process has opened last


def open_images(store: ImageStore, device: torch.device) -> Images:
    """Choose how the store's images reach the device: all at once where they fit, else batch by batch.

    A process keeps the images that it has opened last: its trials share one store. The CPU always reads the memory map,
    whose pages all workers of a node share. Slots that share a GPU each hold images of their own; every later one takes
    its share of what the earlier ones have left.
    """
    if not (_kept and _kept[0].store is store and _kept[0].device == device):
        _kept.clear()  # before others are uploaded
        _kept.append(_Kept(store, device, _open_images(store, device)))
    return _kept[0].images


def _open_images(store: ImageStore, device: torch.device) -> Images:
    if device.type == "cuda" and fits(store.pixels.nbytes, torch.cuda.mem_get_info(device)[0]):
        return DeviceImages(store.pixels, device)
    return MappedImages(store.pixels, device)


def evaluation_batches(rows: Rows, batch_size: int) -> list[Rows]:
    """Return the rows in order, `batch_size` at a time."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _check_rows(parts: Sequence[Rows], n_images: int) -> None:
    """A GPU would answer a wrong row by ending the process, and a clipped one would be another patient's image."""
    for part in parts:
        if len(part) and not (part.min() >= 0 and part.max() < n_images):
            raise IndexError(f"rows must lie in 0 ... {n_images - 1}, but got {part.min()} ... {part.max()}")
