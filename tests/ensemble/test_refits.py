"""A fast build: one network a member, no prediction sets, and everything that reads it."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from consilia.bundle.document import BundleDocument
from consilia.bundle.reading import read_bundle
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.recipe import EnsembleRecipe, Safety, SoftVote
from consilia.config.record_files import read_refit_result, write_refit_result
from consilia.config.records import RefitResult
from consilia.config.study_folder import StudyFolder
from consilia.decision.calibrators import Temperature, pool_folds
from consilia.decision.disagreement import mutual_information
from consilia.ensemble.evaluate import describe, evaluate
from consilia.ensemble.members import chosen_trials
from consilia.errors import RunError, StudyError
from consilia.files import sha256_of_json
from consilia.metrics.scores import softmax
from consilia.predict.explain import explain
from consilia.predict.loading import load_predictor
from consilia.train.network_files import write_weights
from consilia.train.networks.factory import build_model

FAST = EnsembleRecipe(name="quick", build="fast", selection=SoftVote(members=2))
SIZE = 32


def write_refit(study, number: int) -> None:
    """Write a refit of a trial whose network is random."""
    spec: ModelSpec = ModelSpec(
        architecture=study.plan.spaces[0].architectures["resnet" if number % 2 == 0 else "efficientnet"],
        n_classes=2,
        channels=1,
    )
    torch.manual_seed(1000 + number)
    model = build_model(spec)
    for parameter in model.get_classifier().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    preprocessing = Preprocessing(size=SIZE, channels=1, image_size=SIZE, mean=(0.4 + 0.01 * number,), std=(0.3,))
    files = study.folder.trial(number).refit
    write_weights(files.weights, model.state_dict(), model=spec, preprocessing=preprocessing)
    n_images = len(study.folds.pool)
    result = RefitResult(number=number, epochs=1, n_images=n_images, folds_digest=study.folds.digest, seconds=1.0)
    write_refit_result(files.result, result)


@pytest.fixture(scope="module")
def refitted(finished_study, tmp_path_factory):
    """The study with the refits of trials 0 and 1, and without any weights of their folds; not to be changed."""
    root = tmp_path_factory.mktemp("refitted") / "tiny"
    shutil.copytree(finished_study.folder.root, root)
    study = dataclasses.replace(finished_study, folder=StudyFolder(root))
    for number in (0, 1):
        write_refit(study, number)
        for fold in range(3):
            study.folder.trial(number).fold(fold).weights.unlink()
    return study


@pytest.fixture
def refitted_copy(refitted, tmp_path):
    """A copy of it that a test may change."""
    return dataclasses.replace(refitted, folder=StudyFolder(shutil.copytree(refitted.folder.root, tmp_path / "tiny")))


@pytest.fixture(scope="module")
def fast_bundle(refitted):
    return refitted.build(FAST)


@pytest.fixture(scope="module")
def fast(fast_bundle):
    return load_predictor(fast_bundle, device="cpu")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE), dtype=np.uint8)


def test_probabilities_are_the_calibrated_weighted_mean_of_the_members(fast_bundle, images):
    bundle = fast_bundle
    document = read_bundle(bundle)
    total = 0.0
    for member in document.members:
        (network,) = member.networks
        model = build_model(member.model).eval()
        model.load_state_dict(load_file(bundle / network.file))
        pixels = torch.from_numpy(images[:, None]).float() / 255
        inputs = (pixels - network.preprocessing.mean[0]) / network.preprocessing.std[0]
        with torch.inference_mode():
            total = total + member.weight * softmax(model(inputs).numpy().astype(np.float64))
    if isinstance(document.calibrator, Temperature):
        total = softmax(np.log(total) / document.calibrator.temperature)
    np.testing.assert_allclose(load_predictor(bundle, device="cpu").predict_proba(images), total, atol=1e-5)


def test_a_temperature_divides_the_logarithm_of_the_pooled_probabilities_of_the_only_fold():
    pooled = np.array([[[0.8, 0.15, 0.05], [0.2, 0.2, 0.6]]])
    found = pool_folds(Temperature(temperature=2.0), pooled)
    root = np.sqrt(pooled[0])
    np.testing.assert_allclose(found, root / root.sum(axis=1, keepdims=True))


def test_the_bundle_holds_one_network_a_member_of_all_folds_and_no_calibration_of_sets(refitted, fast_bundle):
    bundle = fast_bundle
    document = read_bundle(bundle)
    assert document.build == "fast"
    assert [(member.trial, member.weight) for member in document.members] == [(0, 0.5), (1, 0.5)]
    assert [[network.fold for network in member.networks] for member in document.members] == [[None], [None]]
    assert document.n_folds == 1
    assert set(document.files) == {
        "card.md",
        "golden.npz",
        "seen.npy",
        "unusual.npz",
        "members/trial-0-refit.safetensors",
        "members/trial-1-refit.safetensors",
    }
    stored = refitted.folder.trial(0).refit.weights.read_bytes()
    assert (bundle / "members" / "trial-0-refit.safetensors").read_bytes() == stored
    assert document.members[1].networks[0].preprocessing.mean == pytest.approx((0.41,))


def test_trials_without_the_weights_of_their_folds_can_be_chosen_and_nothing_warns(fast_bundle):
    assert not any("no longer on disk" in warning for warning in read_bundle(fast_bundle).warnings)


def test_refits_tell_unusual_images_as_the_networks_of_folds_do(fast_bundle, study):
    most = study.build(FAST.model_copy(update={"build": "max", "name": "most"}))
    fast, document = read_bundle(fast_bundle), read_bundle(most)
    assert (fast.gate, fast.warnings) == (document.gate, document.warnings)
    assert fast.gate is not None
    assert (fast_bundle / "unusual.npz").read_bytes() == (most / "unusual.npz").read_bytes()


def test_selection_calibrator_and_thresholds_are_those_of_the_max_build(fast_bundle, study):
    fast = read_bundle(fast_bundle)
    most = read_bundle(study.build(FAST.model_copy(update={"build": "max", "name": "most"})))
    assert [member.trial for member in fast.members] == [member.trial for member in most.members]
    assert (fast.calibrator, fast.selection.gain) == (most.calibrator, most.selection.gain)
    assert fast.safety.operating_points == most.safety.operating_points
    assert fast.safety.disagreement == most.safety.disagreement
    assert fast.evaluations[0].metrics == most.evaluations[0].metrics


def test_without_its_refit_a_trial_is_not_shipped_and_the_error_says_how_to_train_it(refitted_copy):
    refitted_copy.folder.trial(1).refit.result.unlink()
    with pytest.raises(RunError, match=r"network of trial 1 .* --refit"):
        refitted_copy.build(FAST)


def test_a_refit_of_other_folds_is_refused(refitted_copy):
    path = refitted_copy.folder.trial(1).refit.result
    write_refit_result(path, dataclasses.replace(read_refit_result(path), n_images=3))
    with pytest.raises(StudyError, match="trained on 3 images of other folds"):
        refitted_copy.build(FAST)


def test_the_trials_to_train_are_those_that_are_shipped(refitted):
    numbers = chosen_trials(
        refitted.trials, FAST, folder=refitted.folder, store=refitted.store, folds=refitted.folds, seed=0
    )
    assert numbers == (0, 1)


def test_a_prediction_has_no_set_says_why_and_is_not_sent_to_a_person_for_it(fast, images):
    predictions = fast.predict(images)
    assert all(each.prediction_set is None for each in predictions)
    assert {each.without_set for each in predictions} == {fast.without_sets}
    assert "trained on all images" in fast.without_sets
    asked = [each.needs_review for each in predictions]
    assert not all(asked)
    said = softmax(fast.networks.logits(images[..., None]))
    apart = mutual_information(said[:, 0], fast.networks.combination.shares)  # of two members, one network each
    assert asked == (apart > fast.document.safety.disagreement).tolist()
    assert not any("checked" in reason for each in predictions for reason in each.review)


def test_an_unsure_image_is_still_sent_to_a_person(fast, images):
    safety = fast.document.safety
    abstention = safety.abstention.model_copy(update={"threshold": 1.0})
    document = fast.document.model_copy(update={"safety": safety.model_copy(update={"abstention": abstention})})
    strict = dataclasses.replace(fast, document=document)
    assert all("is below 1.000" in each.review[0] for each in strict.predict(images))


def test_a_patient_says_why_there_is_no_set(fast, predictor, images):
    for each in (fast, predictor):
        (patient,) = each.predict_patients(images[:2], ["a", "a"])
        assert "not for patients" in patient.without_set
    assert predictor.without_sets == ""
    assert all(each.without_set == "" for each in predictor.predict(images[:3]))


def test_document_and_card_say_what_is_shipped_and_what_the_numbers_describe(fast_bundle):
    bundle = fast_bundle
    document = read_bundle(bundle)
    card = " ".join((bundle / "card.md").read_text().split())
    assert document.safety.alpha is None
    (guarantee,) = document.safety.guarantee
    assert guarantee.startswith("No prediction sets:")
    assert guarantee in card
    assert describe(document) == (
        "the shipped predictor: 2 trials, each one network trained on all images outside the test split"
    )
    assert any("only others can score them" in note for note in document.evaluations[0].notes)
    assert "by their folds' networks, which are not the shipped ones" in document.honesty.rows[1].predictor
    for said in (
        "Each member is one network, trained on all images outside the test split",
        "neither thresholds nor the limit of disagreement can be measured on them",
        "It was fitted on the cross-validated predictions of the folds' networks",
    ):
        assert said in card
    assert "averages" not in card
    assert "fold ensembles, each selected and calibrated without the fold" in card


def test_the_locked_test_split_is_scored_with_the_refits(refitted, fast):
    found = evaluate(fast, refitted.store, refitted.folds.test)
    rows = refitted.folds.test
    probabilities = fast.predict_proba(refitted.store.pixels[rows][..., 0])
    truth = refitted.store.labels[rows]
    expected = -np.log(probabilities[np.arange(len(rows)), truth]).mean()
    assert found.metrics["log_loss"].value == pytest.approx(expected)
    assert "trained on all images" in found.predictor


def test_a_fast_ensemble_explains_with_its_calibrated_probability(fast, images):
    predictions = fast.predict(images[:2])
    for prediction, (_, found) in zip(predictions, explain(fast, images[:2]), strict=True):
        assert (found.label, found.probability) == (prediction.label, pytest.approx(prediction.confidence))
        assert found.heat_map.shape == (SIZE, SIZE)
        assert np.isnan(found.agreement)  # one network: nobody to agree with


@pytest.mark.parametrize(
    ("build", "folds"), [("fast", [0]), ("fast", [None, None]), ("max", [None]), ("max", [0, None])]
)
def test_a_document_whose_networks_are_not_of_its_build_is_refused(fast_bundle, build, folds):
    content = read_bundle(fast_bundle).model_dump(mode="json")
    content["build"] = build
    for member in content["members"]:
        member["networks"] = [{**member["networks"][0], "fold": fold} for fold in folds]
    with pytest.raises(ValueError, match=f"a {build} build cannot have members"):
        BundleDocument.model_validate(content)


def test_a_recipe_cannot_ask_refits_for_prediction_sets():
    with pytest.raises(ValueError, match=r"safety\.alpha.*build: max"):
        EnsembleRecipe(name="own", build="fast", selection=SoftVote(), safety=Safety(alpha=0.05))


def test_studies_from_before_there_were_two_builds_keep_their_digest(finished_study):
    plan = finished_study.plan
    fast = plan.model_copy(update={"ensemble": plan.ensemble.model_copy(update={"build": "fast"})})
    assert fast.digest != plan.digest
    later = {"ensemble": {"build"}, "search": {"confirm"}, "training": {"score_every"}}
    content = plan.model_dump(mode="json", exclude={"cluster": True, "data": {"path", "positive"}, **later})
    assert plan.digest == sha256_of_json(content)
