"""The built-in data set: chest-like radiographs of simulated patients, the same for the same seed."""

import csv
import io
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from consilia.data.phantom_image import CLASSES, SCANNERS, draw_anatomy, draw_image
from consilia.errors import DataError
from consilia.files import write_json, write_text

_SETTINGS = "phantoms.json"
_VERSION = 1  # raised when the same settings give other images
_COLUMNS = ("path", "label", "patient", "split", "scanner", "lesion_x", "lesion_y", "lesion_radius")
_TEST_FRACTION = 0.25
_MOST_IMAGES = 4  # of one patient


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patient:
    name: str
    finding: str
    scanner: str
    split: str


def write_phantoms(folder: str | Path, *, patients: int = 240, size: int = 64, seed: int = 0) -> Path:
    """Write PNG images and `metadata.csv`, complete or not at all.

    Each patient has one finding (clear, consolidation or nodule), one of two scanners, chosen without regard
    to the finding, and one to four images. A quarter of the patients of each class is the test split.

    Args:
        folder: Made if it is missing. If it holds the phantoms of the same settings, nothing is written.
        patients: How many; at least 24, so that every class has both scanners in both splits.
        size: Side of an image, pixels; at least 32.
        seed: Decides every patient and every pixel.

    Returns:
        The folder.

    Raises:
        DataError: The folder holds something else, or a number is too small.
    """
    if patients < 24 or size < 32:
        raise DataError(f"patients >= 24 and size >= 32 must hold, but got {patients=}, {size=}.")
    folder = Path(folder)
    settings = {"version": _VERSION, "patients": patients, "size": size, "seed": seed}
    if _holds(folder, settings):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _write(partial, patients=patients, size=size, seed=seed)
        write_json(partial / _SETTINGS, settings)
        partial.chmod(0o755)
        partial.rename(folder)  # replaces an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _holds(folder: Path, settings: dict[str, int]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != settings:
        holds = f"phantoms of other settings, {found}" if found else "something else"
        raise DataError(
            f"{folder} already holds {holds}; the phantoms asked for are {settings}. "
            "Name a new folder, or empty this one."
        )
    return True


def _write(folder: Path, *, patients: int, size: int, seed: int) -> None:
    images = folder / "images"
    images.mkdir()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for number, patient in enumerate(_draw_patients(patients, seed)):
        generator = np.random.default_rng([seed, number])
        anatomy = draw_anatomy(generator)
        for i in range(1, int(generator.integers(1, _MOST_IMAGES + 1)) + 1):
            pixels, lesion = draw_image(
                patient.finding, anatomy, SCANNERS[patient.scanner], size=size, generator=generator
            )
            path = f"images/{patient.name}-{i}.png"
            Image.fromarray(pixels).save(folder / path)
            place = [f"{value:.4f}" for value in asdict(lesion).values()] if lesion else ["", "", ""]
            writer.writerow([path, patient.finding, patient.name, patient.split, patient.scanner, *place])
    write_text(folder / "metadata.csv", table.getvalue())


def _draw_patients(count: int, seed: int) -> list[_Patient]:
    """Distribute findings, scanners and splits evenly, then shuffle them over the patients."""
    generator = np.random.default_rng(seed)
    dealt: list[tuple[str, str, str]] = []
    for position, finding in enumerate(CLASSES):
        n_patients = (count - position - 1) // len(CLASSES) + 1
        n_test = round(_TEST_FRACTION * n_patients)
        scanners = [list(SCANNERS)[i % len(SCANNERS)] for i in range(n_patients)]
        dealt.extend((finding, scanner, "test" if i < n_test else "train") for i, scanner in enumerate(scanners))
    order = generator.permutation(count)
    return [
        _Patient(name=f"p{number:04d}", finding=finding, scanner=scanner, split=split)
        for number, (finding, scanner, split) in enumerate((dealt[i] for i in order), start=1)
    ]
