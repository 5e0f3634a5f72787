"""Images to tell apart: those of a training, usual ones like them, and kinds that are far from both."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from consilia.data.phantom_image import CLASSES, SCANNERS, draw_anatomy, draw_image
from shared.foreign_images import Images, digits, noise, pages, photographs, plots, screenshots, slices, squares


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Images of one kind."""

    pixels: Images
    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.str_]


@cache
def far_kinds(name: str, size: int, n: int, folder: Path | None) -> dict[str, Images]:
    """Return images of kinds that have nothing to do with the set `name`; real ones where there is a folder of them."""
    generator = np.random.default_rng(7)
    drawn = (photographs, plots, pages, screenshots)
    kinds = {each.__name__: squares(_drawn(each, n), size) for each in drawn}
    kinds |= {"noise": noise(n, size, generator), "digits": squares(digits(n), size)}
    if name != "phantoms":
        kinds["phantoms"] = _sized(draw_phantoms(n, generator).pixels, size)
    if folder is not None:
        if name != "pneumonia":
            kinds["children's chests"] = _sized(_pneumonia(folder).pixels[:n], size)
        if name != "views":
            kinds["adults' chests"] = _sized(_views(folder).pixels[:n], size)
        kinds["slices"] = squares(slices(folder / "dicom"), size)
    return kinds


@cache
def _drawn(draw: Callable[[int, np.random.Generator], list[Image.Image]], n: int) -> list[Image.Image]:
    return [each.convert("L") for each in draw(n, np.random.default_rng(3))]


def _sized(images: Images, size: int) -> Images:
    return squares([Image.fromarray(each) for each in images], size)


def draw_phantoms(n: int, generator: np.random.Generator) -> Pictures:
    """Return one image each of n phantom patients, of 64 pixels."""
    labels: npt.NDArray[np.int64] = generator.integers(0, len(CLASSES), n).astype(np.int64)
    scanners = list(SCANNERS.values())
    images = [
        draw_image(CLASSES[label], draw_anatomy(generator), scanners[number % 2], size=64, generator=generator)[0]
        for number, label in enumerate(labels)
    ]
    return Pictures(pixels=np.stack(images), labels=labels, patients=np.arange(n).astype(str))


def phantoms(n: int, generator: np.random.Generator, _: Path | None) -> tuple[Pictures, Pictures]:
    """Return n images to train on, and 500 usual ones; 2 n where n is small."""
    return draw_phantoms(n, generator), draw_phantoms(min(500, 2 * n), generator)


def pneumonia(n: int, generator: np.random.Generator, folder: Path | None) -> tuple[Pictures, Pictures]:
    """Return n images to train on, and 1,000 usual ones: PneumoniaMNIST's training images have no patients."""
    rows = generator.permutation(4708)
    data = _pneumonia(_needed(folder))
    return _take(data, rows[:n]), _take(data, rows[n : n + 1000])


def views(n: int, generator: np.random.Generator, folder: Path | None) -> tuple[Pictures, Pictures]:
    """Return about four fifths of the adults' radiographs to train on, and the rest; whole patients."""
    data = _views(_needed(folder))
    patients = generator.permutation(np.unique(data.patients))
    rest = np.isin(data.patients, patients[: len(patients) // 5])
    return _take(data, np.flatnonzero(~rest)), _take(data, generator.permutation(np.flatnonzero(rest)))


SETS = {"phantoms": phantoms, "pneumonia": pneumonia, "views": views}


def _needed(folder: Path | None) -> Path:
    if folder is None:
        raise SystemExit("Real images are measured with --data DIR, the folder that they lie in.")
    return folder


@cache
def _pneumonia(folder: Path) -> Pictures:
    with np.load(folder / "pneumoniamnist_28.npz") as archive:
        pixels, labels = archive["train_images"], archive["train_labels"][:, 0].astype(np.int64)
    rows = np.random.default_rng(0).permutation(len(pixels))
    return Pictures(pixels=pixels[rows], labels=labels[rows], patients=np.arange(len(pixels)).astype(str))


@cache
def _views(folder: Path) -> Pictures:
    table = pd.read_csv(folder / "cxr-views" / "metadata.csv", dtype=str)
    paths = [next((folder / "cxr-views").rglob(name)) for name in table["filename"]]
    pixels = squares([Image.open(path) for path in paths], 64)
    labels = table["view"].astype("category").cat.codes.to_numpy().astype(np.int64)
    return Pictures(pixels=pixels, labels=labels, patients=table["patientid"].to_numpy(np.str_))


def _take(data: Pictures, rows: npt.NDArray[np.int64]) -> Pictures:
    return Pictures(pixels=data.pixels[rows], labels=data.labels[rows], patients=data.patients[rows])
