"""What an ensemble and its predictions become in the formats of other programs; `export` writes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from consilia.bundle.store_check import check_store
from consilia.data.dicom.header import is_dicom
from consilia.errors import ReaderError, UserError
from consilia.export.extras import check_extra
from consilia.files import check_empty
from consilia.predict.explain import explain
from consilia.predict.images import Images, OnUnknownKind
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import EnsemblePredictor
from consilia.report.overlay import draw_explanation
from consilia.study.opened import OpenStudy

if TYPE_CHECKING:
    from consilia.export.onnx_files import OnnxExport, Squares

_FOOTNOTE = "NOT FOR DIAGNOSTIC USE. Places that raise the log odds of the label; not an outline of a finding."
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomExport:
    """What was written of images, and the messages of those of which nothing was."""

    n_images: int  # of which a report and a heat map were written
    errors: tuple[str, ...]


def export_dicom(
    bundle: str | Path,
    images: Sequence[str | Path],
    to: str | Path,
    *,
    device: str = "auto",
    on_unknown_kind: OnUnknownKind = "refuse",
    progress: Callable[[int], None] = lambda done: None,
) -> DicomExport:
    """Write what an ensemble says of DICOM images as DICOM: of each a Structured Report, and its heat map as a picture.

    The report (TID 1500) has label, probabilities, prediction set, whether the image is unusual and every reason for
    review; its observer is the ensemble, whose UID derives from the bundle's digest. The picture is a Secondary Capture
    that refers to its image and says in its pixels that it is not for diagnostic use. Both lie in the image's study.

    Args:
        bundle: Folder of the ensemble.
        images: DICOM files. One that is none, or cannot be read, is an error for itself alone.
        to: A new or an empty folder.
        device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one.
        on_unknown_kind: As of `EnsemblePredictor.predict`, for an ensemble that was trained on raster images.
        progress: Told after each image how many are done.

    Raises:
        BundleError: The bundle is damaged.
        UserError: The folder holds something, or the extra is not installed.
    """
    check_extra("dicom")
    from consilia.export.dicom_files import DicomResults

    check_empty(Path(to))
    predictor = load_predictor(bundle, device=device)
    results = DicomResults(Path(to), predictor.document)
    paths = [Path(each) for each in images]
    others = dict.fromkeys(path for path in paths if path.is_file() and not is_dicom(path))
    errors = [f"{path}: results are written beside DICOM images, but this file is none." for path in others]
    known = [path for path in paths if path not in others]
    names = {str(path): path for path in known}
    predicted = predictor.iterate_named(known, on_unknown_kind=on_unknown_kind)
    explained = explain(predictor, known, on_unknown_kind=on_unknown_kind)
    n_written = 0
    for done, ((name, prediction), (_, explanation)) in enumerate(zip(predicted, explained, strict=True), start=1):
        try:
            path, frame = _path_and_frame(name, names)
            picture = np.asarray(draw_explanation(_readable(explanation), footnote=_FOOTNOTE))
            results.write(path, frame, _readable(prediction), picture)
            n_written += 1
        except ReaderError as error:
            errors.append(str(error))
        progress(done)
    return DicomExport(n_images=n_written, errors=tuple(errors))


def _path_and_frame(name: str, paths: Mapping[str, Path]) -> tuple[Path, int | None]:
    """Return what `EnsemblePredictor.iterate_named` calls an image: a path, or `path[frame]`."""
    if name in paths:
        return paths[name], None
    path, _, frame = name.removesuffix("]").rpartition("[")
    return paths[path], int(frame)


_Found = TypeVar("_Found")


def _readable(found: "_Found | ReaderError") -> _Found:
    """Return what was found of an image, or raise why it cannot be read."""
    if isinstance(found, ReaderError):
        raise found
    return found


def _read_squares(predictor: EnsemblePredictor, images: Images) -> "Squares":
    """Return images as the ensemble reads them.

    Raises:
        ReaderError: Of the first that cannot be read.
    """
    reading = predictor.document.reading
    squares = [np.empty((0, reading.size, reading.size, reading.channels), dtype=np.uint8)]
    for batch in predictor.read(images):
        squares += [_readable(image).pixels[None] for _, image in batch]
    return np.concatenate(squares)


def _squares_of_study(predictor: EnsemblePredictor, study: OpenStudy) -> "Squares":
    """Return `N_COMPARED` images of a study's folds, evenly spaced."""
    check_store(study.store, predictor.document)
    pool = study.folds.pool
    chosen = pool[np.unique(np.linspace(0, len(pool) - 1, min(N_COMPARED, len(pool))).round().astype(np.int64))]
    return np.asarray(study.store.pixels[chosen])
