"""Writing an .npy file of images part by part, when their number is known only at the end."""

import io
import os
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt


class PixelFile:
    """A growing .npy file of uint8 images, complete and on disk once the `with` block ends without error.

    NumPy pads headers so that a file may grow in place: the header is written again with the final count.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self._shape = shape  # (height, width, channels) of one image
        self._count = 0
        self._file = path.open("wb")
        self._file.write(self._header())

    def append(self, images: npt.NDArray[np.uint8]) -> None:
        """Append images (m, height, width, channels)."""
        assert images.dtype == np.uint8
        assert images.shape[1:] == self._shape
        self._file.write(np.ascontiguousarray(images).data)
        self._count += len(images)

    def __enter__(self) -> "PixelFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._file.seek(0)
                self._file.write(self._header())
                self._file.flush()
                os.fsync(self._file.fileno())

    def _header(self) -> bytes:
        header = io.BytesIO()
        description = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._shape)}
        np.lib.format.write_array_header_1_0(header, description)
        return header.getvalue()
