"""A stack in a bundle: it predicts what it was built to, says what it is, and is refused where it cannot be one."""

import json
import shutil

import numpy as np
import pytest

from consilia.bundle.reading import read_bundle
from consilia.bundle.text import SHARE, describe_members
from consilia.cli.show import show_result
from consilia.config.recipe import EnsembleRecipe, Stacked
from consilia.config.record_files import write_trial
from consilia.decision.calibrators import Temperature, pool_folds
from consilia.decision.combination import combine
from consilia.decision.disagreement import disagreement_limit, measure_disagreement, mutual_information
from consilia.ensemble.calibration import fit_temperature
from consilia.ensemble.pool import load_pool
from consilia.ensemble.selection import select, weighted_log_loss
from consilia.ensemble.unseen import combine_unseen
from consilia.errors import BundleError
from consilia.files import sha256_of_json
from consilia.metrics.scores import softmax
from consilia.predict.explain import explain
from consilia.predict.loading import load_predictor
from consilia.study.combine import combine as combine_trials
from consilia.study.test_access import log_opening

RECIPE = EnsembleRecipe(name="stack", selection=Stacked(members=2, strengths=(3.0, 30.0)))


@pytest.fixture(scope="module")
def built_stack(finished_study):
    return finished_study.build(RECIPE)


@pytest.fixture
def bundle(built_stack, tmp_path):
    return shutil.copytree(built_stack, tmp_path / "bundle")


@pytest.fixture(scope="module")
def pool(finished_study):
    study = finished_study
    return load_pool(study.trials, folder=study.folder, store=study.store, folds=study.folds)


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32), dtype=np.uint8)


def test_the_bundle_holds_the_stack_that_the_out_of_fold_predictions_give(built_stack, pool):
    document = read_bundle(built_stack)
    expected = select(RECIPE.selection, pool.candidates, pool.truth, seed=0)
    assert document.stack == expected.without_others()
    assert [(member.trial, member.weight) for member in document.members] == [(0, None), (1, None)]
    in_sample = weighted_log_loss(combine(pool.candidates, expected), pool.truth)
    assert document.selection.in_sample_loss == pytest.approx(in_sample)
    assert "best single trial with a temperature" in document.selection.reason


def test_its_calibrator_is_fitted_to_what_stacks_say_of_images_that_they_have_not_seen(built_stack, pool):
    document = read_bundle(built_stack)
    expected = select(RECIPE.selection, pool.candidates, pool.truth, seed=0)
    unseen = combine_unseen(pool.candidates, expected, pool.truth)
    assert document.calibration.loss_before == pytest.approx(weighted_log_loss(unseen, pool.truth))
    if isinstance(document.calibrator, Temperature):
        assert document.calibrator.temperature == pytest.approx(fit_temperature(unseen, pool.truth).temperature)


def test_a_loaded_stack_predicts_what_its_networks_and_coefficients_say(built_stack, images):
    predictor = load_predictor(built_stack, device="cpu")  # the golden outputs are those of the build
    stack = predictor.document.stack
    logits = predictor.networks.logits(images[..., None]).astype(np.float64)
    centred = logits - logits.mean(axis=-1, keepdims=True)
    scores = np.einsum("mfij,mjk->fik", centred, np.array(stack.coefficients)) + np.array(stack.intercepts)
    expected = pool_folds(predictor.document.calibrator, softmax(scores))
    np.testing.assert_allclose(predictor.predict_proba(images), expected, atol=1e-6)


def test_members_of_a_stack_disagree_with_equal_votes(built_stack, pool, images):
    predictor = load_predictor(built_stack, device="cpu")
    limit = disagreement_limit(pool.candidates[:2], np.array([0.5, 0.5]), pool.truth.patients)
    assert predictor.document.safety.disagreement == pytest.approx(limit)
    said = softmax(predictor.networks.logits(images[..., None]))
    expected = np.median(mutual_information(said, np.array([0.5, 0.5])), axis=0)
    np.testing.assert_allclose(measure_disagreement(said, predictor.networks.combination.votes), expected)


def test_a_heat_map_is_of_the_stack_s_own_prediction(built_stack, images):
    predictor = load_predictor(built_stack, device="cpu")
    predicted = predictor.predict(images)
    for prediction, (_, explanation) in zip(predicted, explain(predictor, images), strict=True):
        assert (explanation.label, explanation.probability) == (prediction.label, pytest.approx(prediction.confidence))


def test_card_and_terminal_name_shares_and_no_weights(built_stack):
    document = read_bundle(built_stack)
    card = (built_stack / "card.md").read_text()
    assert f"| trial | architecture | {SHARE} | networks |" in card
    assert "| weight |" not in card
    assert f"strength {document.stack.strength:g}" in card
    first, second = document.stack.shares
    assert describe_members(document).startswith(f"stack of trial 0 ({first:.2f}), trial 1 ({second:.2f}); ")


def test_a_study_ends_with_a_stack_and_reports_no_weights(study, capsys):
    for trial in study.trials:
        write_trial(study.folder.trial(trial.number).record, trial)
    result = combine_trials(study.plan, study.folder, study.store, study.folds, recipe=RECIPE)
    show_result(result)
    assert f"ensemble  {describe_members(result.document)}" in capsys.readouterr().out
    reported = json.loads(result.report.read_text())["ensembles"]["stack"]
    assert reported["members"] == {"0": None, "1": None}
    assert reported["stack"] == result.document.stack.model_dump(mode="json")
    assert [evaluation["split"] for evaluation in reported["evaluations"]] == ["cross_fitted", "test"]


def test_another_fit_of_the_same_members_is_another_choice_for_the_test_split(study, built_stack):
    document = read_bundle(built_stack)
    assert log_opening(study.folder, document) == log_opening(study.folder, document) == ""
    other = document.model_copy(update={"stack": document.stack.model_copy(update={"strength": 7.0})})
    assert "opened before for another choice" in log_opening(study.folder, other)


def rewrite(bundle, change):
    path = bundle / "ensemble.json"
    content = json.loads(path.read_text())
    change(content)
    content.pop("digest")
    path.write_text(json.dumps({**content, "digest": sha256_of_json(content)}))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda content: content.update(stack=None), "weights must sum to 1"),
        (lambda content: content["members"][0].update(weight=1.0), "members of a stack have no weights"),
        (lambda content: content["stack"]["coefficients"].pop(), r"must be of \(members, classes\) \(2, 2\)"),
        (lambda content: content["stack"]["coefficients"].append([[0, 0], [0, 0]]), "must be of"),
        (lambda content: content["stack"]["coefficients"].__setitem__(0, [[0, 0], [0, 0]]), "must be of"),
        (lambda content: content["stack"]["intercepts"].append(0.0), "matrices of 3 x 3"),
        (lambda content: content["stack"]["intercepts"].__setitem__(0, 1e300), r"stack\.intercepts\.0"),
        (lambda content: content["stack"].update(kind="linear_pool"), r"stack\.kind"),
        (lambda content: content["stack"]["intercepts"].__setitem__(0, 3.0), "golden outputs"),
    ],
)
def test_a_stack_that_cannot_be_one_is_refused(bundle, change, match):
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=match):
        load_predictor(bundle, device="cpu")
