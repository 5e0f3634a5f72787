"""What a bundle holds of its gate: of which images, and nothing that does not fit."""

import dataclasses
import json

import numpy as np
import pytest

from consilia.bundle.array_files import write_ood
from consilia.bundle.reading import read_bundle
from consilia.bundle.writing import record_evaluation
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.config.records import DROPPED, LOCKED
from consilia.decision.ood.picture import describe
from consilia.decision.ood.verdict import OodReport, describe_ood
from consilia.ensemble.evaluate import evaluate
from consilia.ensemble.ood import fit_ood
from consilia.ensemble.ood_reference import fit_pictures
from consilia.errors import BundleError
from consilia.files import sha256_of_json
from consilia.predict.loading import load_predictor

BEST = EnsembleRecipe(name="best", selection=BestSingle())


def with_noise(study, rows):
    """The study, with other pixels and file sizes in these rows."""
    pixels = np.array(study.store.pixels)
    pixels[rows] = np.random.default_rng(5).integers(0, 256, pixels[rows].shape, dtype=np.uint8)
    index = study.store.index.copy()
    index.loc[rows, "width"] *= 3
    return dataclasses.replace(study, store=dataclasses.replace(study.store, pixels=pixels, index=index))


def sign(bundle, change):
    """Change the document, then sign it again, as someone would who knows the format."""
    path = bundle / "ensemble.json"
    content = json.loads(path.read_text())
    change(content)
    content.pop("digest")
    path.write_text(json.dumps({**content, "digest": sha256_of_json(content)}))


def test_neither_test_images_nor_those_that_were_left_out_have_a_part_in_it(study, tmp_path):
    fold = study.folds.fold.copy()
    fold[study.folds.pool[:4]] = DROPPED
    assert LOCKED in fold
    study = dataclasses.replace(study, folds=dataclasses.replace(study.folds, fold=fold))

    def written(changed):
        gate, _ = fit_ood(changed.store, changed.folds, seed=0)
        write_ood(tmp_path / "unusual.npz", gate.reference)
        return gate.report, (tmp_path / "unusual.npz").read_bytes()

    report, expected = written(study)
    assert report.compared_with == len(study.folds.pool)
    assert written(with_noise(study, np.flatnonzero(fold < 0)))[1] == expected
    for row in (study.folds.training(0)[0], study.folds.validation(0)[0]):
        assert written(with_noise(study, [row]))[1] != expected


def test_the_same_study_gives_the_same_file(study):
    first, second = ((study.build(BEST) / "unusual.npz").read_bytes() for _ in range(2))
    assert first == second


def test_an_image_is_compared_with_those_of_other_groups(study):
    rows, group = study.folds.pool, np.arange(len(study.folds.group)) % 4
    found, _ = fit_ood(study.store, dataclasses.replace(study.folds, group=group), seed=0)
    features = describe(study.store.pixels[rows])
    np.testing.assert_array_equal(found.reference.pictures.distances, fit_pictures(features, group[rows]).distances)
    assert (found.reference.pictures.distances > fit_pictures(features, np.arange(len(rows))).distances).any()


def test_a_bundle_holds_what_is_fitted_to_the_images_of_its_study(study, tmp_path):
    gate, warnings = fit_ood(study.store, study.folds, seed=0)
    write_ood(tmp_path / "unusual.npz", gate.reference)
    bundle = study.build(BEST)
    assert (bundle / "unusual.npz").read_bytes() == (tmp_path / "unusual.npz").read_bytes()
    assert (read_bundle(bundle).gate, warnings) == (gate.report, ())


def test_images_that_do_not_differ_are_no_reference_and_the_bundle_says_so(study):
    store = dataclasses.replace(study.store, pixels=np.zeros_like(study.store.pixels))
    bundle = dataclasses.replace(study, store=store).build(BEST)
    predictor = load_predictor(bundle, device="cpu")
    (warning,) = predictor.document.warnings
    assert warning.startswith("Images that are unlike those of the training are not told from others: ")
    assert not (bundle / "unusual.npz").exists()
    assert "any image gets an answer" in (bundle / "card.md").read_text()
    assert predictor.predict(np.zeros((32, 32), np.uint8))[0].unusual is None
    assert "images must differ from each other" in warning


@pytest.mark.parametrize(
    ("n", "flags", "rejects", "said"),
    [
        (99, False, False, "too few for an image to be unusual by its distance, which takes 100"),
        (100, True, False, "Rejecting takes 1,000 images"),
        (1000, True, True, "p < 0.001: rejected"),
    ],
)
def test_the_report_says_what_so_many_images_can_tell(n, flags, rejects, said):
    report = OodReport(compared_with=n)
    assert (report.can_flag, report.can_reject) == (flags, rejects)
    text = " ".join(describe_ood(report))
    assert said in text
    assert f"compared with {n:,} images of the training" in text


def test_the_card_says_what_the_gate_compares_with(built_bundle):
    card = (built_bundle / "card.md").read_text()
    for sentence in describe_ood(read_bundle(built_bundle).gate):
        assert sentence in card


def test_a_gate_whose_file_is_not_listed_is_refused(bundle):
    sign(bundle, lambda content: content["files"].pop("unusual.npz"))
    with pytest.raises(BundleError, match=r"files must list unusual\.npz"):
        load_predictor(bundle, device="cpu")


def test_a_changed_file_is_refused(bundle):
    path = bundle / "unusual.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"unusual\.npz has been changed"):
        load_predictor(bundle, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compared_with": 1000}, r"unusual\.npz must hold the distances of 1,000 images, but holds 60"),
        ({"compared_with": 1}, r"gate\.compared_with"),
        ({"more": 1}, r"gate\.more"),
    ],
)
def test_a_report_that_does_not_fit_the_file_is_refused(bundle, change, message):
    sign(bundle, lambda content: content["gate"].update(change))
    with pytest.raises(BundleError, match=message):
        load_predictor(bundle, device="cpu")


def test_an_evaluation_that_is_recorded_leaves_the_gate_as_it_is(bundle, finished_study):
    before = (bundle / "unusual.npz").read_bytes()
    predictor = load_predictor(bundle, device="cpu")
    record_evaluation(bundle, evaluate(predictor, finished_study.store, finished_study.folds.test))
    assert (bundle / "unusual.npz").read_bytes() == before
    assert load_predictor(bundle, device="cpu").document.gate == predictor.document.gate
