"""One heat map of the whole ensemble: where its networks found what speaks for a class.

Contributions against the class (`predict.attribution`) are cut off, and the rest is divided by its maximum.
Source: docs/methods.md section 10.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.decision.calibrators import pool_folds
from consilia.errors import ReaderError, UserError
from consilia.metrics.scores import softmax
from consilia.predict.attribution import contributions, odds_gradient
from consilia.predict.images import Images, OnUnknownKind
from consilia.predict.predictor import EnsemblePredictor

BATCH_SIZE = 16  # a network keeps all its feature maps of a batch

CAUTION = (
    "A heat map shows in which cells of their last, coarse feature maps the networks found what raised this "
    "probability. It neither localises a finding nor measures its size, and it is not evidence that the "
    "prediction is right: a wrong prediction has a heat map too. A cell sees far beyond its own borders. Colours "
    "compare places within one image, never two images: each map is scaled to its own maximum."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """One image, one class, and where the networks found what speaks for it."""

    label: str
    probability: float  # calibrated, of the label
    heat_map: npt.NDArray[np.float32]  # (size, size) in [0, 1]; all 0 where nothing speaks for the label
    pixels: npt.NDArray[np.uint8]  # (size, size, channels), the image as the ensemble reads it
    cell: float  # side of the coarsest network's cells, in pixels of the stored image

    @property
    def peak(self) -> tuple[int, int] | None:
        """Row and column of the maximum; None where nothing speaks for the label.

        Of several equal ones it is the nearest to the middle of the image: beyond the outermost centres of cells the
        map is constant, up to the border.
        """
        if not self.heat_map.any():
            return None
        places = np.argwhere(self.heat_map == self.heat_map.max())
        middle = (np.array(self.heat_map.shape) - 1) / 2
        row, column = places[np.square(places - middle).sum(axis=1).argmin()]
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
        PlanError: A network has no last feature map.
        ReaderError: `images` itself is of no type or shape that images have.
    """
    if label is not None and label not in predictor.classes:
        raise UserError(f"label must be one of {', '.join(predictor.classes)}, but is {label!r}.")
    chosen = None if label is None else predictor.classes.index(label)
    for batch in predictor.read(images, batch_size=batch_size, on_unknown_kind=on_unknown_kind):
        pixels = [image.pixels for _, image in batch if not isinstance(image, ReaderError)]
        found = iter(_explain(predictor, np.stack(pixels), chosen) if pixels else ())
        for name, image in batch:
            yield name, image if isinstance(image, ReaderError) else next(found)


def _explain(predictor: EnsemblePredictor, pixels: npt.NDArray[np.uint8], chosen: int | None) -> list[Explanation]:
    networks, calibrator = predictor.networks, predictor.document.calibrator
    logits = networks.logits(pixels)
    probabilities = pool_folds(calibrator, networks.pool(softmax(logits)))
    labels = probabilities.argmax(axis=1) if chosen is None else np.full(len(pixels), chosen)
    gradient = odds_gradient(logits, networks.combination, calibrator, labels)
    contributed, cell = contributions(networks, pixels, gradient)
    return [
        Explanation(
            label=predictor.classes[label],
            probability=float(row[label]),
            heat_map=_scaled(of_image),
            pixels=image,
            cell=cell,
        )
        for label, row, of_image, image in zip(labels, probabilities, contributed, pixels, strict=True)
    ]


def _scaled(contributed: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    positive = np.clip(contributed, 0, None)
    highest = positive.max()
    return (positive / highest if highest > 0 else positive).astype(np.float32)
