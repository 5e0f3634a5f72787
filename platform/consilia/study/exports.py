"""What an ensemble, its predictions or a whole study become in the formats of other programs: see `export`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from consilia.bundle.store_check import check_store
from consilia.errors import ReaderError, UserError
from consilia.export.extras import check_extra
from consilia.files import check_empty
from consilia.predict.images import Images
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import EnsemblePredictor
from consilia.study.opened import OpenStudy

if TYPE_CHECKING:
    from consilia.export.onnx_files import OnnxExport, Squares

N_COMPARED = 200  # images of a study that an ONNX graph has to agree on


def export_onnx(
    bundle: str | Path,
    to: str | Path,
    *,
    images: Images | None = None,
    study: OpenStudy | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> "OnnxExport":
    """Write an ensemble as one ONNX graph: squares of bytes in, calibrated probabilities out, and nothing else.

    Prediction sets, reasons for review and the gate for unusual images are not in the graph; README.md and export.json
    beside it say so. The graph is published only where onnxruntime gives the golden outputs within 1e-4, and the
    ensemble's labels for all other images that it is compared on. The locked test is not among these.

    Args:
        bundle: Folder of the ensemble.
        to: A new or an empty folder.
        images: To compare on, besides the golden ones.
        study: Compares on 200 images of its folds in place of `images`, or on all of fewer.
        progress: Told of each step.

    Raises:
        BundleError: The bundle is damaged.
        UserError: The folder holds something, both images and a study are given, or the extra is not installed.
        DataError: An image cannot be read, or the study's are of other classes or another size.
        RunError: The graph cannot be made, or answers otherwise than the ensemble; nothing is left of it.
    """
    check_extra("onnx")
    from consilia.export.onnx_files import write_onnx

    check_empty(Path(to))
    predictor = load_predictor(bundle, device="cpu")
    if study is not None and images is not None:
        raise UserError("A graph is compared on images that are given, or on those of a study. Leave one of them out.")
    if study is not None:
        squares, source = _squares_of_study(predictor, study), f"of the folds of study {study.plan.name}"
    else:
        squares = _read_squares(predictor, () if images is None else images)
        source = "given with the export" if len(squares) else "none were given"
    return write_onnx(Path(bundle), predictor, Path(to), squares=squares, source=source, progress=progress)


def _read_squares(predictor: EnsemblePredictor, images: Images) -> "Squares":
    """Return images as the ensemble reads them.

    Raises:
        ReaderError: Of the first that cannot be read.
    """
    reading = predictor.document.reading
    squares = [np.empty((0, reading.size, reading.size, reading.channels), dtype=np.uint8)]
    for batch in predictor.read(images):
        for _, image in batch:
            if isinstance(image, ReaderError):
                raise image
            squares.append(image.pixels[None])
    return np.concatenate(squares)


def _squares_of_study(predictor: EnsemblePredictor, study: OpenStudy) -> "Squares":
    """Return `N_COMPARED` images of a study's folds, evenly spaced."""
    check_store(study.store, predictor.document)
    pool = study.folds.pool
    chosen = pool[np.unique(np.linspace(0, len(pool) - 1, min(N_COMPARED, len(pool))).round().astype(np.int64))]
    return np.asarray(study.store.pixels[chosen])
