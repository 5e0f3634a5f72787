"""What to learn from: a data card describes one labelled image data set."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consilia.plan.frozen import Frozen


class FolderSource(Frozen):
    """One folder per class: `<path>/<class>/<image>`, or `<path>/<split>/<class>/<image>`.

    The second layout is taken when `path` holds a folder named train; splits are train, val and test.
    """

    kind: Literal["folder"] = "folder"


class Columns(Frozen):
    """Names of the table's columns."""

    path: str = "path"
    label: str = "label"
    patient: str | None = None
    split: str | None = None


class TableSource(Frozen):
    """A CSV or Parquet file with one row an image."""

    kind: Literal["table"] = "table"
    table: str = "metadata.csv"  # below the card's path
    images: str = "."  # folder below the card's path that the path column starts from
    columns: Columns = Columns()


class NpzSource(Frozen):
    """A MedMNIST-style archive: `<split>_images` (n,h,w[,3]) uint8, `<split>_labels` (n,) or (n,1) integers."""

    kind: Literal["npz"] = "npz"
    file: str  # expected file name, for the error when the path is missing


Source = Annotated[FolderSource | TableSource | NpzSource, Field(discriminator="kind")]


class AugmentationPolicy(Frozen):
    """What may be done to an image of this kind without changing its label, at strength 1.

    Whether a flip is allowed is a fact about the anatomy (laterality), so it belongs to the data, not to the search.
    """

    rotate_degrees: float = Field(default=10.0, ge=0, le=180)  # largest turn to either side
    scale: float = Field(default=0.15, ge=0, lt=1)  # largest relative zoom, in and out
    translate: float = Field(default=0.08, ge=0, lt=1)  # largest shift, as a fraction of the side
    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: bool = False  # multiples of 90 degrees
    brightness: float = Field(default=0.1, ge=0, lt=1)  # largest shift, as a fraction of the full range
    contrast: float = Field(default=0.2, ge=0, lt=1)  # largest relative change


class DataCard(Frozen):
    """One data set: where it lies, what its columns mean, and what its images tolerate.

    `group: patient` (the default) demands a patient for every image; a set without patients must say
    `group: none`, and the model card repeats it. Source: docs/methods.md section 1.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: str = ""
    homepage: str = ""
    licence: str = ""
    modality: str = "xray"
    path: str | None = None  # folder, or the .npz file
    source: Source
    classes: tuple[str, ...] | None = None  # in label order; None: the sorted names that are found
    group: Literal["patient", "none"] = "patient"
    test: Literal["auto", "none"] = "auto"  # auto: the source's test split, or else `test_fraction` of the patients
    test_fraction: float = Field(default=0.2, gt=0, lt=0.9)
    size: int = Field(default=224, ge=8, le=2048)  # side of the stored square, pixels
    channels: Literal[1, 3] = 1
    augmentation: AugmentationPolicy = AugmentationPolicy()
    max_bad: float = Field(default=0.01, ge=0, lt=1)  # above this share of unreadable images prepare fails

    @model_validator(mode="after")
    def _classes_must_differ(self) -> "DataCard":
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must differ from each other, but got {list(self.classes)}")
        return self
