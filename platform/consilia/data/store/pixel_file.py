"""Writing an .npy file of images part by part, when their number is known only at the end."""

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt


class PixelFile:
    """A growing .npy file of uint8 images, complete once it is finished.

    NumPy pads headers so that a file may grow in place: the header is written again with the final count.

    Args:
        path: The file; what it holds is kept.
        shape: (height, width, channels) of one image.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._row_bytes = int(np.prod(shape))
        self._start = len(self._header(0))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._file = os.fdopen(descriptor, "r+b")

    @property
    def n_held(self) -> int:
        """Number of whole images in the file."""
        return max(0, os.fstat(self._file.fileno()).st_size - self._start) // self._row_bytes

    def read(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Return images (count, height, width, channels) that the file holds."""
        self._file.seek(self._start + first * self._row_bytes)
        return np.frombuffer(self._file.read(count * self._row_bytes), np.uint8).reshape(count, *self._shape)

    def keep(self, count: int) -> None:
        """Drop all but the first images; the next is written behind them."""
        self._file.truncate(self._start + count * self._row_bytes if count else 0)
        self._file.seek(0)
        self._file.write(self._header(count))
        self._file.seek(0, os.SEEK_END)

    def append(self, images: npt.NDArray[np.uint8]) -> None:
        """Append images (m, height, width, channels), which then survive this process."""
        assert images.dtype == np.uint8
        assert images.shape[1:] == self._shape
        self._file.write(np.ascontiguousarray(images).data)
        self._file.flush()

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Write the final count."""
        count = self.n_held
        self._file.seek(0)
        self._file.write(self._header(count))
        self.sync()

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _header(self, count: int) -> bytes:
        header = io.BytesIO()
        description = {"descr": "|u1", "fortran_order": False, "shape": (count, *self._shape)}
        np.lib.format.write_array_header_1_0(header, description)
        return header.getvalue()
