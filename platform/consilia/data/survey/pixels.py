"""What a sample of the images says of sizes, colours, windows and frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType

import numpy as np

from consilia.config.augmentation import Modality
from consilia.config.reading import PercentileWindow, Reading
from consilia.data.decode.reader import count_frames, read_image
from consilia.data.dicom.header import is_dicom
from consilia.data.square import Picture
from consilia.errors import DataError, ReaderError

MODALITY_OF: Mapping[str, Modality] = MappingProxyType(
    {
        **{"CR": "xray", "DX": "xray", "XA": "xray", "RF": "xray", "MG": "mammography", "CT": "ct", "MR": "mr"},
        **{"US": "ultrasound", "NM": "nuclear", "PT": "nuclear", "OPT": "oct", "OP": "fundus", "SM": "histology"},
    }
)
"""Kinds of images by DICOM's Modality (PS3.3 C.7.3.1.1.1)."""

_SAMPLE = 48  # files that are decoded
_READING = Reading(size=64, channels=3, frames="middle")
_BY_PERCENTILES = _READING.model_copy(update={"window": PercentileWindow()})
_GREY = 3  # channels of a grey image saved as a JPEG in colour differ by no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some images of a data set."""

    pictures: tuple[Picture, ...]
    unreadable: tuple[str, ...]  # one message a file
    n_without_window: int  # DICOM images that do not say how they are shown
    n_with_frames: int  # files with several frames

    @property
    def side(self) -> int:
        """The median of the longer sides, pixels."""
        return round(median(max(each.width, each.height) for each in self.pictures))

    @property
    def shapes(self) -> str:
        """The range of sizes in words."""
        sizes = sorted(((each.width, each.height) for each in self.pictures), key=lambda size: size[0] * size[1])
        (width, height), (widest, highest) = sizes[0], sizes[-1]
        span = f"{width} x {height}"
        return span if sizes[0] == sizes[-1] else f"{span} to {widest} x {highest}"

    @property
    def n_coloured(self) -> int:
        """Images that are not grey, whatever their file's type."""
        return sum(int(np.ptp(each.pixels.astype(np.int16), axis=2).max()) > _GREY for each in self.pictures)

    @property
    def modalities(self) -> frozenset[Modality | None]:
        """Kinds of images that the files name; None among them where a file names none."""
        return frozenset(MODALITY_OF.get(each.tags.get("Modality", "")) for each in self.pictures)

    def tags(self, keyword: str) -> list[str]:
        """Return what each image that has this DICOM tag says there."""
        return [each.tags[keyword] for each in self.pictures if keyword in each.tags]


def sample_images(files: Sequence[Path], *, at_most: int = _SAMPLE) -> Sample:
    """Decode some of the files, evenly spaced.

    Raises:
        DataError: None of them can be read.
    """
    pictures: list[Picture] = []
    unreadable: list[str] = []
    n_without_window = n_with_frames = 0
    for file in files[:: max(1, len(files) // at_most)][:at_most]:
        try:
            picture, has_window = _read(file)
            n_with_frames += count_frames(file) > 1
        except ReaderError as error:
            unreadable.append(str(error))
            continue
        pictures.append(picture)
        n_without_window += not has_window
    if not pictures:
        raise DataError(f"None of {len(unreadable)} files can be read as an image. The first: {unreadable[0]}")
    return Sample(
        pictures=tuple(pictures),
        unreadable=tuple(unreadable),
        n_without_window=n_without_window,
        n_with_frames=n_with_frames,
    )


def _read(file: Path) -> tuple[Picture, bool]:
    """Return an image, and whether its file says how it is shown."""
    try:
        return read_image(file, _READING), True
    except ReaderError:
        if not is_dicom(file):
            raise
        return read_image(file, _BY_PERCENTILES), False
