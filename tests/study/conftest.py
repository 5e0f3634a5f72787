"""Fixtures of the study tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie in it, and a socket's path may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
