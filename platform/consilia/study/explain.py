"""Heat maps of images as files: a picture to look at, the array to compute with, and one table of all."""

import csv
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from consilia.errors import ReaderError
from consilia.files import check_empty, write_atomically, write_text
from consilia.predict.explain import CAUTION, UNIT, Explanation, explain
from consilia.predict.images import Images, OnUnknownKind
from consilia.predict.predictor import EnsemblePredictor
from consilia.report.overlay import draw_explanation

INDEX = "index.csv"
ABOUT = "about.txt"
COLUMNS = (
    *("image", "label", "probability", "overlay", "heat_map"),
    *("peak_row", "peak_column", "gain", "agreement", "says_nothing_because", "error"),
)
_FOOTNOTE = "Which places raise the log odds of the label. Not an outline of a finding: see about.txt."


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """How many images there were, and the messages of those that could not be read."""

    n_images: int
    errors: tuple[str, ...]


def write_explanations(
    predictor: EnsemblePredictor,
    images: Images,
    folder: str | Path,
    *,
    label: str | None = None,
    on_unknown_kind: OnUnknownKind = "refuse",
    progress: Callable[[int], None] = lambda done: None,
) -> Explained:
    """Write each image's overlay (.png) and heat map (.npy), and at the end `index.csv` and `about.txt`.

    A heat map is float32 (size, size), as of `Explanation`, the size being the stored image's. A map that says nothing
    is not drawn: picture and index say why, and the index has no peak. An image that cannot be read has its error
    there, and no files. Files are written whole, and the index last, when everything that it names is there.

    Args:
        predictor: The ensemble.
        images: As `EnsemblePredictor.predict` takes them.
        folder: Made if need be; it must be empty, so that maps of an earlier call do not lie among these.
        label: The class to explain; None takes each image's most probable one.
        on_unknown_kind: As of `EnsemblePredictor.predict`.
        progress: Told after each image how many are done.

    Raises:
        UserError: The folder holds something, or there is no such class.
    """
    folder = Path(folder)
    check_empty(folder)
    rows: list[list[object]] = []
    errors: list[str] = []
    explained = explain(predictor, images, label=label, on_unknown_kind=on_unknown_kind)
    for number, (name, result) in enumerate(explained, start=1):
        if isinstance(result, ReaderError):
            errors.append(str(result))
            rows.append([name, *[""] * (len(COLUMNS) - 2), str(result)])
        else:
            rows.append([name, *_write(result, name, folder / f"{number:04}-{_stem(name)}")])
        progress(number)
    write_text(folder / ABOUT, _about(predictor))
    write_atomically(folder / INDEX, partial(_write_index, rows))
    return Explained(n_images=len(rows), errors=tuple(errors))


def _write(explanation: Explanation, name: str, base: Path) -> list[object]:
    """Write the two files of an image; return its row of the index but the name."""
    overlay = draw_explanation(explanation, name, footnote=_FOOTNOTE)
    picture, array = base.with_name(f"{base.name}.png"), base.with_name(f"{base.name}.npy")
    write_atomically(array, lambda temporary: np.save(temporary, explanation.heat_map, allow_pickle=False))
    write_atomically(picture, overlay.save)
    return [
        *(explanation.label, explanation.probability, picture.name, array.name),
        *(explanation.peak or ("", "")),
        *(explanation.gain, "" if np.isnan(explanation.agreement) else explanation.agreement),
        *(explanation.says_nothing_because or "", ""),
    ]


def _write_index(rows: list[list[object]], temporary: Path) -> None:
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _stem(name: str) -> str:
    """Return the image's name as part of a file name on any system; the number before it tells equal ones apart."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem if not name.endswith("]") else Path(name).name)[:80]


def _about(predictor: EnsemblePredictor) -> str:
    document = predictor.document
    return (
        f"Heat maps of the ensemble {document.name}.\n\n{textwrap.fill(CAUTION, 110)}\n\n"
        "index.csv: one row an image. `probability` is the calibrated one of `label`. `peak_row` and `peak_column`\n"
        "are the strongest place, counted from 0 in pixels of the stored image; places closer than a fifteenth of\n"
        "its side are not told apart. `gain` is what the map divides among places: by how many nats the log odds of\n"
        "`label` exceed those of the same image blurred until no detail is left. `agreement` is the mean correlation\n"
        "of the maps of any two folds. Where `says_nothing_because` says why, no map is drawn.\n"
        f"NAME.npy: float32 (size, size), the heat map: {UNIT}, negative where a place speaks against the\n"
        "label; its mean times 100 is the gain, within a tenth. NAME.png: the image, and\n"
        "the image under what speaks for the label.\n"
    )
