"""Files on their way between a node and the driver's disk: whole, in parts, and never half of one under its name."""

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilia.tune import driver_disk
from consilia.tune.driver_disk import LocalDisk, fetch_file, send_file

PART = 100


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_disk, "PART_BYTES", PART)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@given(content=st.binary(max_size=3 * PART) | st.sampled_from([bytes(n * PART) for n in range(4)]))
def test_a_file_arrives_as_it_was_sent_and_comes_back_so(folder: Path, content: bytes):
    here, there, again = folder / "here.bin", folder / "far" / "there.bin", folder / "again.bin"
    here.write_bytes(content)
    send_file(LocalDisk(), here, there, upload="1")
    assert there.read_bytes() == content
    assert sorted(path.name for path in there.parent.iterdir()) == ["there.bin"]
    fetch_file(LocalDisk(), there, again, size=len(content), alive=lambda: None)
    assert again.read_bytes() == content


def test_a_file_that_is_replaced_while_it_is_sent_arrives_whole(tmp_path: Path):
    here, there = tmp_path / "here.bin", tmp_path / "there.bin"
    here.write_bytes(bytes(3 * PART))

    class Replacing(LocalDisk):
        def write(self, path: Path, part: driver_disk.Part, **named: object) -> None:
            (tmp_path / "new").write_bytes(b"1" * 5 * PART)
            (tmp_path / "new").replace(here)
            super().write(path, part, **named)

    send_file(Replacing(), here, there, upload="1")
    assert there.read_bytes() == bytes(3 * PART)


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path: Path):
    here, there = tmp_path / "here.bin", tmp_path / "far" / "there.bin"
    here.write_bytes(b"1" * 3 * PART)
    there.parent.mkdir()
    there.write_bytes(b"earlier")

    class Full(LocalDisk):
        def write(self, path: Path, part: driver_disk.Part, *, offset: int, **named: object) -> None:
            super().write(path, _Unwritable() if offset else part, offset=offset, **named)

    with pytest.raises(OSError, match="No space"):
        send_file(Full(), here, there, upload="1")
    assert there.read_bytes() == b"earlier"
    assert [path.name for path in there.parent.iterdir()] == ["there.bin"]


class _Unwritable:
    @property
    def data(self) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_part_that_is_sent_twice_does_no_harm(tmp_path: Path):
    """The broker may have died after it had written, and before it had answered."""
    here, there = tmp_path / "here.bin", tmp_path / "there.bin"
    content = np.random.default_rng(0).bytes(3 * PART)
    here.write_bytes(content)

    class Twice(LocalDisk):
        def write(self, path: Path, part: driver_disk.Part, *, is_last: bool, **named: object) -> None:
            super().write(path, part, is_last=False, **named)
            super().write(path, part, is_last=is_last, **named)

    send_file(Twice(), here, there, upload="1")
    assert there.read_bytes() == content


def test_a_file_that_has_shrunk_is_refused(tmp_path: Path):
    (tmp_path / "there.bin").write_bytes(bytes(50))
    with pytest.raises(OSError, match="has shrunk to 50 of 60 bytes"):
        fetch_file(LocalDisk(), tmp_path / "there.bin", tmp_path / "here.bin", size=60, alive=lambda: None)
