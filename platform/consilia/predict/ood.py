"""Images that are unlike those of the training (out of distribution).

Source: docs/methods.md section 7.
"""

from dataclasses import dataclass
from pathlib import Path

from consilia.bundle.array_files import OOD, OodReference, read_ood
from consilia.decision.ood.distance import find_nearest, rank_p_values
from consilia.decision.ood.inputs import has_colour_limit, measure_inputs
from consilia.decision.ood.picture import describe
from consilia.decision.ood.verdict import OodReport
from consilia.decision.review import Unusual, UsualImages
from consilia.errors import BundleError
from consilia.predict.images import InputBatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OodDetector:
    """What a bundle knows of usual images, ready to judge others."""

    reference: OodReference

    @property
    def usual(self) -> UsualImages:
        """What verdicts on images are made with."""
        return UsualImages(inputs=self.reference.inputs, n_distances=len(self.reference.pictures.distances))

    @property
    def asks_for_colour(self) -> bool:
        """Say whether the colour of a file that is read as grey can make it unusual."""
        return has_colour_limit(self.reference.inputs)

    def measure(self, images: InputBatch) -> Unusual:
        """Return how each image compares with those of the training."""
        is_grey = images.pixels.shape[3] == 1
        nearest = find_nearest(describe(images.pixels), self.reference.pictures)
        return Unusual(
            p_values=rank_p_values(nearest.distances, self.reference.pictures.distances),
            parts=nearest.parts,
            measures=measure_inputs(
                images.pixels,
                self.reference.inputs,
                aspect=images.aspect,
                colour=images.colour if is_grey else None,
            ),
        )


def read_detector(bundle: Path, report: OodReport) -> OodDetector:
    """Read what the file `OOD` holds, and check that it is of as many images as the report says.

    Raises:
        BundleError: It is not, or the file is damaged.
    """
    path = bundle / OOD
    reference = read_ood(path)
    if (found := len(reference.pictures.distances)) != report.compared_with:
        raise BundleError(f"{path} must hold the distances of {report.compared_with:,} images, but holds {found:,}.")
    return OodDetector(reference=reference)
