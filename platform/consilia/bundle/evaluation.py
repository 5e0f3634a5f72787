"""What a bundle stores about how well it does. `ensemble.evaluate` and `ensemble.fitting` measure it."""

from typing import Any, Literal

from consilia.config.frozen import Frozen
from consilia.decision.calibrators import Calibrator
from consilia.decision.promises import PromisesSeen
from consilia.metrics.estimates import Estimate, HonestReport, HonestRow

Split = Literal["test", "external", "cross_fitted"]


class ClassReport(Frozen):
    """One class against the rest, at the most probable class."""

    name: str
    images: int
    patients: int  # with at least one image of this class
    precision: float
    recall: float
    f1: float


class Evaluation(Frozen):
    """The metrics of one predictor on one set of images."""

    split: Split
    predictor: str  # which predictor the numbers describe
    images: int
    patients: int
    metrics: dict[str, Estimate | None]  # calibrated, as shipped; None: undefined on these labels
    uncalibrated: dict[str, Estimate | None]  # the calibration's metrics before it
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]  # images by true class (row) and predicted class (column)
    notes: tuple[str, ...] = ()
    by_patient: "Evaluation | None" = None  # each patient's images combined and counted as one; None: nobody has two
    promises: PromisesSeen | None = None  # what became of the bundle's; None: they were chosen on these images

    def with_note(self, note: str) -> "Evaluation":
        """Return the evaluation with one more thing that a reader has to know; "" adds none."""
        return self.model_copy(update={"notes": (*self.notes, note)}) if note else self

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as plain values that JSON can hold."""
        return self.model_dump(mode="json")


class EnsembleSize(Frozen):
    """The ensemble with so many members. Losses are patient-weighted log losses; lower is better."""

    members: int  # of the largest weights
    calibrator: Calibrator  # fitted for this size
    loss: float  # cross-fitted: each image by an ensemble selected, cut and calibrated without its fold
    difference: float  # of the loss, to that of all members; below 0 is better than all


def with_test(report: HonestReport, evaluation: Evaluation) -> HonestReport:
    """Return the report with the locked test split as its last row, in place of one that it may have had."""
    row = HonestRow(
        kind="test",
        predictor=evaluation.predictor,
        images=evaluation.images,
        patients=evaluation.patients,
        metrics=evaluation.metrics,
    )
    return report.model_copy(update={"rows": (*(each for each in report.rows if each.kind != "test"), row)})
