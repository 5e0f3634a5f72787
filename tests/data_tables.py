"""Rows, tables of them on disk, and cards that describe them; for the tests of the data layer."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from consilia.config.card import DataCard

COLUMNS = ("path", "label", "patient", "split")
CONTENT = Path(__file__).parents[1] / "data"
Row = Mapping[str, str]


def picture(seed: int, *, height: int = 12, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def row(number: int, label: str, patient: str, split: str = "") -> dict[str, str]:
    return {"path": f"{number:03d}.png", "label": label, "patient": patient, "split": split}


def balanced(patients: int = 12, images: int = 2) -> list[dict[str, str]]:
    """Rows of two classes, `patients` in all, each with `images` images; no split."""
    return [row(p * images + i, "ab"[p % 2], f"{p:03d}") for p in range(patients) for i in range(images)]


def card_of(path: Path | None, **fields: Any) -> DataCard:
    columns = {"patient": "patient"} | fields.pop("columns", {})
    if fields.get("group") == "none":
        columns.pop("patient", None)
    source = {"kind": "table", "columns": columns}
    settings = {"name": "made", "path": path and str(path), "source": source, "size": 8} | fields
    return DataCard.model_validate(settings)


def write_table(folder: Path, rows: Sequence[Row], *, columns: Sequence[str] = COLUMNS, images: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    if images:
        for number, entry in enumerate(rows):
            Image.fromarray(picture(number)).save(folder / entry["path"])
    return folder


def shipped_card(name: str, **fields: Any) -> DataCard:
    """Read a card of data/cards, with some of its fields replaced."""
    content = yaml.safe_load((CONTENT / "cards" / f"{name}.yaml").read_text(encoding="utf-8"))
    return DataCard.model_validate(content | fields)
