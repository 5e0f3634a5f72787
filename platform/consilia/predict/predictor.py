"""The ensemble as people use it: images in, calibrated predictions out. Neither Ray nor Optuna is needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from consilia.bundle.array_files import Fingerprints
from consilia.bundle.document import BundleDocument
from consilia.bundle.golden import golden_images
from consilia.bundle.store_check import check_store
from consilia.bundle.text import describe_members
from consilia.config.records import Prediction, Probabilities, Rows
from consilia.data.store.image_store import ImageStore
from consilia.decision.calibrators import calibrate, pool_folds
from consilia.decision.disagreement import measure_disagreement
from consilia.decision.prior import correct_prior, read_prevalence
from consilia.decision.review import WITHOUT_SET, Judgements, Reviewer, join, review_part
from consilia.decision.sets import CalibrationScores
from consilia.errors import DataError, ReaderError, UserError
from consilia.metrics.scores import softmax
from consilia.predict.cut import cut_document, is_cut
from consilia.predict.display import show_facts
from consilia.predict.images import Images, InputBatch, InputImage, OnUnknownKind, stack
from consilia.predict.networks import FoldEnsembles, Precision
from consilia.predict.ood import OodDetector
from consilia.predict.precision import AskedPrecision, run_in_precision
from consilia.predict.predictions import Predictions, combine_patients
from consilia.predict.prefetch import read_ahead, spare_processes, spare_threads

BATCH_SIZE = 64

Progress = Callable[[int, int], None]  # images done, of how many


def unseen(done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EnsemblePredictor:
    """A loaded ensemble; `predict.loading` makes one.

    Images are paths, arrays or PIL images, one or many; `predict.images.single_images` says how an array's
    shape is read. An iterable is read batch by batch, files one batch ahead (`read`), so memory does not grow with the
    number of images.
    """

    document: BundleDocument
    networks: FoldEnsembles
    seen: Fingerprints  # of the images that the networks were trained on
    sets: CalibrationScores | None = None  # of the prediction sets; None: there are none
    ood: OodDetector | None = None  # tells unusual images; None: the bundle holds nothing to compare with
    deployed: npt.NDArray[np.float64] | None = None  # prevalence to correct for, (n_classes,); None: as in training
    cut_from: int | None = None  # members of the ensemble that this is a part of; None: it has all its members
    asked: AskedPrecision = "float32"  # precision; `precision` is what came of it

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what the ensemble knows, how it was measured, and what to beware of."""
        document = self.document
        found = {each.split: each.metrics.get("macro_auc") for each in document.evaluations}
        measured = {
            f"macro AUC, {split}": f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})"
            for split, auc in found.items()
            if auc is not None
        }
        facts = {
            "study": document.provenance.study,
            "classes": ", ".join(self.classes),
            "images": f"{document.modality}, stored at {document.reading.size} x {document.reading.size} pixels",
            "members": describe_members(document),
            **measured,
            "device": f"{self.networks.device}, {self.precision}",
            "prevalence": "" if self.deployed is None else "other than in training",
            "beware": "; ".join(document.warnings),
        }
        return show_facts(f"Ensemble {document.name}", facts)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of `predict_proba`'s columns."""
        return self.document.classes

    @property
    def precision(self) -> Precision:
        """What the networks compute the next batch in; one that was chosen may still give way at the first batch."""
        return self.networks.precision

    @property
    def without_sets(self) -> str:
        """Why the ensemble gives no prediction sets; "" where it gives them."""
        return WITHOUT_SET[self.document.build]

    def predict(
        self,
        images: Images,
        *,
        batch_size: int = BATCH_SIZE,
        on_unknown_kind: OnUnknownKind = "refuse",
        max_members: int | None = None,
    ) -> Predictions:
        """Return a prediction for each image; for each frame of a file where training took each.

        Args:
            images: One image or many.
            batch_size: Images in memory at once.
            max_members: Ask only this many members, as of `with_members`, which is faster for many calls.
            on_unknown_kind: An ensemble trained on DICOM refuses other images, and the other way round, since it knows
                no window for them; "as_displayed" takes them as a viewer shows them.

        Raises:
            ReaderError: An image cannot be read; names it. `iterate` goes on past such an image.
        """
        if max_members is not None:
            return self.with_members(max_members).predict(
                images, batch_size=batch_size, on_unknown_kind=on_unknown_kind
            )
        names: list[str] = []
        parts: list[Judgements] = []
        for batch in self.read(images, batch_size=batch_size, on_unknown_kind=on_unknown_kind):
            parts.append(self._judge(stack(_readable(batch))))
            names += [name for name, _ in batch]
        if not parts:
            return Predictions((), ())
        found = Judgements(join([part.columns for part in parts]), parts[0].reviewer)
        return Predictions(names, found, precision=self.precision)

    def predict_proba(
        self, images: Images, *, batch_size: int = BATCH_SIZE, on_unknown_kind: OnUnknownKind = "refuse"
    ) -> Probabilities:
        """Return calibrated probabilities, (n_images, n_classes); rows sum to 1.

        Raises:
            ReaderError: An image cannot be read; names it.
        """
        parts = [np.empty((0, len(self.classes)))]
        for batch in self.read(images, batch_size=batch_size, on_unknown_kind=on_unknown_kind):
            parts.append(self._pool(self.networks.probabilities(stack(_readable(batch)).pixels)))
        return np.concatenate(parts)

    def iterate(
        self, images: Images, *, batch_size: int = BATCH_SIZE, on_unknown_kind: OnUnknownKind = "refuse"
    ) -> Iterator[Prediction | ReaderError]:
        """Yield, for each image in order, its prediction, or the error of an image that cannot be read.

        Raises:
            ReaderError: `images` itself is of no type or shape that images have.
        """
        yield from (
            result for _, result in self.iterate_named(images, batch_size=batch_size, on_unknown_kind=on_unknown_kind)
        )

    def iterate_named(
        self, images: Images, *, batch_size: int = BATCH_SIZE, on_unknown_kind: OnUnknownKind = "refuse"
    ) -> Iterator[tuple[str, Prediction | ReaderError]]:
        """Yield as `iterate`, each with its name: the image's path, `scan.dcm[3]` for a frame, or `image 0`."""
        for batch in self.read(images, batch_size=batch_size, on_unknown_kind=on_unknown_kind):
            readable = [image for _, image in batch if not isinstance(image, ReaderError)]
            found = iter(self.judge(readable))
            for name, image in batch:
                yield name, image if isinstance(image, ReaderError) else next(found)

    def judge(self, images: Sequence[InputImage]) -> Sequence[Prediction]:
        """Return a prediction for each image that `read` has yielded; they go through the networks together."""
        return self._judge(stack(images)) if images else ()

    def predict_patients(
        self,
        images: Images,
        patients: Sequence[str],
        *,
        batch_size: int = BATCH_SIZE,
        on_unknown_kind: OnUnknownKind = "refuse",
    ) -> Predictions:
        """Return one prediction a patient, in the order of their first images, named by the patient.

        Images of a patient are combined by their mean log probability. A patient has no prediction set, since sets are
        calibrated for images; whatever asks for a look at one of its images asks for a look at the patient, whose
        `unusual` is that of the most unusual image: its probabilities count among the patient's.

        Args:
            images: One image or many; as of `predict`.
            patients: Of each image; or whatever else is to be judged as one, such as the study.
            batch_size: Images in memory at once.
            on_unknown_kind: As of `predict`.

        Raises:
            ReaderError: An image cannot be read; names it.
            UserError: There are not as many patients as images.
        """
        return combine_patients(self.predict(images, batch_size=batch_size, on_unknown_kind=on_unknown_kind), patients)

    def for_prevalence(self, prevalence: Mapping[str, float]) -> "EnsemblePredictor":
        """Return this predictor for a population in which classes are more or less common than in training.

        Prediction sets stay as they are: what they promise of each class holds in any mixture of the classes, what they
        promise over all images does not. The confidence below which a person is asked was chosen in the training
        population, so it is not used here.

        Args:
            prevalence: Share of each class by name; one may be left out and has the rest.

        Raises:
            UserError: A class or a share cannot be, or the ensemble has seen no image of one of its classes.
        """
        if 0.0 in self.document.prevalence:
            never = self.classes[self.document.prevalence.index(0.0)]
            raise UserError(f"Ensemble {self.document.name} has seen no image of {never}: no prevalence corrects that.")
        return replace(self, deployed=read_prevalence(prevalence, self.classes))

    def with_members(self, most: int) -> "EnsemblePredictor":
        """Return a predictor that asks only the members of the largest weights, which is faster and less accurate.

        `document.sizes` and the model card say how much less. Its probabilities are calibrated for its size. What else
        the ensemble promises holds for all members only: it gives no prediction sets, and asks for review of every
        image, saying why.

        Args:
            most: Members to ask, at least 1; with as many as there are, or more, it is this predictor itself.

        Raises:
            UserError: `most` is below 1, or the bundle does not know how to calibrate fewer members.
        """
        if not is_cut(self.document, most):
            return self
        document, kept = cut_document(self.document, most)
        fewer = self.networks.of_members(kept, document.combination)
        networks = run_in_precision(fewer, document.calibrator, golden_images(document.reading), self.asked)
        cut_from = self.cut_from or len(self.document.members)
        return replace(self, document=document, networks=networks, cut_from=cut_from)

    def read(
        self, images: Images, *, batch_size: int = BATCH_SIZE, on_unknown_kind: OnUnknownKind = "refuse"
    ) -> Iterator[list[tuple[str, InputImage | ReaderError]]]:
        """Yield batches of what the networks get: each image's name, and the image or its error.

        Files of the next batch are decoded meanwhile; see `predict.prefetch.read_ahead`, also for what is raised.
        """
        return read_ahead(
            images,
            self.document,
            batch_size=batch_size,
            on_unknown_kind=on_unknown_kind,
            with_colour=self.ood is not None and self.ood.asks_for_colour,
            n_threads=spare_threads(self.networks.device),
            n_processes=spare_processes(self.networks.device),
        )

    def predict_store(
        self, store: ImageStore, rows: Rows, *, batch_size: int = BATCH_SIZE, progress: Progress = unseen
    ) -> Probabilities:
        """Return calibrated probabilities of rows of a prepared data set, (n_rows, n_classes); judge no image.

        Args:
            store: The data set.
            rows: Of its images.
            batch_size: Images in memory at once.
            progress: Told before each batch, and at the end, how many rows are predicted, of how many.

        Raises:
            DataError: The store has other classes, another size or other channels than the ensemble.
        """
        return self._pool(self.fold_probabilities(store, rows, batch_size=batch_size, progress=progress))

    def fold_probabilities(
        self, store: ImageStore, rows: Rows, *, batch_size: int = BATCH_SIZE, progress: Progress = unseen
    ) -> npt.NDArray[np.float64]:
        """Return what each fold ensemble says before calibration, (n_folds, n_rows, n_classes).

        Args are those of `predict_store`.

        Raises:
            DataError: As of `predict_store`, or there are no rows.
        """
        check_store(store, self.document)
        if len(rows) == 0:
            raise DataError(f"{store.folder}: at least one image must be chosen to be predicted, but got none.")
        parts = []
        for start in range(0, len(rows), batch_size):
            progress(start, len(rows))
            parts.append(self.networks.probabilities(store.pixels[rows[start : start + batch_size]]))
        progress(len(rows), len(rows))
        return np.concatenate(parts, axis=1)

    def _pool(self, fold_probabilities: npt.NDArray[np.float64]) -> Probabilities:
        pooled = pool_folds(self.document.calibrator, fold_probabilities)
        if self.deployed is None:
            return pooled
        return correct_prior(pooled, trained=np.array(self.document.prevalence), deployed=self.deployed)

    def _judge(self, images: InputBatch) -> Judgements:
        unusual = None if self.ood is None else self.ood.measure(images)
        members = softmax(self.networks.logits(images.pixels))
        folds = self.networks.pool(members)
        calibrated = calibrate(self.document.calibrator, folds)
        disagreement = measure_disagreement(members, self.networks.combination.shares)
        return self._reviewer.judge(self._pool(folds), calibrated, disagreement, unusual)

    @property
    def _reviewer(self) -> Reviewer:
        report, usual = self.document.safety, None if self.ood is None else self.ood.usual
        if self.cut_from is not None:
            part = review_part(report, self.classes, n_members=len(self.document.members), n_all=self.cut_from)
            return replace(part, usual=usual)
        if self.deployed is not None:
            report = report.model_copy(update={"abstention": None})  # that point was chosen in the other population
        return Reviewer(
            report=report, sets=self.sets, without_sets=self.without_sets, classes=self.classes, usual=usual
        )


def _readable(batch: Sequence[tuple[str, InputImage | ReaderError]]) -> list[InputImage]:
    """Return the images of a batch.

    Raises:
        ReaderError: Of the first that cannot be read.
    """
    images = []
    for _, image in batch:
        if isinstance(image, ReaderError):
            raise image
        images.append(image)
    return images
