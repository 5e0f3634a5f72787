"""A heat map as a DICOM Secondary Capture that refers to the image that it explains."""

import numpy as np
import numpy.typing as npt
from highdicom import CoordinateSystemNames
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from consilia.bundle.document import BundleDocument
from consilia.export.dicom_origin import NOT_FOR_DIAGNOSIS, Place, equipment


def heat_map_capture(
    source: Dataset, frame: int | None, picture: npt.NDArray[np.uint8], *, document: BundleDocument, place: Place
) -> SCImage:
    """Return the picture of a heat map, which bears its warning in its pixels, too.

    Args:
        source: Header of the image, as of `dicom_source.read_source`.
        frame: Of the image, from 1; None: it has one only.
        picture: (height, width, 3).
        document: Of the ensemble.
        place: Of the picture.
    """
    capture = SCImage.from_ref_dataset(
        source,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system=CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="Heat map, not for diagnostic use",
        **place.arguments(),
        **equipment(document),
    )
    capture.copy_patient_and_study_information(source)
    capture.PatientOrientation = []  # two panels, a scale and words: as a whole it has none
    capture.Laterality = source.get("Laterality") or source.get("ImageLaterality")  # may be empty, but not absent
    capture.DerivationDescription = f"Heat map of the ensemble {document.name}. {NOT_FOR_DIAGNOSIS}"
    capture.SourceImageSequence = [_reference(source, frame)]
    if "BurnedInAnnotation" in source:  # the picture shows what the source shows, and names no patient besides
        capture.BurnedInAnnotation = source.BurnedInAnnotation
    return capture


def _reference(source: Dataset, frame: int | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item
