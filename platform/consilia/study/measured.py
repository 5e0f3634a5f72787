"""Which images finished ensembles are measured on, and how opening them is written down."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Literal

import numpy as np

from consilia.bundle.store_check import check_store, fingerprints, refuse_seen
from consilia.config.card import DataCard
from consilia.config.records import Rows
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import load_folds
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError
from consilia.predict.predictor import EnsemblePredictor
from consilia.study.opened import OpenStudy
from consilia.study.shared_stores import prepare_at
from consilia.study.test_access import log_opening
from consilia.study.view import SILENT, StudyView

Ensembles = Sequence[tuple[Path, EnsemblePredictor]]
"""Loaded ensembles, each with the folder of its bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredImages:
    """Images to measure ensembles on, none of which they were trained on."""

    store: ImageStore
    rows: Rows
    bound: Rows  # those of `rows` that share a patient or a picture with the training, by on_leak: keep
    splits: tuple[Literal["test", "external"], ...]  # what they are to each ensemble
    ensembles: Ensembles
    study: OpenStudy | None = None  # whose locked test they are, where it was asked for
    note: str = ""  # which images they are, where the card alone does not say it

    def open(self) -> tuple[str, ...]:
        """Write down, in every study whose locked test they are, for which ensembles it is opened.

        Returns:
            Which images they are, and what a reader must know of earlier openings, each once.

        Raises:
            StudyError: A list of openings is damaged, or another process works in the study that was asked for.
        """
        notes = [self.note]
        for split, (bundle, predictor) in zip(self.splits, self.ensembles, strict=True):
            own = study_of(bundle) if split == "test" else None
            asked = None if self.study is None else self.study.folder.root.resolve()
            if own is not None and own.root.resolve() != asked:
                notes.append(log_opening(own, predictor.document))
            if self.study is not None:
                with self.study.writing():
                    notes.append(log_opening(self.study.folder, predictor.document))
        return tuple(dict.fromkeys(filter(None, notes)))


def choose_images(
    source: DataCard | OpenStudy, ensembles: Ensembles, *, stores: str | Path, view: StudyView = SILENT
) -> MeasuredImages:
    """Choose the images to measure ensembles on.

    Of a study, they are its locked test. Of a card, they are its test split; where it has none, the locked test of the
    ensemble's own study, if these are that study's images (of several ensembles, what their tests have in common); else
    all images. `view` is told how many images of a card are decoded.

    Raises:
        DataError: The classes differ, images are read otherwise, some were trained on, or there is no test split.
    """
    if isinstance(source, OpenStudy):
        images = _of_study(source, ensembles)
    else:
        images = _of_card(prepare_at(source, stores, progress=view.preparing), ensembles)
    for bundle, predictor in ensembles:
        check_store(images.store, predictor.document)
        try:
            refuse_seen(predictor.seen, images.store, np.setdiff1d(images.rows, images.bound))
        except DataError as error:
            raise DataError(f"{bundle}: {error}") from error
    return images


def locked_test(study: OpenStudy) -> Rows:
    """Return the rows of a study's locked test.

    Raises:
        DataError: It has none.
    """
    if len(study.folds.test) == 0:
        raise DataError(
            f"Study {study.plan.name} has no test split: its trials have seen all images. Measure its ensembles on "
            "another card."
        )
    return study.folds.test


def study_of(bundle: Path) -> StudyFolder | None:
    """Return the study that a bundle lies in; None where it lies alone."""
    folder = StudyFolder(bundle.absolute().parent.parent)
    return folder if folder.plan.is_file() else None


def _of_study(study: OpenStudy, ensembles: Ensembles) -> MeasuredImages:
    study.refresh()
    rows = locked_test(study)
    return MeasuredImages(
        store=study.store,
        rows=rows,
        bound=study.folds.bound,
        splits=_splits(study.store, ensembles),
        ensembles=ensembles,
        study=study,
        note=f"These are the {len(rows)} images of the locked test of study {study.plan.name}.",
    )


def _of_card(store: ImageStore, ensembles: Ensembles) -> MeasuredImages:
    locked = np.flatnonzero((store.index["split"] == "test").to_numpy())
    tests = [] if len(locked) else [_own_test(store, *each) for each in ensembles]
    found = [test for test in tests if test is not None]
    if not found:
        rows = locked if len(locked) else np.arange(len(store))
        splits, note = _splits(store, ensembles), ""
    else:
        rows = reduce(np.intersect1d, found)
        splits = tuple("external" if test is None else "test" for test in tests)
        names = dict.fromkeys(
            predictor.document.provenance.study
            for test, (_, predictor) in zip(tests, ensembles, strict=True)
            if test is not None
        )
        note = (
            f"{len(rows)} of these {len(store)} images are measured: the locked test of study {' and '.join(names)}, "
            "which no network of it has seen in training or folds."
        )
    if len(rows) == 0:
        raise DataError(
            f"{store.folder}: the locked tests of both studies have no image in common. Compare the ensembles on "
            "images that neither has seen."
        )
    return MeasuredImages(
        store=store, rows=rows, bound=np.array([], dtype=np.int64), splits=splits, ensembles=ensembles, note=note
    )


def _own_test(store: ImageStore, bundle: Path, predictor: EnsemblePredictor) -> Rows | None:
    """Return the locked test of the ensemble's own study in a store without splits; None where it is not of the study.

    A store of the study's images holds all that were trained on, and besides them as many as the test has.
    """
    prints = fingerprints(store, np.arange(len(store)))
    if not np.isin(predictor.seen, prints).all():
        return None
    unseen: Rows = np.flatnonzero(~np.isin(prints, predictor.seen))
    study = study_of(bundle)
    is_own = store.digest == predictor.document.provenance.data_digest or (
        study is not None and len(unseen) == len(load_folds(study.folds).test)
    )
    return unseen if is_own and len(unseen) else None


def _splits(store: ImageStore, ensembles: Ensembles) -> tuple[Literal["test", "external"], ...]:
    """Say of which ensembles these are the own data."""
    return tuple(
        "test" if store.digest == predictor.document.provenance.data_digest else "external"
        for _, predictor in ensembles
    )
