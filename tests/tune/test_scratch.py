"""A node's folder: one copy for all its workers, and nothing left of those that died."""

import multiprocessing
import os
from pathlib import Path

import pytest

from consilia.errors import NodeFault
from consilia.tune.driver_disk import LocalDisk, Part
from consilia.tune.scratch import RAY_TRAIN, SCRATCH, Scratch


class CountedDisk(LocalDisk):
    """Writes down every read."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def read(self, path: Path, offset: int) -> Part:
        with self._log.open("a") as file:
            file.write("read\n")
        return super().read(path, offset)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def fetch(temporary: Path, digest: str = "a" * 64, content: bytes = b"content") -> Path:
    """Copy one file, in whichever process calls."""
    import tempfile

    tempfile.tempdir = str(temporary)
    source = temporary / f"{digest[:4]}.bin"
    source.write_bytes(content)
    disk = CountedDisk(temporary / "log")
    return Scratch().copy(digest, {"file": (source, len(content))}, disk, alive=lambda: None)


def test_processes_of_a_node_share_one_copy_that_is_fetched_once(temporary: Path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        folders = set(pool.map(fetch, [temporary] * 6))
    (folder,) = folders
    assert (folder / "file").read_bytes() == b"content"
    assert (temporary / "log").read_text() == "read\n"


def test_a_copy_that_nobody_uses_makes_room_for_the_next(temporary: Path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        old = pool.apply(fetch, (temporary, "a" * 64))
        used = fetch(temporary, "b" * 64)
        assert old.is_dir(), "a process that lives uses it"
    assert fetch(temporary, "c" * 64).is_dir()
    assert not old.exists()
    assert used.is_dir(), "this process uses it"


def test_what_a_process_had_fetched_when_it_died_is_not_taken_for_a_copy(temporary: Path):
    partial = temporary / f"{SCRATCH}-{os.getuid()}" / f"copy-{'a' * 32}.partial"
    partial.mkdir(parents=True)
    (partial / "file").write_bytes(b"con")
    assert (fetch(temporary) / "file").read_bytes() == b"content"
    assert not partial.exists()


def test_a_fetch_that_fails_leaves_no_copy_and_no_lock(temporary: Path):
    scratch = Scratch()
    with pytest.raises(FileNotFoundError):
        scratch.copy("a" * 64, {"file": (temporary / "missing", 10)}, LocalDisk(), alive=lambda: None)
    assert not (scratch.root / f"copy-{'a' * 32}").exists()
    assert (fetch(temporary) / "file").read_bytes() == b"content"


def make_trials(temporary: Path) -> Path:
    import tempfile

    tempfile.tempdir = str(temporary)
    folder = Scratch().make_trials()
    (folder / "checkpoint.pt").write_bytes(b"left")
    return folder


def test_trials_of_a_process_that_died_are_deleted_and_those_of_one_that_lives_are_not(temporary: Path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        theirs = pool.apply(make_trials, (temporary,))
        scratch = Scratch()
        mine = scratch.make_trials()
        assert (theirs / "checkpoint.pt").exists()
    again = Scratch().make_trials()
    assert not theirs.exists()
    assert mine.is_dir()
    assert again.is_dir()
    assert len(list(scratch.root.glob("*.lock"))) == 2


def test_what_ray_train_wrote_long_ago_is_deleted(temporary: Path):
    scratch = Scratch()
    for name, changed in (("old", 0), ("new", None)):
        folder = scratch.root / RAY_TRAIN / name
        folder.mkdir(parents=True)
        if changed is not None:
            os.utime(folder, (changed, changed))
    scratch.make_trials()
    assert [path.name for path in (scratch.root / RAY_TRAIN).iterdir()] == ["new"]


def test_nobody_else_can_look_into_it(temporary: Path):
    root = temporary / f"{SCRATCH}-{os.getuid()}"
    root.mkdir(mode=0o755)  # as Ray Train makes it
    assert Scratch().root.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_elses_is_refused(temporary: Path):
    (temporary / "theirs").mkdir()
    (temporary / f"{SCRATCH}-{os.getuid()}").symlink_to(temporary / "theirs")
    with pytest.raises(NodeFault, match=f"{SCRATCH}-{os.getuid()} must be a folder of user"):
        Scratch()


def test_a_node_that_cannot_write_says_where(temporary: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "missing"))
    with pytest.raises(NodeFault, match=f"nothing can be written to {temporary}/missing"):
        Scratch()
