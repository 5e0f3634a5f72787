"""How to combine trials: an ensemble recipe."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consilia.config.frozen import Frozen

Build = Literal["max", "fast"]
"""What is shipped of each member: the networks of all folds, or one refit on the images of all folds."""


class BestSingle(Frozen):
    """The trial with the lowest out-of-fold log loss, alone."""

    kind: Literal["best_single"] = "best_single"


class SoftVote(Frozen):
    """The best trials with equal weights."""

    kind: Literal["soft_vote"] = "soft_vote"
    members: int = Field(default=5, ge=1)  # how many


class Greedy(Frozen):
    """Bagged greedy selection with replacement. Source: Caruana et al., ICML 2004; docs/methods.md section 4."""

    kind: Literal["greedy"] = "greedy"
    pool: int = Field(default=50, ge=1)  # best trials that may be chosen
    bags: int = Field(default=20, ge=1)  # each sees a random half of the pool
    additions: int = Field(default=25, ge=1)  # how often each bag adds a trial
    members: int = Field(default=5, ge=1)  # the largest weights that are kept


Selection = Annotated[BestSingle | SoftVote | Greedy, Field(discriminator="kind")]


CalibrationKind = Literal["auto", "temperature", "temperature_bias", "isotonic", "none"]


class Safety(Frozen):
    """What the predictor promises beyond a probability, and when it asks for a person.

    A target of None sets no such point.
    """

    alpha: float = Field(default=0.1, gt=0, lt=1)  # prediction sets may miss this share of a new patient's images
    sensitivity: float | None = Field(default=0.95, gt=0, lt=1)  # of each class's threshold, with 95 % confidence
    specificity: float | None = Field(default=None, gt=0, lt=1)  # of each class's threshold, with 95 % confidence
    risk: float | None = Field(default=0.05, gt=0, lt=1)  # share of its answers that are wrong; people answer the rest


class EnsembleRecipe(Frozen):
    """How finished trials become one predictor."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # names the folder of the bundle
    selection: Selection  # which trials become members, and with which weights
    calibration: CalibrationKind = "auto"  # the map from the combined to the calibrated probabilities
    safety: Safety = Safety()
    build: Build = "max"  # `max`: ship the networks of all folds; `fast`: one refit of each member

    @model_validator(mode="after")
    def _must_use_what_it_says(self) -> "EnsembleRecipe":
        if self.build == "fast" and self.safety.alpha != Safety().alpha:
            raise ValueError(
                f"safety.alpha belongs to prediction sets, which a fast build cannot give, but is {self.safety.alpha}: "
                "leave it out, or take build: max"
            )
        return self
