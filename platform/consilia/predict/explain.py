"""One heat map of the whole ensemble: which places of an image raise the log odds of a class, and by how much.

Contributions of pixels (`predict.attribution`) are smoothed until they can be looked at. Where they say nothing about
places, that is said instead. Source: docs/methods.md section 10.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from consilia.config.records import Labels
from consilia.decision.calibrators import pool_folds
from consilia.errors import ReaderError, UserError
from consilia.metrics.scores import softmax
from consilia.predict.attribution import contributions
from consilia.predict.images import Images, OnUnknownKind
from consilia.predict.predictor import EnsemblePredictor

BATCH_SIZE = 16  # a network keeps all its feature maps of a batch
SMOOTHING = 1 / 15  # standard deviation, of the image's side: places that are closer than that are one
UNIT = "log odds per 1 % of the image"
LEAST_GAIN = 0.1  # nats: odds that grow by less than a tenth are not drawn

CAUTION = (
    "A heat map shows which places of an image raise the log odds of a class above those of the same image blurred "
    "until no detail is left. It neither outlines a finding nor measures its size, and it is not evidence that the "
    "prediction is right: a wrong prediction has a heat map too. What speaks for a class by brightness across the "
    "whole image, or by what is absent, has no place on it. Colours compare places within one image: each map's scale "
    "ends at its own maximum, which stands beside it."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """One image, one class, and which places of the image speak for it."""

    label: str
    probability: float  # calibrated, of the label
    gain: float  # nats by which its log odds exceed those of the blurred image: what the map divides among places
    agreement: float  # mean correlation of the maps of any two folds, from -1 to 1; NaN where there is one only
    heat_map: npt.NDArray[np.float32]  # (size, size), nats per 1 % of the image, negative where it speaks against
    pixels: npt.NDArray[np.uint8]  # (size, size, channels), the image as the ensemble reads it

    @property
    def says_nothing_because(self) -> str | None:
        """A sentence on why the map is not to be looked at; None: it is."""
        without = f"with every detail blurred away, its log odds would be {abs(self.gain):.2f}"
        if self.gain < 0:
            return f"The details of this image speak against {self.label} rather than for it: {without} higher."
        if self.gain < LEAST_GAIN:
            return f"The details of this image say little about {self.label}: {without} lower."
        if self.agreement <= 0:
            return (
                f"The folds contradict each other on which places speak for {self.label} (correlation of their maps "
                f"{self.agreement:.2f})."
            )
        return None

    @property
    def peak(self) -> tuple[int, int] | None:
        """Row and column of the maximum; None where the map says nothing."""
        if self.says_nothing_because:
            return None
        row, column = np.unravel_index(self.heat_map.argmax(), self.heat_map.shape)
        return int(row), int(column)


def explain(
    predictor: EnsemblePredictor,
    images: Images,
    *,
    label: str | None = None,
    batch_size: int = BATCH_SIZE,
    on_unknown_kind: OnUnknownKind = "refuse",
) -> Iterator[tuple[str, Explanation | ReaderError]]:
    """Yield each image's name and its heat map, or its error if it cannot be read.

    Args:
        predictor: The ensemble.
        images: As `EnsemblePredictor.predict` takes them.
        label: The class to explain; None takes each image's most probable one.
        batch_size: Images in memory at once.
        on_unknown_kind: As of `EnsemblePredictor.predict`.

    Raises:
        UserError: There is no such class.
        ReaderError: `images` itself is of no type or shape that images have.
    """
    if label is not None and label not in predictor.classes:
        raise UserError(f"label must be one of {', '.join(predictor.classes)}, but is {label!r}.")
    chosen = None if label is None else predictor.classes.index(label)
    for batch in predictor.read(images, batch_size=batch_size, on_unknown_kind=on_unknown_kind):
        pixels = [image.pixels for _, image in batch if not isinstance(image, ReaderError)]
        labels = None if chosen is None else np.full(len(pixels), chosen)
        found = iter(explain_pixels(predictor, np.stack(pixels), labels) if pixels else ())
        for name, image in batch:
            yield name, image if isinstance(image, ReaderError) else next(found)


def explain_pixels(
    predictor: EnsemblePredictor, pixels: npt.NDArray[np.uint8], labels: Labels | None = None
) -> list[Explanation]:
    """Return the heat map of each image that is read already; all are in memory at once.

    Args:
        predictor: The ensemble.
        pixels: (n_images, size, size, channels), as a store of its images holds them.
        labels: The class to explain of each, (n_images,); None: its most probable one.
    """
    networks, calibrator = predictor.networks, predictor.document.calibrator
    probabilities = pool_folds(calibrator, networks.pool(softmax(networks.logits(pixels))))
    labels = probabilities.argmax(axis=1) if labels is None else labels
    maps, gains = contributions(networks, calibrator, pixels, labels)
    return [
        Explanation(
            label=predictor.classes[label],
            probability=float(row[label]),
            gain=float(gain),
            agreement=_agreement(of_image),
            heat_map=of_image.sum(axis=0).astype(np.float32),
            pixels=image,
        )
        for label, row, gain, of_image, image in zip(
            labels, probabilities, gains, np.moveaxis(smoothed(maps), 1, 0), pixels, strict=True
        )
    ]


def smoothed(contributed: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what the surroundings of each pixel contribute, in nats per 1 % of the image; sums stay as they are.

    Args:
        contributed: By each pixel, (..., size, size), in nats.
    """
    size = contributed.shape[-1]
    width = SMOOTHING * size
    spread = gaussian_filter(contributed, width, mode="reflect", axes=(-2, -1))
    result: npt.NDArray[np.float64] = spread * (size**2 / 100)
    return result


def _agreement(maps: npt.NDArray[np.float64]) -> float:
    """Return the mean correlation of any two of (n_folds, size, size); 0 for those of a constant."""
    if len(maps) == 1:
        return float("nan")
    centred = maps.reshape(len(maps), -1) - maps.mean(axis=(1, 2))[:, None]
    norms = np.linalg.norm(centred, axis=1)
    pairs = [(one @ other, n * m) for (one, n), (other, m) in combinations(zip(centred, norms, strict=True), 2)]
    return float(np.mean([product / scale if scale > 0 else 0.0 for product, scale in pairs]))
