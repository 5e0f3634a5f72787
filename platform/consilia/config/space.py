"""What to search: architectures of a family, the ranges of their hyperparameters, and one configuration of them."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from consilia.config.frozen import Frozen

Value = int | float | str
Imbalance = Literal["cross_entropy", "logit_adjustment", "sqrt_sampling", "focal"]


class _Parameter(Frozen):
    """What every kind of range has.

    `when` makes a parameter conditional: {architecture: [resnet18]} gives it to that architecture only,
    {imbalance: [logit_adjustment]} only where another parameter took that value.
    """

    when: dict[str, tuple[Value, ...]] = Field(default={})  # values of other parameters that this one needs


class FloatRange(_Parameter):
    """A real number, uniform in [low, high], or uniform in its logarithm."""

    kind: Literal["float"] = "float"
    low: float  # smallest value
    high: float  # largest value
    log: bool = False  # draw uniformly in the logarithm
    default: float  # tried first

    @model_validator(mode="after")
    def _must_hold_its_default(self) -> "FloatRange":
        _check_range(self.low, self.high, self.log, self.default)
        return self


class IntRange(_Parameter):
    """A whole number in [low, high], both ends included."""

    kind: Literal["int"] = "int"
    low: int  # smallest value
    high: int  # largest value
    log: bool = False  # draw uniformly in the logarithm
    default: int  # tried first

    @model_validator(mode="after")
    def _must_hold_its_default(self) -> "IntRange":
        _check_range(self.low, self.high, self.log, self.default)
        return self


class Choice(_Parameter):
    """One of a few named values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)  # what may be taken
    default: Value  # tried first

    @model_validator(mode="after")
    def _must_hold_its_default(self) -> "Choice":
        if self.default not in self.values:
            raise ValueError(f"default must be one of {list(self.values)}, but got {self.default!r}")
        return self


Parameter = Annotated[FloatRange | IntRange | Choice, Field(discriminator="kind")]


class Architecture(Frozen):
    """A timm model and the arguments that change it."""

    timm: str  # timm's name of the model
    arguments: dict[str, int | float | str | tuple[int, ...]] = Field(default={})  # that replace those of timm


class SearchSpace(Frozen):
    """One family of architectures with the ranges of its hyperparameters.

    Hyperparameters that families share keep one name and one range, so that Optuna's joint model learns from
    all of them. Source: docs/methods.md sections 2 and 3.
    """

    family: str  # the family's name
    architectures: dict[str, Architecture] = Field(min_length=1)  # names of our own, and the timm model of each
    start_with: tuple[str, ...] = Field(min_length=1)  # architectures that are tried first, with every default
    parameters: dict[str, Parameter]  # ranges of hyperparameters, by name
    from_scratch: dict[str, Parameter] = Field(default={})  # replace `parameters` without pretrained weights

    @model_validator(mode="after")
    def _must_start_with_its_own(self) -> "SearchSpace":
        for name in self.start_with:
            if name not in self.architectures:
                raise ValueError(f"start_with must name architectures of this file, but got {name!r}")
        return self


class Hyperparameters(Frozen):
    """One point of the search space; what a space does not search keeps its default here.

    Source: docs/methods.md section 3, for batches of 64.
    """

    architecture: str  # a name from the search spaces
    lr: float = Field(default=1e-3, gt=0)  # peak learning rate of AdamW
    head_lr_factor: float = Field(default=1.0, gt=0)  # the head's learning rate, times `lr`
    weight_decay: float = Field(default=1e-2, ge=0)  # of AdamW
    smallest_layer_lr: float = Field(default=1.0, gt=0, le=1)  # lr of the first layer group, times `lr`
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the steps over which the learning rate rises
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # share of each target that is spread over all classes
    mixup: float = Field(default=0.1, ge=0)  # alpha of the Beta distribution that shares are drawn from; 0 is off
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # share of residual branches that are dropped in training
    head_dropout: float = Field(default=0.0, ge=0, lt=1)  # share of features that are dropped before the head
    imbalance: Imbalance = "cross_entropy"  # what is done about rare classes
    tau: float = Field(default=1.0, ge=0)  # strength of the logit adjustment
    augmentation: float = Field(default=0.5, ge=0, le=1)  # strength, times the card's policy
    image_size: int | None = Field(default=None, ge=8, le=2048)  # left out: the training plan's


def _check_range(low: float, high: float, log: bool, default: float) -> None:
    if not all(math.isfinite(value) for value in (low, high)):
        raise ValueError(f"low and high must be finite, but got low={low}, high={high}")
    if low > high:
        raise ValueError(f"low <= high must hold, but got low={low}, high={high}: the range is empty")
    if log and low <= 0:
        raise ValueError(f"low > 0 must hold for log: true, but got low={low}")
    if not low <= default <= high:
        raise ValueError(f"default must lie in [{low}, {high}], but got {default}")
