"""Asks an exported ensemble with NumPy and onnxruntime alone. A copy of this file lies beside each export.

    python reference.py SQUARES.npy

SQUARES.npy holds uint8 (n_images, size, size, channels): images as export.json says under `before_the_graph` (decoded,
windowed, in grey or RGB, and fitted to a square). The graph does everything from there on. It answers with calibrated
probabilities, and with nothing else: README.md says what an ensemble does besides, and the graph does not.
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

BATCH_SIZE = 64


class ExportedEnsemble:
    """An export in memory, on the CPU."""

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        """Open the graph in `folder`; with 0 threads onnxruntime chooses how many."""
        about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        self.classes: list[str] = about["classes"]
        self._square = tuple(about["input"]["shape"][1:])  # size, size, channels
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            folder / about["graph"], options, providers=["CPUExecutionProvider"]
        )

    def predict_proba(self, squares: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities (n_images, n_classes) of squares (n_images, size, size, channels)."""
        if squares.dtype != np.uint8 or squares.shape[1:] != self._square:
            wanted = ", ".join(map(str, self._square))
            raise ValueError(f"squares must be uint8 (n_images, {wanted}), but are {squares.dtype} {squares.shape}")
        starts = range(0, len(squares), BATCH_SIZE)
        parts = [self._session.run(None, {"images": squares[start : start + BATCH_SIZE]})[0] for start in starts]
        return np.concatenate([np.empty((0, len(self.classes))), *parts])


def main() -> None:
    """Print the label of each image, and the probability of each class."""
    ensemble = ExportedEnsemble(Path(__file__).parent)
    for row in ensemble.predict_proba(np.load(sys.argv[1], allow_pickle=False)):
        shares = (f"{name} {value:.6f}" for name, value in zip(ensemble.classes, row, strict=True))
        print(ensemble.classes[row.argmax()], *shares, sep="  ")


if __name__ == "__main__":
    main()
