"""Where the patients of a data set come from: a column of the table, a tag of DICOM files, or nowhere."""

from consilia.config.card import DataCard
from consilia.errors import DataError


def check_patient_source(card: DataCard, *, column: str | None, tag: str | None) -> None:
    """Refuse a card that names no patients, names them twice, or names them for nothing.

    Args:
        card: Says whether images are grouped by patient.
        column: The table's column, `source.columns.patient`.
        tag: The DICOM tag, `source.patient_tag`.

    Raises:
        DataError: Says which keys of the card contradict each other.
    """
    if column is not None and tag is not None:
        raise DataError(
            f"Card {card.name!r}: patients must come from one place, but `source.columns.patient` ({column!r}) and "
            f"`source.patient_tag` ({tag}) are both set; remove one."
        )
    if card.group == "patient" and column is None and tag is None:
        raise DataError(
            f"Card {card.name!r}: `group: patient` needs `source.columns.patient`, the table's column that names the "
            "patient, or for DICOM files `source.patient_tag: PatientID`. A data set without patients must say "
            "`group: none`."
        )
    if card.group == "none" and column is not None:
        raise DataError(
            f"Card {card.name!r}: `group: none` would ignore the patient column {column!r}; "
            "say `group: patient`, or remove `source.columns.patient`."
        )
    if card.group == "none" and tag is not None:
        raise DataError(
            f"Card {card.name!r}: `group: none` would ignore the patients of the tag {tag}; "
            "say `group: patient`, or remove `source.patient_tag`."
        )
