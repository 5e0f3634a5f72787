"""What to learn from: a data card describes one labelled image data set."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from consilia.config.augmentation import POLICIES, AugmentationPolicy, Modality
from consilia.config.conditions import Conditions
from consilia.config.frozen import Frozen
from consilia.config.reading import FileWindow, Fit, Frames, Reading, WindowRule

PatientTag = Literal["PatientID", "StudyInstanceUID"]


class FolderSource(Frozen):
    """One folder per class: `<path>/<class>/<image>`, or `<path>/<split>/<class>/<image>`.

    The second layout is taken when `path` holds a folder named train; splits are train, val and test.
    """

    kind: Literal["folder"] = "folder"
    patient_tag: PatientTag | None = None  # DICOM files may name their patient; other files cannot


class Columns(Frozen):
    """Names of the table's columns."""

    path: str = "path"
    label: str = "label"
    patient: str | None = None
    split: str | None = None


class LabelTable(Frozen):
    """What every source with a table of labels can do with its rows."""

    where: Conditions | None = None  # on columns; rows that do not meet all of them are left out, and counted
    map: Mapping[str, str] | None = Field(default=None, min_length=1)  # label values to classes; must name every value


class TableSource(LabelTable):
    """A CSV or Parquet file with one row an image."""

    kind: Literal["table"] = "table"
    table: str = "metadata.csv"  # below the card's path
    images: str = "."  # folder below the card's path that the path column starts from
    columns: Columns = Columns()
    patient_tag: PatientTag | None = None  # instead of `columns.patient`, where the images are DICOM


class DicomColumns(Frozen):
    """Names of the label table's columns."""

    key: str  # what `join` names
    label: str = "label"
    patient: str | None = None  # None: a tag of the files, see `patient_tag`
    split: str | None = None


class DicomSource(LabelTable):
    """A folder of DICOM files, searched with all its subfolders, and a table of labels joined to it."""

    kind: Literal["dicom"] = "dicom"
    images: str = "."  # folder below the card's path
    table: str = "labels.csv"  # below the card's path
    join: Literal["path", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"] = "path"
    columns: DicomColumns
    patient_tag: PatientTag | None = None  # None: PatientID, unless `columns.patient` names a column
    unit: Literal["file", "series"] = "file"  # series: the card's `frames` chooses among a series' slices in space
    unlabelled: Literal["error", "leave_out"] = "error"  # files that no row of the table names

    @model_validator(mode="after")
    def _a_series_has_one_label(self) -> "DicomSource":
        if self.unit == "series" and self.join in ("path", "SOPInstanceUID"):
            raise ValueError(
                f"unit: series needs one row a series: join must be SeriesInstanceUID, StudyInstanceUID or PatientID, "
                f"but got {self.join}"
            )
        return self


class NpzSource(Frozen):
    """A MedMNIST-style archive: `<split>_images` (n,h,w[,3]) uint8, `<split>_labels` (n,) or (n,1) integers."""

    kind: Literal["npz"] = "npz"
    file: str  # its name; where `path` is a folder, `<name>_<size>.npz` is looked for first
    multilabel: Literal["refuse", "any"] = "refuse"  # any: labels (n, c) of 0 and 1 become 1 for any
    resize: bool = False  # False: the archive's images must have the card's `size`; True: they are fitted to it


Source = Annotated[FolderSource | TableSource | DicomSource | NpzSource, Field(discriminator="kind")]


class DataCard(Frozen):
    """One data set: where it lies, what its columns mean, and what its images tolerate.

    `group: patient` (the default) demands a patient for every image; a set without patients must say
    `group: none`, and the model card repeats it. Source: docs/methods.md section 1.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: str = ""
    homepage: str = ""
    licence: str = ""
    modality: Modality = "xray"
    path: str | None = None  # folder, or the .npz file
    source: Source
    classes: tuple[str, ...] | None = None  # in label order; None: the sorted names that are found
    group: Literal["patient", "none"] = "patient"
    test: Literal["auto", "none"] = "auto"  # auto: the source's test split, or else `test_fraction` of the patients
    test_fraction: float = Field(default=0.2, gt=0, lt=0.9)
    size: int = Field(default=224, ge=8, le=2048)  # side of the stored square, pixels
    channels: int = Field(default=1, ge=1, le=8)  # 1 grey, 3 RGB, or one a window
    fit: Fit = "pad"
    window: WindowRule = FileWindow()
    frames: Frames = "single"
    augmentation: AugmentationPolicy = AugmentationPolicy()  # keys that are left out are those of the modality
    on_leak: Literal["error", "drop_train", "keep"] = "error"  # test images bound to training images
    max_bad: float = Field(default=0.01, ge=0, lt=1)  # above this share of unreadable images prepare fails

    @model_validator(mode="before")
    @classmethod
    def _modality_decides_augmentation(cls, content: Any) -> Any:
        """Fill what the card leaves out: to allow more turning in histology must not forbid its flips."""
        given = content.get("augmentation") if isinstance(content, Mapping) else content
        if not isinstance(content, Mapping) or not (given is None or isinstance(given, Mapping)):
            return content
        policies: Mapping[Any, AugmentationPolicy] = POLICIES  # a wrong modality is reported by its own field
        policy = policies.get(str(content.get("modality", "xray")), AugmentationPolicy())
        return {**content, "augmentation": {**policy.model_dump(), **(given or {})}}

    @property
    def reading(self) -> Reading:
        """Everything that decides the stored pixels of a file."""
        return Reading(size=self.size, channels=self.channels, fit=self.fit, window=self.window, frames=self.frames)

    @model_validator(mode="after")
    def _reading_must_hold(self) -> "DataCard":
        _ = self.reading  # raises what is wrong
        return self

    @model_validator(mode="after")
    def _classes_must_differ(self) -> "DataCard":
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must differ from each other, but got {list(self.classes)}")
        return self
