"""What decides a network and its input: light records, which processes without torch can read."""

from pydantic import Field, model_validator

from consilia.config.frozen import Frozen
from consilia.config.space import Architecture


class ModelSpec(Frozen):
    """Everything that decides a network's parameters and their names, so that stored weights fit it."""

    architecture: Architecture
    n_classes: int = Field(ge=2)
    channels: int = Field(ge=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    head_dropout: float = Field(default=0.0, ge=0, lt=1)


class Preprocessing(Frozen):
    """Turns stored images into network input; it lies beside the weights it was trained with."""

    size: int = Field(ge=1, le=2048)  # side of stored images, pixels
    channels: int = Field(ge=1)
    image_size: int = Field(ge=1, le=2048)  # side that the network sees, pixels
    mean: tuple[float, ...]  # a value a channel, of pixel / 255
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _must_have_a_value_a_channel(self) -> "Preprocessing":
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(
                f"mean and std must have {self.channels} values and std be positive, but got {self.mean} and {self.std}"
            )
        return self
