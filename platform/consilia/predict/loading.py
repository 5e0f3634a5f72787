"""From the folder of a bundle to its predictor, checked on the way."""

from pathlib import Path

from consilia.bundle.array_files import SEEN, SETS, read_seen, read_sets
from consilia.bundle.golden import GOLDEN, golden_images
from consilia.bundle.reading import read_bundle
from consilia.predict.golden import check_golden
from consilia.predict.networks import FoldEnsembles
from consilia.predict.ood import read_detector
from consilia.predict.precision import AskedPrecision, check_precision, run_in_precision
from consilia.predict.predictor import EnsemblePredictor
from consilia.predict.weights import choose_device


def load_predictor(
    path: str | Path, *, device: str = "auto", precision: AskedPrecision = "float32"
) -> EnsemblePredictor:
    """Load a bundle, check it, and return its predictor.

    Args:
        path: Folder of the bundle.
        device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one present.
        precision: Below float32 it is refused, at load or at the first batch, where it moves one of the ensemble's
            probabilities by more than 0.01. "auto" takes the fastest on a GPU that is not refused: bfloat16, TF32 or
            float32; elsewhere float32.

    Raises:
        BundleError: The bundle is damaged, of another schema, or does not reproduce its golden outputs.
        UserError: torch cannot use the device, or the networks cannot run with this precision.
    """
    bundle = Path(path)
    check_precision(precision)
    chosen = choose_device(device)
    document = read_bundle(bundle)
    files = {name: bundle / name for name in document.files}
    networks = FoldEnsembles(document.members, files, combination=document.combination, device=chosen)
    check_golden(bundle / GOLDEN, networks, document)
    networks = run_in_precision(networks, document.calibrator, golden_images(document.reading), precision)
    sets = None
    if document.has_sets:
        sets = read_sets(bundle / SETS, n_folds=document.n_folds, n_classes=len(document.classes))
    ood = None
    if document.gate is not None:
        ood = read_detector(bundle, document.gate)
    seen = read_seen(bundle / SEEN)
    return EnsemblePredictor(document=document, networks=networks, seen=seen, sets=sets, ood=ood, asked=precision)
