"""A store that is being written: its pixels so far and a journal of them, so that no image is decoded twice.

A block's pixels are appended first and its line of the journal second. A line is a CRC-32 and a JSON object. Both
files are synced every 16 blocks, and each line says how many images were safe on disk before it. After a power cut only
the few images that were not are read again and compared with their digests.
"""

import hashlib
import io
import json
import os
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from consilia.data.decode.block import Decoded, ImageFacts
from consilia.data.store.image_store import PIXELS

JOURNAL = "journal.jsonl"
_SYNC_BLOCKS = 16  # 64 MB: what a power cut may cost; on shared disks an fsync can take long
_FIELDS = ImageFacts.__slots__
_DIGEST = _FIELDS.index("pixel_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecord:
    """What the journal says of one decoded block."""

    facts: tuple[ImageFacts, ...]
    failures: tuple[tuple[int, str], ...]  # position in the block, reason
    n_listed: int


class PartialStore:
    """An unfinished store, which continues where its last writer stopped; a context manager.

    Args:
        folder: Made if it is missing. It may have one writer at a time.
        shape: (height, width, channels) of one image.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.n_listed = 0  # images that are decoded or have failed
        self.n_failed = 0
        self._n_images = self._n_synced = self._n_unsynced_blocks = 0
        self._pixels = PixelFile(folder / PIXELS, shape)
        descriptor = os.open(folder / JOURNAL, os.O_RDWR | os.O_CREAT, 0o644)
        self._journal: BinaryIO = os.fdopen(descriptor, "r+b")
        self._take_up()

    def __enter__(self) -> "PartialStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pixels.close()
        self._journal.close()

    def append(self, part: Decoded) -> None:
        """Add the next block."""
        self._pixels.append(part.pixels)
        facts = [[getattr(each, field) for field in _FIELDS] for each in part.facts]
        content = {"listed": part.n_listed, "synced": self._n_synced, "failures": part.failures, "facts": facts}
        self._journal.write(_line(content))
        self._journal.flush()
        self._count(len(part.facts), len(part.failures))
        self._n_unsynced_blocks += 1
        if self._n_unsynced_blocks == _SYNC_BLOCKS:
            self.sync()

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        self._pixels.sync()  # before the journal, whose next line says that they are safe
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._n_synced, self._n_unsynced_blocks = self._n_images, 0

    def records(self) -> Iterator[BlockRecord]:
        """Yield every block's record, in order; one at a time is held in memory."""
        self._journal.flush()
        with (self.folder / JOURNAL).open("rb") as lines:
            for line in lines:
                content = _read_line(line)
                assert content is not None, "written or checked by this process"
                yield _record(content)

    def finish(self) -> None:
        """Write the final header of the pixels."""
        self._pixels.finish()

    def drop_journal(self) -> None:
        """Remove the journal, the last step before the store gets its name."""
        (self.folder / JOURNAL).unlink()

    def _count(self, n_images: int, n_failed: int) -> None:
        self._n_images += n_images
        self.n_failed += n_failed
        self.n_listed += n_images + n_failed

    def _take_up(self) -> None:
        """Find the blocks that both files hold completely, and drop what follows them."""
        end = 0  # of the last good line
        unsynced: deque[_Mark] = deque()
        for line in self._journal:
            content = _read_line(line)
            if content is None:
                break
            mark = _Mark(end, self._n_images, self.n_failed, [fact[_DIGEST] for fact in content["facts"]])
            unsynced.append(mark)
            self._count(len(content["facts"]), len(content["failures"]))
            self._n_synced = content["synced"]
            end += len(line)
            while unsynced and unsynced[0].n_images + len(unsynced[0].digests) <= self._n_synced:
                unsynced.popleft()
        if self._pixels.n_held < self._n_synced:  # the disk lost what it had synced
            end = self._n_images = self.n_failed = self.n_listed = self._n_synced = 0
            unsynced.clear()
        bad = next((mark for mark in unsynced if not self._holds(mark)), None)
        if bad is not None:
            end, self._n_images, self.n_failed = bad.offset, bad.n_images, bad.n_failed
            self.n_listed = self._n_images + self.n_failed
        self._pixels.keep(self._n_images)
        self._journal.truncate(end)
        self._journal.seek(end)

    def _holds(self, mark: "_Mark") -> bool:
        if self._pixels.n_held < mark.n_images + len(mark.digests):
            return False
        images = self._pixels.read(mark.n_images, len(mark.digests))
        return [hashlib.sha256(image).hexdigest() for image in images] == mark.digests


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


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a block begins, and its pixels."""

    offset: int  # in the journal, bytes
    n_images: int
    n_failed: int
    digests: list[str]


def _line(content: Any) -> bytes:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read_line(line: bytes) -> Any:
    """Return the content of a line, or None if it was torn or damaged."""
    checksum, _, text = line.partition(b" ")
    if not text.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text[:-1]):
        return None
    return json.loads(text)


def _record(content: Any) -> BlockRecord:
    facts = tuple(ImageFacts(**dict(zip(_FIELDS, values, strict=True))) for values in content["facts"])
    failures = tuple((int(position), str(reason)) for position, reason in content["failures"])
    return BlockRecord(facts=facts, failures=failures, n_listed=content["listed"])
