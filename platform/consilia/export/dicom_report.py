"""A prediction as a DICOM Structured Report: TID 1500, Measurement Report, of DICOM PS3.16.

One measurement group holds each class's probability as a measurement, and label, prediction set and state as coded
evaluations. Codes are the bundle's class names and this module's terms, in a private scheme: no standard one has them.
"""

from collections.abc import Iterator

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from consilia.bundle.document import BundleDocument
from consilia.config.records import Prediction
from consilia.export.dicom_origin import MANUFACTURER, NOT_FOR_DIAGNOSIS, Place, device_uid, equipment
from consilia.version import __version__

SCHEME = "99CONSILIA"  # DICOM keeps designators that begin with 99 for private schemes
TERMS = {
    "LABEL": "Most probable class",
    "IN_SET": "Class in the prediction set",
    "NO_SET": "Why there is no class in the prediction set",
    "UNUSUAL": "Compared with the training images",
    "REVIEW": "Review by a person",
    "REASON": "Reason for review",
    "LIMITATION": "Limitation",
}
_LONGEST_MEANING = 64  # characters


def structured_report(
    source: Dataset, frame: int | None, prediction: Prediction, *, document: BundleDocument, place: Place
) -> ComprehensiveSR:
    """Return the report of one image.

    Args:
        source: Header of the image, as of `dicom_source.read_source`.
        frame: Of the image, from 1; None: it has one only.
        prediction: Of the image.
        document: Of the ensemble.
        place: Of the report.
    """
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(document)),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_measurements(source, frame, prediction, document)],
    )
    return ComprehensiveSR(
        evidence=[source],
        content=report,
        is_complete=True,
        is_final=False,  # and not verified: no person has looked at it
        is_verified=False,
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="Class names and terms of consilia")],
        series_description="Prediction, not for diagnostic use",
        **place.arguments(),
        **equipment(document),
    )


def _observer(document: BundleDocument) -> ObserverContext:
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=device_uid(document),
            name=document.name,
            manufacturer_name=MANUFACTURER,
            model_name=f"{MANUFACTURER} {__version__}",
            serial_number=document.digest,
        ),
    )


def _measurements(
    source: Dataset, frame: int | None, prediction: Prediction, document: BundleDocument
) -> MeasurementsAndQualitativeEvaluations:
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=generate_uid(prefix=None), identifier=document.name),
        algorithm_id=AlgorithmIdentification(
            name=document.name,
            version=f"{MANUFACTURER} {__version__}",
            parameters=[f"bundle sha256 {document.digest}"],
        ),
        measurements=[
            Measurement(name=code(f"P {name}", meaning=f"Probability of {name}"), value=value, unit=codes.UCUM.NoUnits)
            for name, value in prediction.probabilities.items()
        ],
        qualitative_evaluations=[QualitativeEvaluation(term(name), code(said)) for name, said in _coded(prediction)],
        source_images=[
            SourceImageForMeasurementGroup(
                source.SOPClassUID, source.SOPInstanceUID, None if frame is None else [frame]
            )
        ],
    )
    for name, text in _texts(prediction):
        group[0].ContentSequence.append(TextContentItem(term(name), text, RelationshipTypeValues.CONTAINS))
    return group


def _coded(prediction: Prediction) -> Iterator[tuple[str, str]]:
    """Yield what is said in codes: term and value."""
    yield "LABEL", prediction.label
    for name in prediction.prediction_set or ():
        yield "IN_SET", name
    yield "UNUSUAL", "not checked" if prediction.unusual is None else prediction.unusual.state
    yield "REVIEW", "asked for" if prediction.needs_review else "not asked for"


def _texts(prediction: Prediction) -> Iterator[tuple[str, str]]:
    """Yield what is said in sentences: term and text."""
    for reason in prediction.review:
        yield "REASON", reason
    if prediction.prediction_set is None:
        yield "NO_SET", prediction.without_set or "The ensemble gives none."
    elif not prediction.prediction_set:
        yield "NO_SET", "The set is empty: no class is likely enough to be in it."
    yield "LIMITATION", NOT_FOR_DIAGNOSIS


def term(name: str) -> CodedConcept:
    """Return one of `TERMS` as a code."""
    return CodedConcept(value=name, scheme_designator=SCHEME, meaning=TERMS[name])


def code(value: str, *, meaning: str = "") -> CodedConcept:
    """Return a value, such as the name of a class, as a code that means itself unless another meaning is given."""
    return CodedConcept(value=value, scheme_designator=SCHEME, meaning=(meaning or value)[:_LONGEST_MEANING])
