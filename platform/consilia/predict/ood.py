"""Images that are unlike those of the training (out of distribution), told in the pass that predicts them.

Source: docs/methods.md section 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from consilia.bundle.array_files import OOD, OodReference, read_ood
from consilia.config.records import OodVerdict
from consilia.decision.ood.distance import Features, p_values, views
from consilia.decision.ood.inputs import find_broken_rules, has_colour_limit, measure_inputs
from consilia.decision.ood.verdict import OodReport, judge
from consilia.errors import BundleError, PlanError
from consilia.predict.images import InputImage
from consilia.predict.networks import FoldEnsembles, Place


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OodDetector:
    """What a bundle knows of usual images, ready to judge others."""

    reference: OodReference
    network: Place  # the one whose features the reference is made of

    @property
    def asks_for_colour(self) -> bool:
        """Say whether the colour of a file that is read as grey can make it unusual."""
        return has_colour_limit(self.reference.inputs)

    def judge(self, features: Features, images: Sequence[InputImage]) -> list[OodVerdict]:
        """Return how each image compares with those of the training.

        Args:
            features: Of the reference network, (n_images, n_features).
            images: The same ones.
        """
        pixels = np.stack([image.pixels for image in images])
        found = p_values(views(features, pixels), self.reference.features)
        measures = measure_inputs(
            pixels,
            self.reference.inputs,
            aspect=np.array([image.aspect for image in images]),
            colour=np.array([image.colour for image in images]) if pixels.shape[3] == 1 else None,
        )
        n_reference = len(self.reference.features.distances)
        return [
            judge(float(p_value), find_broken_rules(each, self.reference.inputs), n_reference=n_reference)
            for p_value, each in zip(found, measures, strict=True)
        ]


def look_at(
    images: Sequence[InputImage], networks: FoldEnsembles, detector: OodDetector | None
) -> tuple[npt.NDArray[np.float32], Sequence[OodVerdict | None]]:
    """Return what each network says of images, and how usual they are, from one pass.

    Returns:
        Logits (n_members, n_folds, n_images, n_classes); and a verdict on each image, None without a detector.
    """
    pixels = np.stack([image.pixels for image in images])
    if detector is None:
        return networks.logits(pixels), [None] * len(images)
    logits, features = networks.logits_and_features(pixels, of=detector.network)
    return logits, detector.judge(features, images)


def read_detector(bundle: Path, report: OodReport, networks: FoldEnsembles, network: Place) -> OodDetector:
    """Read what the file `OOD` holds, and check that it is of this network and of as many images as the report says.

    Raises:
        BundleError: It is not, or the file is damaged.
    """
    path = bundle / OOD
    try:
        reference = read_ood(path, n_pooled=networks.count_features(network))
    except PlanError as error:
        raise BundleError(f"{path} cannot be used: {error}") from error
    if (found := len(reference.features.distances)) != report.compared_with:
        raise BundleError(f"{path} must hold the distances of {report.compared_with:,} images, but holds {found:,}.")
    return OodDetector(reference=reference, network=network)
