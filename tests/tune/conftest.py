"""Fixtures of the search tests."""

from pathlib import Path

import pytest
from search_records import Listener

from consilia.config.study_folder import StudyFolder


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")
