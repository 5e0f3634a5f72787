"""What happened: the frozen records that steps hand to each other and to disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from consilia.config.space import Hyperparameters

Logits = npt.NDArray[np.float32]  # (n_images, n_classes), before any softmax
Probabilities = npt.NDArray[np.float64]  # (n_images, n_classes), rows sum to 1
Labels = npt.NDArray[np.int64]  # (n_images,), class numbers
Rows = npt.NDArray[np.int64]  # (n,), row numbers of the image store

# What stands in place of a fold's number, 0 ... k-1: LOCKED and DROPPED of an image, ALL_FOLDS of a network. No column
# holds both kinds.
LOCKED = -1
"""Of an image of the test split."""
DROPPED = -2
"""Of an image that is left out, because it is bound to a test image."""
ALL_FOLDS = -1
"""Of a refit, which trains on the images of all folds and holds none out."""

TrialState = Literal["running", "paused", "finished", "stopped", "failed"]
"""paused: left at its checkpoint, since the search ended before it did; the next run of the study continues it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTask:
    """One trial to run: a number and a configuration."""

    number: int
    hyperparameters: Hyperparameters
    exclusive: bool = False  # it ran out of memory in a slot that shares its device, and gets one to itself


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTaken:
    """A worker process has taken a trial up."""

    number: int  # of the trial
    attempt: int  # 1, 2, ...; above 1 the process before it was lost
    reason: str = ""  # why it was lost, where that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """What a worker says after each epoch."""

    number: int  # of the trial
    fold: int  # 0 ... k-1, or ALL_FOLDS
    epoch: int  # 1 ... epochs
    score: float  # the study's metric on the validation fold, with EMA weights; NaN: not scored, as a refit never is
    train_loss: float
    seconds: float
    images: int  # seen in training
    fold_result: "FoldResult | None" = None  # with the last epoch of a fold
    is_repeat: bool = False  # read from the fold's files: it was computed by an earlier process
    note: str = ""  # what people should know of it, such as a damaged checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """A finished fold; its weights, OOF logits and history lie in the fold's folder."""

    fold: int
    epochs: int
    metrics: Mapping[str, float]  # every metric of `metrics.scores`, on the validation fold
    n_images: int  # validated
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitResult:
    """A finished refit: a trial's configuration, trained on every image outside the test split."""

    number: int  # of the trial
    epochs: int
    n_images: int  # trained on
    folds_digest: str  # of the FoldPlan whose pool these images are
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a trial scored in the search, and what it scored with other folds and seeds."""

    number: int  # of the trial
    searched: float  # its objective, by which it was among the best
    folds: tuple[float, ...]  # score of each of the other folds

    @property
    def confirmed(self) -> float:
        """Mean of the other folds."""
        return float(np.mean(self.folds))

    @property
    def difference(self) -> float:
        """By how much the score has grown; whether that is worse depends on the metric."""
        return self.confirmed - self.searched


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitProgress:
    """How far the refits of a study are, or its confirmations."""

    noun: str = "refit"  # what each is called
    n_finished: int
    n_all: int  # that are to be trained now
    n_slots: int
    running: tuple[tuple[TrialTask, EpochReport | None], ...]  # each with its last epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """How a trial, or its refit, ended on its worker."""

    number: int
    state: TrialState
    reason: str = ""  # of a pause, a stop or a failure
    folds: tuple[FoldResult, ...] = ()
    seconds: float = 0.0
    fault: Literal["", "memory", "disk"] = ""  # memory: an exclusive slot may help; disk: no trial can go on
    traceback: str = ""  # of an error that nobody had foreseen


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial as `trial.json` keeps it."""

    number: int
    state: TrialState
    hyperparameters: Hyperparameters
    folds: tuple[FoldResult, ...] = ()
    objective: float | None = None  # mean over folds of a finished trial; the fold-adjusted mean of a stopped one
    reason: str = ""
    seconds: float = 0.0

    @property
    def n_folds(self) -> int:
        """Number of finished folds."""
        return len(self.folds)

    @property
    def has_ended(self) -> bool:
        """Say whether the trial is over for good."""
        return self.state not in ("running", "paused")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfFold:
    """A trial's predictions for every image of the cross-validation pool, each by the model that never saw it."""

    image_ids: Rows  # (n,) rows of the image store, unique, ascending
    logits: Logits  # (n, n_classes)
    labels: Labels  # (n,)
    patients: npt.NDArray[np.str_]  # (n,)
    folds: npt.NDArray[np.int64]  # (n,) the fold that was held out


Familiarity = Literal["usual", "unusual", "rejected"]
"""unusual: a person should look; rejected: so unlike the training images that the probabilities mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OodVerdict:
    """How an image compares with those of the training."""

    state: Familiarity
    p_value: float  # how often a usual image lies as far from the training images or farther
    part: str  # what of the image is unlike the nearest training image above all, usual or not
    broken_rules: tuple[str, ...] = ()  # a phrase for each; they make an image unusual, never rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the ensemble says of one image."""

    label: str
    confidence: float  # calibrated probability of `label`
    probabilities: Mapping[str, float]  # by class, calibrated, sums to 1
    prediction_set: tuple[str, ...] | None = None  # classes that the image may have; None: see `without_set`
    review: tuple[str, ...] = ()  # why a person should look at this one
    unusual: OodVerdict | None = None  # None: not checked, since the bundle holds nothing to compare with
    without_set: str = ""  # why there is no prediction set

    @property
    def needs_review(self) -> bool:
        """Say whether a person should look at this image."""
        return bool(self.review)
