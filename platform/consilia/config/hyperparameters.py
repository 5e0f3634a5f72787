"""One configuration: everything that a trial may vary."""

from typing import Literal

from pydantic import Field

from consilia.config.frozen import Frozen

Imbalance = Literal["cross_entropy", "logit_adjustment", "sqrt_sampling", "focal"]


class Hyperparameters(Frozen):
    """One point of the search space; what a space does not search keeps its default here.

    Source: docs/methods.md section 3, for batches of 64.
    """

    architecture: str
    lr: float = Field(default=1e-3, gt=0)
    head_lr_factor: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    smallest_layer_lr: float = Field(default=1.0, gt=0, le=1)  # lr scale of the first layer group
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the steps
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.1, ge=0)  # alpha of the Beta distribution; 0 is off
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    head_dropout: float = Field(default=0.0, ge=0, lt=1)
    imbalance: Imbalance = "cross_entropy"
    tau: float = Field(default=1.0, ge=0)  # strength of the logit adjustment
    augmentation: float = Field(default=0.5, ge=0, le=1)  # strength, times the card's policy
    image_size: int | None = Field(default=None, ge=8, le=2048)  # None: the training plan's
