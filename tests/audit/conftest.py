"""The place of the real data."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """Folder of the real data sets, where there is one."""
    place = os.environ.get("CONSILIA_REAL_DATA")
    if not place:
        pytest.skip("CONSILIA_REAL_DATA names no folder of real images")
    return Path(place)
