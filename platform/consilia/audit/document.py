"""The schema of `audit.json`: all that an audit found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from consilia.config.frozen import Frozen
from consilia.data.sources.listing import LeftOut, Quarantined
from consilia.errors import DataError
from consilia.files import write_json
from consilia.metrics.estimates import Estimate

SCHEMA_VERSION: Literal[1] = 1

Severity = Literal["error", "warning", "note"]
Origin = Literal["table", "tag", "file", "all", "border"]


class Finding(Frozen):
    """One thing to know, and what to do about it."""

    severity: Severity  # error: a result would be wrong; warning: look before you train; note: know it
    topic: str  # such as leak, label conflict, shortcut
    sentence: str
    action: str  # "" where there is nothing to do


class Spread(Frozen):
    """Where the values of one quantity lie."""

    low: float
    median: float
    high: float
    n_distinct: int


class Intensities(Frozen):
    """Grey values of the images of one split and class, as stored, 0 ... 1."""

    split: str
    label: str
    n_images: int
    mean: float
    std: float  # over all pixels of all images


class Column(Frozen):
    """One column of text that came from the table, or one DICOM tag."""

    name: str
    origin: Origin
    n_filled: int  # images with a value
    n_distinct: int
    commonest: Mapping[str, int]  # images by value, the five most frequent; of an identifier none


class Counts(Frozen):
    """How many images of what."""

    by_split: Mapping[str, Mapping[str, int]]  # images by split ("no split" where the source has none) and class
    by_fold: Mapping[
        str, Mapping[str, int]
    ]  # by "fold 1" ..., "test", "left out", and class; empty where no folds can be made
    patients_by_split: Mapping[str, Mapping[str, int]]  # patients; one with images of two classes counts in both
    n_patients: int | None  # None where the source names none
    images_per_patient: Spread | None
    k: int
    seed: int | None  # of the folds; None where none can be made
    no_folds: str  # why there are none, else ""


class Image(Frozen):
    """One image, for a person who has to find it."""

    image_id: int
    file: str
    frame: int
    patient: str  # "" where the source names none
    label: str
    split: str  # as the source says; "" where it says none


class Case(Frozen):
    """Images that show the same."""

    kind: Literal["exact", "near"]
    difference: float  # 0 for exact; of a near pair 1 - the correlation at low resolution
    images: tuple[Image, ...]  # two or more

    @property
    def splits(self) -> frozenset[str]:
        """Splits that the images lie in."""
        return frozenset(each.split for each in self.images)

    @property
    def crosses_splits(self) -> bool:
        """Whether the images lie in several splits."""
        return len(self.splits) > 1

    @property
    def reaches_test(self) -> bool:
        """Whether training would see what is tested."""
        return self.crosses_splits and "test" in self.splits

    @property
    def conflicts(self) -> bool:
        """Whether the same picture has several labels."""
        return len({each.label for each in self.images}) > 1


class CrossingPatient(Frozen):
    """A patient with images in several splits."""

    patient: str
    files: Mapping[str, tuple[str, ...]]  # by split


class Duplicates(Frozen):
    """Pictures that stand in the data more than once."""

    exact: tuple[Case, ...]  # groups of equal stored pixels
    near: tuple[Case, ...]  # pairs that look alike, confirmed on pixels

    @property
    def cases(self) -> tuple[Case, ...]:
        """All of them, exact ones first."""
        return self.exact + self.near


class Shortcut(Frozen):
    """How well something other than the finding predicts the label by itself, by cross-validation.

    Areas under the curve are one class against the rest; `auc` is their mean over the classes.
    """

    name: str
    origin: Origin
    n_values: int  # distinct values used, or features of the border
    auc: Estimate
    best_class: str  # the class that it predicts best
    best_auc: Estimate  # of that class; the interval allows for having chosen among the classes
    warns: bool
    is_label: bool  # it nearly is the label


class Skipped(Frozen):
    """A column that was not tried as a shortcut."""

    name: str
    origin: Origin
    reason: str


class Shortcuts(Frozen):
    """What was tried outside the test split."""

    n_images: int  # used
    n_pool: int  # images outside the test split; more than `n_images` where a part was drawn
    tried: tuple[Shortcut, ...]  # most predictive first; "all columns together" and the border among them
    skipped: tuple[Skipped, ...]
    not_tried: str  # why nothing was tried, else ""


class Audit(Frozen):
    """What a prepared data set holds, and what is wrong with it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    card: str
    digest: str  # of the store
    n_images: int
    classes: tuple[str, ...]
    on_leak: str  # what the card says
    findings: tuple[Finding, ...]  # errors first
    counts: Counts
    left_out: tuple[LeftOut, ...]
    quarantine: tuple[Quarantined, ...]
    widths: Spread  # of the files, pixels
    heights: Spread
    n_sizes: int  # distinct pairs of width and height
    formats: Mapping[str, int]  # images
    modes: Mapping[str, int]
    intensities: tuple[Intensities, ...]
    columns: tuple[Column, ...]
    duplicates: Duplicates
    crossing_patients: tuple[CrossingPatient, ...]
    shortcuts: Shortcuts | None  # None where they were not asked for

    def count(self, severity: Severity) -> int:
        """Return the number of findings of one severity."""
        return sum(each.severity == severity for each in self.findings)

    def write(self, path: Path) -> None:
        """Write JSON that `read_audit` reads back."""
        write_json(path, self.model_dump(mode="json"))


def read_audit(path: Path) -> Audit:
    """Read an audit that `Audit.write` wrote.

    Raises:
        DataError: The file is missing, damaged or of another schema version.
    """
    try:
        return Audit.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must be an audit of schema version {SCHEMA_VERSION}, but: {error}. "
            "Run `consilia data audit` again."
        ) from error
