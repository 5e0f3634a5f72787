"""What may be done to an image of a kind without changing its label."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field, model_validator

from consilia.config.frozen import Frozen

Modality = Literal[
    "xray", "mammography", "ct", "mr", "ultrasound", "nuclear", "oct", "fundus", "dermoscopy", "histology", "other"
]


class AugmentationPolicy(Frozen):
    """What may be done to an image of this kind without changing its label, at strength 1.

    Whether a flip is allowed is a fact about the anatomy (laterality), so it belongs to the data, not to the search.
    No policy inverts intensities: what is white would become black.
    """

    rotate_degrees: float = Field(default=10.0, ge=0, le=180)  # largest turn to either side
    scale: float = Field(default=0.15, ge=0, lt=1)  # largest relative zoom, in and out
    translate: float = Field(default=0.08, ge=0, lt=1)  # largest shift, as a fraction of the side
    flip_horizontal: bool = False  # left and right may be exchanged
    flip_vertical: bool = False  # top and bottom may be exchanged
    quarter_turns: bool = False  # turns by multiples of 90 degrees
    brightness: float = Field(default=0.1, ge=0, lt=1)  # largest shift, as a fraction of the full range
    contrast: float = Field(default=0.2, ge=0, lt=1)  # largest relative change; below 1, so that none is inverted

    @model_validator(mode="after")
    def _one_flip_and_a_half_turn_are_the_other_flip(self) -> "AugmentationPolicy":
        if self.flip_horizontal != self.flip_vertical and (self.quarter_turns or self.rotate_degrees > 90):
            flip, other = ("horizontal", "vertical") if self.flip_horizontal else ("vertical", "horizontal")
            turns = "quarter_turns" if self.quarter_turns else f"rotate_degrees {self.rotate_degrees:g}"
            raise ValueError(
                f"flip_{flip} with {turns} amounts to flip_{other}, which is forbidden: allow both flips or neither"
            )
        return self


_LATERAL = AugmentationPolicy()  # a mirrored chest would show situs inversus, a mirrored breast the other breast
_ANY_WAY_UP = AugmentationPolicy(
    rotate_degrees=45, scale=0.1, flip_horizontal=True, flip_vertical=True, quarter_turns=True
)

POLICIES: Mapping[Modality, AugmentationPolicy] = MappingProxyType(
    {
        "xray": _LATERAL,
        "mammography": _LATERAL,
        "ct": AugmentationPolicy(rotate_degrees=7.0, scale=0.1, brightness=0.05, contrast=0.1),
        "mr": AugmentationPolicy(rotate_degrees=7.0, scale=0.1),
        "ultrasound": AugmentationPolicy(scale=0.1),
        "nuclear": AugmentationPolicy(rotate_degrees=5.0, scale=0.1),
        "oct": AugmentationPolicy(rotate_degrees=5.0, scale=0.1),
        "fundus": AugmentationPolicy(rotate_degrees=20.0),
        "dermoscopy": _ANY_WAY_UP.model_copy(update={"scale": 0.2}),
        "histology": _ANY_WAY_UP,
        "other": _LATERAL,
    }
)
