"""How an image file becomes the square of bytes that is stored: the same at training and at prediction."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consilia.config.frozen import Frozen

Fit = Literal["pad", "crop", "stretch"]
ImageKind = Literal["dicom", "raster"]  # raster: PNG, JPEG and kin, arrays, and archives of arrays
Frames = Literal["single", "first", "middle", "each"]


class Window(Frozen):
    """Linear mapping of modality values (CT: Hounsfield units) to grey. Source: DICOM PS3.3, C.11.2.1.2.1."""

    name: str = ""  # for people: lung, bone
    center: float  # value in the middle of the window
    width: float = Field(ge=1)  # values from black to white; the linear mapping of DICOM is not defined below 1


class FileWindow(Frozen):
    """As the file is displayed: its own VOI LUT or first window; without one, all of 8 bits.

    A PNG, JPEG or other raster has no window: its type's full range is taken. A grey DICOM image of more than 8
    bits without a window is refused, since it is unknown how it is to be shown.
    """

    kind: Literal["file"] = "file"


class FixedWindows(Frozen):
    """The same windows for every image, which must be grey DICOM; each window becomes one channel."""

    kind: Literal["fixed"] = "fixed"
    windows: tuple[Window, ...] = Field(min_length=1, max_length=8)  # the windows, one a channel


class PercentileWindow(Frozen):
    """From the image's own percentiles, all its channels together, pixel padding left out."""

    kind: Literal["percentiles"] = "percentiles"
    low: float = Field(default=0.5, ge=0, lt=100)  # percentile that becomes black
    high: float = Field(default=99.5, gt=0, le=100)  # percentile that becomes white

    @model_validator(mode="after")
    def _must_span(self) -> "PercentileWindow":
        if self.low >= self.high:
            raise ValueError(f"low must lie below high, but got {self.low} and {self.high}")
        return self


WindowRule = Annotated[FileWindow | FixedWindows | PercentileWindow, Field(discriminator="kind")]


class Reading(Frozen):
    """Everything that decides the stored pixels of a file."""

    size: int = Field(ge=8, le=2048)  # side of the stored square, pixels
    channels: int = Field(ge=1, le=8)  # 1 grey, 3 RGB, or one a window
    fit: Fit = "pad"  # pad: whole, on black; crop: the central square; stretch: sides scaled apart
    window: WindowRule = FileWindow()
    frames: Frames = "single"  # of a file with several frames; single refuses it

    @model_validator(mode="after")
    def _channels_must_fit(self) -> "Reading":
        n_windows = len(self.window.windows) if isinstance(self.window, FixedWindows) else 1
        allowed = {n_windows} if n_windows > 1 else {1, 3}
        if self.channels not in allowed:
            wanted = f"{n_windows}, one a window" if n_windows > 1 else "1 (grey) or 3 (RGB)"
            raise ValueError(f"channels must be {wanted}, but got {self.channels}")
        return self
