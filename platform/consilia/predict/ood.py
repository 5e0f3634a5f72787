"""Images that are unlike those of the training (out of distribution), told in the pass that predicts them.

Source: docs/methods.md section 7.
"""

from dataclasses import dataclass
from pathlib import Path

from consilia.bundle.array_files import OOD, OodReference, read_ood
from consilia.decision.ood.distance import Features, p_values, views
from consilia.decision.ood.inputs import has_colour_limit, measure_inputs
from consilia.decision.ood.verdict import OodReport
from consilia.decision.review import Unusual, UsualImages
from consilia.errors import BundleError, PlanError
from consilia.predict.images import InputBatch
from consilia.predict.networks import FoldEnsembles, Place


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OodDetector:
    """What a bundle knows of usual images, ready to judge others."""

    reference: OodReference
    network: Place  # the one whose features the reference is made of

    @property
    def usual(self) -> UsualImages:
        """What verdicts on images are made with."""
        return UsualImages(inputs=self.reference.inputs, n_distances=len(self.reference.features.distances))

    @property
    def asks_for_colour(self) -> bool:
        """Say whether the colour of a file that is read as grey can make it unusual."""
        return has_colour_limit(self.reference.inputs)

    def measure(self, features: Features, images: InputBatch) -> Unusual:
        """Return how each image compares with those of the training.

        Args:
            features: Of the reference network, (n_images, n_features).
            images: The same ones.
        """
        is_grey = images.pixels.shape[3] == 1
        return Unusual(
            p_values=p_values(views(features, images.pixels), self.reference.features),
            measures=measure_inputs(
                images.pixels,
                self.reference.inputs,
                aspect=images.aspect,
                colour=images.colour if is_grey else None,
            ),
        )


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
