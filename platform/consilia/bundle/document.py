"""The schema of `ensemble.json`: everything that a bundle says of itself."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consilia.bundle.evaluation import EnsembleSize, Evaluation
from consilia.config.frozen import Frozen
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.reading import ImageKind, Reading
from consilia.config.recipe import Build, EnsembleRecipe
from consilia.decision.calibrators import AnyCalibrator, Calibrator, Isotonic, TemperatureBias
from consilia.decision.combination import LinearPool
from consilia.decision.ood.verdict import OodReport
from consilia.decision.review import SafetyReport
from consilia.files import sha256_of_json
from consilia.metrics.estimates import HonestReport

SCHEMA_VERSION = 7

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(Frozen):
    """What a file of the bundle must be."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class Network(Frozen):
    """One trained network: a member's weights from one fold, or from all."""

    file: str  # relative to the bundle
    fold: Annotated[int, Field(ge=0)] | None  # that it was not trained on; None: a refit, trained on the images of all
    preprocessing: Preprocessing  # mean and standard deviation are those of its training images


class Member(Frozen):
    """One trial of the ensemble, with one network a fold, or one of all folds."""

    trial: int = Field(ge=0)
    weight: float = Field(gt=0, le=1)  # in the linear pool
    architecture: str = Field(min_length=1)  # as the study's search space calls it
    model: ModelSpec
    networks: tuple[Network, ...] = Field(min_length=1)


class SelectionReport(Frozen):
    """Why these members. Losses are patient-weighted out-of-fold log losses; lower is better."""

    reason: str
    candidates: int  # fully evaluated trials that could be chosen
    best_single_loss: float  # in-sample: it was chosen for this number
    in_sample_loss: float  # of the shipped members, before calibration
    gain: float | None  # cross-fitted, over the best single trial; None where nothing was compared
    standard_error: float | None  # of the gain, over patients


class CalibrationReport(Frozen):
    """Why this calibrator. Losses as of the selection."""

    reason: str
    loss_before: float
    loss_after: float | None  # cross-fitted; None where nothing was fitted


class Provenance(Frozen):
    """Where the ensemble comes from."""

    study: str
    study_digest: str
    data: str  # name of the card
    data_digest: str
    folds_digest: str
    recipe: EnsembleRecipe
    packages: dict[str, str]  # versions by name
    weights: dict[str, str] = Field(default_factory=dict)  # timm model to the origin of its pretrained weights
    created: str  # UTC, ISO 8601


class BundleDocument(Frozen):
    """`ensemble.json`."""

    schema_version: Literal[7] = 7
    consilia: str  # the version that wrote it
    name: str
    classes: tuple[str, ...] = Field(min_length=2)
    reading: Reading  # how files became stored pixels in training, and become them at prediction
    kinds: tuple[ImageKind, ...] = Field(min_length=1)  # of the files it was trained on; others are refused
    modality: str
    build: Build  # fast: the members are refits
    members: tuple[Member, ...] = Field(min_length=1)
    calibrator: Calibrator
    sizes: tuple[EnsembleSize, ...]  # with 1, 2, ... and all members; empty: not measured
    prevalence: tuple[float, ...]  # of each class in training, every patient weighing 1
    safety: SafetyReport
    honesty: HonestReport
    gate: OodReport | None  # by what unusual images are told; None: a warning says why they are not
    selection: SelectionReport
    calibration: CalibrationReport
    evaluations: tuple[Evaluation, ...]
    warnings: tuple[str, ...]
    provenance: Provenance
    environment: dict[str, str]  # that computed the golden outputs
    files: dict[str, FileRecord]  # every other file of the bundle

    @property
    def digest(self) -> str:
        """SHA-256 of all of this; `ensemble.json` has it too, and since it lists every file, it names the bundle."""
        return sha256_of_json(self.model_dump(mode="json"))

    @property
    def n_folds(self) -> int:
        """Number of networks that each member has, and so of fold ensembles; 1 in a fast build."""
        return len(self.members[0].networks)

    @property
    def combination(self) -> LinearPool:
        """How the members become one probability."""
        return LinearPool(weights=tuple(member.weight for member in self.members))

    @property
    def has_sets(self) -> bool:
        """Say whether it gives prediction sets, which refits cannot."""
        return self.build == "max"

    @model_validator(mode="after")
    def _must_be_consistent(self) -> "BundleDocument":
        weights = [member.weight for member in self.members]
        if abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"the members' weights must sum to 1, but are {weights}")
        _check_prevalence(self.prevalence, self.classes)
        if (n_classes := _n_classes(self.calibrator)) not in (None, len(self.classes)):
            raise ValueError(f"the calibrator must be one of {len(self.classes)} classes, but is one of {n_classes}")
        _check_sizes(self)
        folds = [network.fold for network in self.members[0].networks]
        if (self.build == "fast") != (folds == [None]) or (None in folds and len(folds) > 1):
            raise ValueError(f"a {self.build} build cannot have members of networks of the folds {folds}")
        for member in self.members:
            _check_member(member, folds, self)
        return self


def _check_prevalence(prevalence: tuple[float, ...], classes: tuple[str, ...]) -> None:
    if len(prevalence) != len(classes) or min(prevalence) < 0 or abs(sum(prevalence) - 1) > 1e-6:
        raise ValueError(f"prevalence must be a share of each of {len(classes)} classes, but is {prevalence}")


def _check_sizes(document: "BundleDocument") -> None:
    found, expected = [size.members for size in document.sizes], list(range(1, len(document.members) + 1))
    if found not in ([], expected):
        raise ValueError(f"sizes must be those from one member to all {len(expected)}, but are {found}")
    for size in document.sizes:
        if _n_classes(size.calibrator) not in (None, len(document.classes)):
            raise ValueError(f"the calibrator of {size.members} members must be of {len(document.classes)} classes")


def _n_classes(calibrator: AnyCalibrator) -> int | None:
    """Return how many classes a calibrator is made for; None: any number."""
    if isinstance(calibrator, TemperatureBias):
        return len(calibrator.biases)
    return 2 if isinstance(calibrator, Isotonic) else None


def _check_member(member: Member, folds: list[int | None], document: BundleDocument) -> None:
    name = f"trial {member.trial}"
    if [network.fold for network in member.networks] != folds or len(set(folds)) != len(folds):
        raise ValueError(f"every member must have one network for each of the folds {folds}, but {name} does not")
    if member.model.n_classes != len(document.classes):
        raise ValueError(f"{name} must have {len(document.classes)} outputs, but has {member.model.n_classes}")
    if member.model.channels != document.reading.channels:
        raise ValueError(f"{name} must take {document.reading.channels} channels, as images are read with")
    for network in member.networks:
        settings, reading = network.preprocessing, document.reading
        if (settings.size, settings.channels) != (reading.size, reading.channels):
            raise ValueError(f"{network.file} must start from images as `reading` describes them")
        if network.file not in document.files:
            raise ValueError(f"files must list every network, but lacks {network.file}")
