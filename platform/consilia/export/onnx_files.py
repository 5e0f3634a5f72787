"""An ensemble as one ONNX graph, published only where onnxruntime gives what the ensemble gives."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from consilia.bundle.golden import GOLDEN, GoldenOutputs, read_golden
from consilia.bundle.reading import CARD
from consilia.bundle.writing import publish_folder
from consilia.config.records import Probabilities
from consilia.decision.calibrators import AnyCalibrator, pool_folds
from consilia.errors import RunError
from consilia.export import onnx_reference
from consilia.export.onnx_about import ABOUT, GRAPH, INPUT, OUTPUT, README, REFERENCE, about_export, metadata, readme
from consilia.export.onnx_graph import EnsembleGraph
from consilia.files import write_json, write_text
from consilia.predict.networks import FoldEnsembles
from consilia.predict.predictor import BATCH_SIZE, EnsemblePredictor

OPSET = 18  # the first that resizes with antialiasing; onnxruntime has read it since 1.14
TOLERANCE = 1e-4  # of a probability

Squares = npt.NDArray[np.uint8]  # (n_images, size, size, channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExport:
    """What was written, and what onnxruntime gave in comparison."""

    folder: Path
    golden_difference: float  # largest of any probability, from the stored outputs
    n_images: int  # compared besides
    images_difference: float


def write_onnx(
    bundle: Path,
    predictor: EnsemblePredictor,
    folder: Path,
    *,
    squares: Squares,
    source: str,
    progress: Callable[[str], None] = lambda step: None,
) -> OnnxExport:
    """Write graph, description, reference and model card to `folder`, all or nothing.

    Args:
        bundle: Folder of the ensemble.
        predictor: That it was loaded to, on the CPU in float32.
        folder: New or empty.
        squares: Images to compare on, besides the golden ones; there may be none.
        source: Of these, in words.
        progress: Told of each step.

    Raises:
        RunError: Torch cannot export a network, or onnxruntime gives other probabilities or labels; nothing is left.
    """
    golden = read_golden(bundle / GOLDEN, predictor.document)
    about = about_export(predictor.document, opset=OPSET)

    def fill(temporary: Path) -> None:
        progress(f"exporting {len(predictor.networks.loaded)} networks")
        graph = trace(predictor.networks, predictor.document.calibrator, golden.images)
        graph.model.metadata_props.update(metadata(predictor.document))
        graph.save(temporary / GRAPH)  # weights beyond ONNX's 2 GB get a file of their own
        shutil.copyfile(bundle / CARD, temporary / CARD)
        shutil.copyfile(onnx_reference.__file__, temporary / REFERENCE)
        write_json(temporary / ABOUT, about)  # the reference reads it
        progress(f"comparing with onnxruntime on {len(golden.images)} golden images and {len(squares)} others")
        about["compared"] = {**_compare(predictor, golden, temporary, squares), "source": source}
        write_json(temporary / ABOUT, about)
        write_text(temporary / README, readme(predictor.document, about))

    publish_folder(folder, fill)
    return OnnxExport(
        folder=folder,
        golden_difference=about["compared"]["golden_difference"],
        n_images=len(squares),
        images_difference=about["compared"]["images_difference"],
    )


def trace(networks: FoldEnsembles, calibrator: AnyCalibrator, example: Squares) -> torch.onnx.ONNXProgram:
    """Return an ensemble's graph, for batches of any size.

    Args:
        networks: On the CPU, in float32.
        calibrator: Of the ensemble.
        example: At least two images of the right shape.

    Raises:
        RunError: Torch cannot export a network.
    """
    try:
        program = torch.onnx.export(
            EnsembleGraph(networks, calibrator).eval(),
            (torch.from_numpy(example),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"Torch cannot export these networks to ONNX: {reason}") from error
    assert program is not None  # it is None where a file is given
    return program


def _compare(predictor: EnsemblePredictor, golden: GoldenOutputs, folder: Path, squares: Squares) -> dict[str, Any]:
    """Ask the written graph as its users do, and refuse one that answers otherwise than the ensemble."""
    exported = onnx_reference.ExportedEnsemble(folder, threads=torch.get_num_threads())
    pairs = {
        "golden": (golden.probabilities, exported.predict_proba(golden.images)),
        "other": (_ask(predictor, squares), exported.predict_proba(squares)),
    }
    differences = {kind: check_difference(predictor.document.name, kind, *pair) for kind, pair in pairs.items()}
    return {
        "golden_images": len(golden.images),
        "golden_difference": differences["golden"],
        "images": len(squares),
        "images_difference": differences["other"],
        "labels": "identical",
        "onnxruntime": version("onnxruntime"),
        "torch": version("torch"),
    }


def _ask(predictor: EnsemblePredictor, squares: Squares) -> Probabilities:
    """Return what the ensemble says of squares, (n_images, n_classes)."""
    batches = [squares[start : start + BATCH_SIZE] for start in range(0, len(squares), BATCH_SIZE)]
    asked = [pool_folds(predictor.document.calibrator, predictor.networks.probabilities(batch)) for batch in batches]
    return np.concatenate([np.empty((0, len(predictor.classes))), *asked])


def check_difference(name: str, kind: str, expected: Probabilities, found: Probabilities) -> float:
    """Return the largest difference of any probability.

    Raises:
        RunError: It is above `TOLERANCE`, or a label differs.
    """
    difference = float(np.abs(found - expected).max(initial=0.0))
    n_labels = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    if not difference <= TOLERANCE or n_labels:  # true for NaN too
        raise RunError(
            f"{name}: onnxruntime must give the ensemble's probabilities within {TOLERANCE:g} and the same labels, but "
            f"on the {len(expected)} {kind} images it differs by {difference:.2g}, and in {n_labels} labels. Nothing "
            "was written. Try another version of torch, onnxscript or onnxruntime."
        )
    return difference
