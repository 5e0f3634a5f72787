"""Stores prepared from a few rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from data_tables import Row, card_of, picture, write_table


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., ImageStore]:
    """Prepare a store from rows; `pixels` gives some files the picture of another seed, `pictures` some rows theirs."""

    def make(
        rows: Sequence[Row],
        *,
        pixels: Mapping[str, int] | None = None,
        pictures: Mapping[int, npt.NDArray[np.uint8]] | None = None,
        name: str = "made",
        **fields: Any,
    ) -> ImageStore:
        folder = write_table(tmp_path / name, rows)
        for file, seed in (pixels or {}).items():
            Image.fromarray(picture(seed)).save(folder / file)
        for number, shown in (pictures or {}).items():
            Image.fromarray(shown).save(folder / rows[number]["path"])
        columns = {"split": "split"} if any(entry["split"] for entry in rows) else {}
        return prepare(card_of(folder, columns=columns, **fields), root=tmp_path / "stores")

    return make
