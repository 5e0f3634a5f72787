"""Fixtures of the search tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_records import Listener

from consilia.folder import StudyFolder


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie in it, and a socket's path may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
