"""What an ensemble says of DICOM images, as DICOM files: of each image a report and a heat map."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from consilia.bundle.document import BundleDocument
from consilia.config.reading import Reading
from consilia.config.records import Prediction
from consilia.data.quiet import quietly
from consilia.data.square import choose_frame
from consilia.errors import ReaderError
from consilia.export.dicom_heat_map import heat_map_capture
from consilia.export.dicom_origin import Place
from consilia.export.dicom_report import structured_report
from consilia.export.dicom_source import read_source
from consilia.files import write_atomically

REPORT, HEAT_MAP = "report", "heat-map"
_SERIES = {REPORT: 9001, HEAT_MAP: 9002}  # numbers that no scanner of the study is likely to have given


class DicomResults:
    """The files of one export; of each study, its reports are a series, and its heat maps another."""

    def __init__(self, folder: Path, document: BundleDocument) -> None:
        """Take an empty folder, and what the ensemble says of itself."""
        self._folder = folder
        self._document = document
        self._series: dict[tuple[str, str], UID] = {}
        self._n_written = 0

    def write(
        self, path: Path, frame: int | None, prediction: Prediction, picture: npt.NDArray[np.uint8]
    ) -> tuple[Path, Path]:
        """Write one image's report and heat map, and return where they lie.

        Args:
            path: Of the image.
            frame: Of the file, from 0; None: the reading chose it, or there is one only.
            prediction: Of the image.
            picture: Of its heat map, (height, width, 3).

        Raises:
            ReaderError: The file's identifiers are missing, or values of its header are not DICOM's.
        """
        source = read_source(path)
        shown = _shown_frame(source, frame, self._document.reading, str(path))
        number = self._n_written + 1
        stem = re.sub(r"[^\w.-]+", "_", path.stem)[:80]
        report, heat_map = (self._folder / f"{number:04}-{stem}-{kind}.dcm" for kind in (REPORT, HEAT_MAP))
        try:
            with quietly():  # of odd values in the source's header
                said = structured_report(
                    source, shown, prediction, document=self._document, place=self._place(source, REPORT, number)
                )
                drawn = heat_map_capture(
                    source, shown, picture, document=self._document, place=self._place(source, HEAT_MAP, number)
                )
                write_atomically(report, lambda temporary: said.save_as(temporary, enforce_file_format=True))
                write_atomically(heat_map, lambda temporary: drawn.save_as(temporary, enforce_file_format=True))
        except (AttributeError, TypeError, ValueError) as error:
            raise ReaderError(f"{path}: its header has values that results cannot take over: {error}") from error
        self._n_written = number
        return report, heat_map

    def _place(self, source: Dataset, kind: str, number: int) -> Place:
        series = self._series.setdefault((str(source.StudyInstanceUID), kind), generate_uid(prefix=None))
        return Place(series=series, series_number=_SERIES[kind], number=number)


def _shown_frame(source: Dataset, frame: int | None, reading: Reading, name: str) -> int | None:
    """Return the number of the frame that was predicted, from 1; None: the file has one only."""
    n_frames = int(source.get("NumberOfFrames") or 1)
    return None if n_frames == 1 else choose_frame(n_frames, reading, frame, name) + 1
