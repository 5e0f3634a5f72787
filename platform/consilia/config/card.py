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
    patient_tag: PatientTag | None = None  # the DICOM tag that names the patient; other files cannot name theirs


class Columns(Frozen):
    """Names of the table's columns."""

    path: str = "path"  # column with the path of the image
    label: str = "label"  # column with its label
    patient: str | None = None  # column with its patient
    split: str | None = None  # column with its split: train, val or test


class LabelTable(Frozen):
    """What every source with a table of labels can do with its rows."""

    where: Conditions | None = None  # on columns; rows that do not meet all conditions are left out, and counted
    map: Mapping[str, str] | None = Field(default=None, min_length=1)  # label values to classes; must name every value


class TableSource(LabelTable):
    """A CSV or Parquet file with one row an image."""

    kind: Literal["table"] = "table"
    table: str = "metadata.csv"  # the table, below the card's path
    images: str = "."  # folder below the card's path that the path column starts from
    columns: Columns = Columns()
    patient_tag: PatientTag | None = None  # the DICOM tag that names the patient, instead of `columns.patient`


class DicomColumns(Frozen):
    """Names of the label table's columns."""

    key: str  # column with what `join` names
    label: str = "label"  # column with the label
    patient: str | None = None  # column with the patient; left out: a tag of the files, see `patient_tag`
    split: str | None = None  # column with the split: train, val or test


class DicomSource(LabelTable):
    """A folder of DICOM files, searched with all its subfolders, and a table of labels joined to it."""

    kind: Literal["dicom"] = "dicom"
    images: str = "."  # folder of the files, below the card's path
    table: str = "labels.csv"  # the table, below the card's path
    # what of a file rows name
    join: Literal["path", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"] = "path"
    columns: DicomColumns
    patient_tag: PatientTag | None = None  # left out: PatientID, unless `columns.patient` is given
    unit: Literal["file", "series"] = "file"  # `series`: `frames` chooses among its slices, in their order in space
    unlabelled: Literal["error", "leave_out"] = "error"  # what to do with files that no row names

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
    file: str  # the archive's name; where `path` is a folder, `<name>_<size>.npz` is looked for first
    multilabel: Literal["refuse", "any"] = "refuse"  # `any`: a label of several 0s and 1s becomes 1 if any of them is 1
    resize: bool = False  # `false`: the archive's images must have the card's `size`; `true`: they are fitted to it


Source = Annotated[FolderSource | TableSource | DicomSource | NpzSource, Field(discriminator="kind")]


class DataCard(Frozen):
    """One data set: where it lies, what its columns mean, and what its images tolerate.

    `group: patient` (the default) demands a patient for every image; a set without patients must say
    `group: none`, and the model card repeats it. Source: docs/methods.md section 1.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # names the data set
    title: str = ""  # what people call it
    homepage: str = ""  # where it is from
    licence: str = ""  # what its owner allows
    modality: Modality = "xray"  # what kind of images; decides `augmentation`
    path: str | None = None  # the folder of the images, or the .npz file
    source: Source  # how images, labels and patients are listed
    classes: tuple[str, ...] | None = None  # in label order; left out: the sorted names that are found
    positive: str | None = None  # of two classes, the one to find, which ROC curves are of; left out: the rarer
    group: Literal["patient", "none"] = "patient"  # `none`: the set does not name patients
    test: Literal["auto", "none"] = "auto"  # `auto`: the source's test split, else `test_fraction`
    test_fraction: float = Field(default=0.2, gt=0, lt=0.9)  # share of the patients, where the source has no test split
    size: int = Field(default=224, ge=8, le=2048)  # side of the stored square, pixels
    channels: int = Field(default=1, ge=1, le=8)  # 1 for grey, 3 for RGB, or one for each window
    fit: Fit = "pad"  # `pad`: the whole image on black; `crop`: its central square; `stretch`: its sides scaled apart
    window: WindowRule = FileWindow()  # which values become black and white
    frames: Frames = "single"  # of a file or a series with several: which; `single` refuses it
    augmentation: AugmentationPolicy = AugmentationPolicy()  # keys that are left out are those of the modality
    on_leak: Literal["error", "drop_train", "keep"] = "error"  # for test images that are bound to training images
    max_bad: float = Field(default=0.01, ge=0, lt=1)  # above this share of unreadable images, prepare fails

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

    @model_validator(mode="after")
    def _positive_must_be_a_class(self) -> "DataCard":
        if self.positive is not None and self.classes is not None and self.positive not in self.classes:
            raise ValueError(f"positive must be one of the classes {list(self.classes)}, but got {self.positive!r}")
        return self
