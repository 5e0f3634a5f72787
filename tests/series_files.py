"""Writing series of DICOM slices for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import generate_uid

from dicom_files import write_ct

AXIAL = [1, 0, 0, 0, 1, 0]


def write_series(folder: Path, slices: Sequence[np.ndarray], **tags: Any) -> str:
    """Write axial slices, given from the feet up; names and instance numbers run from the head down.

    Returns:
        The SeriesInstanceUID.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = str(generate_uid())
    shared = {"SeriesInstanceUID": uid, "ImageOrientationPatient": AXIAL} | tags
    for z, pixels in enumerate(slices):
        down = len(slices) - z
        place = {"ImagePositionPatient": [-100, -100, 2.5 * z], "InstanceNumber": down}
        write_ct(folder / f"{down:03d}.dcm", pixels, **(place | shared))
    return uid
