"""What a study did with images that leak into its test split stands in the bundle, and its own test still runs."""

import dataclasses

import numpy as np
import pytest

from consilia.bundle.reading import read_bundle
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.config.records import DROPPED
from consilia.ensemble.evaluate import evaluate
from consilia.errors import DataError
from consilia.predict.loading import load_predictor

BEST = EnsembleRecipe(name="best", selection=BestSingle())


@pytest.fixture
def kept(study):
    """A study in which the first test image is a copy of the first of the pool, kept by its card."""
    one, copy = study.folds.pool[0], study.folds.test[0]
    index = study.store.index.copy()
    index.loc[copy, "pixel_digest"] = index.loc[one, "pixel_digest"]
    group = np.where(study.folds.group == study.folds.group[copy], study.folds.group[one], study.folds.group)
    folds = dataclasses.replace(study.folds, on_leak="keep", group=group)
    return dataclasses.replace(study, store=dataclasses.replace(study.store, index=index), folds=folds)


def test_a_study_without_leaks_says_nothing(study):
    assert read_bundle(study.build(BEST)).warnings == ()


def test_images_that_were_left_out_are_counted(study):
    fold = study.folds.fold.copy()
    fold[study.folds.test[:3]] = DROPPED
    dropped = dataclasses.replace(study, folds=dataclasses.replace(study.folds, fold=fold, on_leak="drop_train"))
    (warning,) = read_bundle(dropped.build(BEST)).warnings
    assert warning.startswith("3 training images were left out because they share a patient or a picture with test")


def test_images_that_were_kept_are_counted_in_document_and_card(kept):
    bundle = kept.build(BEST)
    (warning,) = read_bundle(bundle).warnings
    n_kept, n_bound, n_test = (len(rows) for rows in (kept.folds.kept, kept.folds.bound, kept.folds.test))
    assert warning.startswith(f"{n_kept} training images share a patient or a picture with {n_bound} of the {n_test}")
    assert "test numbers may flatter" in " ".join((bundle / "card.md").read_text().split())


def test_the_study_s_own_test_runs_and_says_what_flatters_it(kept):
    predictor = load_predictor(kept.build(BEST), device="cpu")
    evaluation = evaluate(predictor, kept.store, kept.folds.test, bound=kept.folds.bound)
    assert evaluation.images == len(kept.folds.test)
    (note,) = (note for note in evaluation.notes if "on_leak: keep" in note)
    assert note.startswith(f"{len(kept.folds.bound)} of these {len(kept.folds.test)} images")


def test_anyone_else_is_still_refused(kept):
    predictor = load_predictor(kept.build(BEST), device="cpu")
    with pytest.raises(DataError, match=f"1 of these {len(kept.folds.test)} images were in the training"):
        evaluate(predictor, kept.store, kept.folds.test)


def test_keep_excuses_no_other_image(kept):
    predictor = load_predictor(kept.build(BEST), device="cpu")
    rows = np.append(kept.folds.test, kept.folds.pool[3])
    with pytest.raises(DataError, match="1 of these"):
        evaluate(predictor, kept.store, rows, bound=kept.folds.bound)
