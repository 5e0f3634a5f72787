"""Who says it, and where it lies: the ensemble as a device, and an object's place in the patient's study."""

import uuid
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID, generate_uid

from consilia.bundle.document import BundleDocument
from consilia.version import __version__

MANUFACTURER = "consilia"
NOT_FOR_DIAGNOSIS = "Not for diagnostic use: research software, not a medical device."
_LONGEST = 64  # characters of DICOM's LO


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an object lies in the source's study. UIDs are fresh.

    An export is an observation of its own, with a time of its own: DICOM forbids one UID for two objects that differ in
    a byte, and the same ensemble may differ in the last digits on another machine.
    """

    series: UID
    series_number: int
    number: int  # of the object in its series, from 1

    def arguments(self) -> dict[str, Any]:
        """Return what highdicom's constructors call it; each call names another object."""
        return {
            "series_instance_uid": self.series,
            "series_number": self.series_number,
            "sop_instance_uid": generate_uid(prefix=None),
            "instance_number": self.number,
        }


def device_uid(document: BundleDocument) -> UID:
    """Return the UID of an ensemble as a device, derived from the bundle's digest: the same bundle, the same device."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:sha256:{document.digest}').int}")


def equipment(document: BundleDocument) -> dict[str, Any]:
    """Return what made an object, as highdicom's constructors call it."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": document.name[:_LONGEST],
        "device_serial_number": document.digest,
        "software_versions": __version__,
        "content_qualification": "RESEARCH",
        "specific_character_set": "ISO_IR 192",  # UTF-8: classes may be named in any language
    }
