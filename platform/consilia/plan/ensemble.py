"""How to combine trials: an ensemble recipe."""

from typing import Annotated, Literal

from pydantic import Field

from consilia.plan.frozen import Frozen


class BestSingle(Frozen):
    """The trial with the lowest out-of-fold log loss, alone."""

    kind: Literal["best_single"] = "best_single"


class SoftVote(Frozen):
    """The best trials with equal weights."""

    kind: Literal["soft_vote"] = "soft_vote"
    members: int = Field(default=5, ge=1)


class Greedy(Frozen):
    """Bagged greedy selection with replacement. Source: Caruana et al., ICML 2004; docs/methods.md section 4."""

    kind: Literal["greedy"] = "greedy"
    pool: int = Field(default=50, ge=1)  # best trials that may be chosen
    bags: int = Field(default=20, ge=1)  # each sees a random half of the pool
    additions: int = Field(default=25, ge=1)
    members: int = Field(default=5, ge=1)  # the largest weights that are kept


Selection = Annotated[BestSingle | SoftVote | Greedy, Field(discriminator="kind")]


CalibrationKind = Literal["auto", "temperature", "temperature_bias", "isotonic", "none"]


class EnsembleRecipe(Frozen):
    """How finished trials become one predictor."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    selection: Selection
    calibration: CalibrationKind = "temperature"
