import dataclasses
import json

import numpy as np
import pytest

from consilia.bundle.card import model_card
from consilia.bundle.reading import read_bundle
from consilia.config.recipe import BestSingle, EnsembleRecipe, Greedy, SoftVote
from consilia.config.space import Architecture
from consilia.errors import RunError, StudyError
from consilia.metrics.scores import METRICS, softmax
from consilia.predict.loading import load_predictor
from consilia.train.tables import read_out_of_fold

VOTES = EnsembleRecipe(name="votes", selection=SoftVote(members=2))
BEST = EnsembleRecipe(name="best", selection=BestSingle())


def test_the_bundle_holds_the_members_that_the_out_of_fold_loss_chooses(study):
    document = read_bundle(study.build(VOTES))
    assert [(member.trial, member.weight) for member in document.members] == [(0, 0.5), (1, 0.5)]
    assert [network.fold for network in document.members[0].networks] == [0, 1, 2]
    assert document.members[0].model.architecture.timm == "test_resnet"
    assert document.members[1].networks[2].preprocessing.mean == pytest.approx((0.52,))
    assert "earned its place" in document.selection.reason
    assert document.selection.candidates == 4


def test_the_bundle_says_where_it_comes_from(study):
    document = read_bundle(study.build(VOTES))
    source = document.provenance
    assert (source.study, source.data, source.recipe) == ("tiny", "tiny", VOTES)
    assert source.study_digest == study.plan.digest
    assert (source.data_digest, source.folds_digest) == (study.store.digest, study.folds.digest)
    assert {"torch", "timm", "consilia"} <= source.packages.keys()
    assert document.classes == ("clear", "nodule")
    assert (document.reading.size, document.reading.channels, document.modality) == (32, 1, "xray")


def test_the_weights_in_the_bundle_are_those_of_the_trials(study):
    bundle = study.build(BEST, trials=study.trials[:1])
    for fold in range(3):
        stored = study.folder.trial(0).fold(fold).weights.read_bytes()
        assert (bundle / "members" / f"trial-0-fold-{fold}.safetensors").read_bytes() == stored


def test_the_cross_fitted_numbers_of_one_trial_are_those_of_its_stored_logits(study):
    recipe = EnsembleRecipe(name="plain", selection=BestSingle(), calibration="none")
    document = read_bundle(study.build(recipe, trials=study.trials[:1]))
    (evaluation,) = document.evaluations
    oof = read_out_of_fold(study.folder.trial(0), study.folds, study.store.labels, study.store.patients)
    assert evaluation.split == "cross_fitted"
    assert evaluation.images == len(study.folds.pool)
    for name, info in METRICS.items():
        expected = info.function(softmax(oof.logits), oof.labels, None, study.store.patients[study.folds.pool])
        assert evaluation.metrics[name].value == pytest.approx(expected)
        assert evaluation.metrics[name].low <= evaluation.metrics[name].high
    assert any("internal estimate" in note for note in evaluation.notes)


def test_small_classes_carry_no_claim(study):
    notes = read_bundle(study.build(BEST)).evaluations[0].notes
    assert any(note.startswith("No claim for class nodule: ") for note in notes)


def test_no_image_of_the_test_split_is_used(study):
    (evaluation,) = read_bundle(study.build(VOTES)).evaluations
    assert evaluation.images + len(study.folds.test) == len(study.store)
    assert evaluation.patients == len(np.unique(study.store.patients[study.folds.pool]))


def test_only_trials_that_finished_every_fold_are_chosen(study):
    stopped = dataclasses.replace(study.trials[0], state="stopped", folds=study.trials[0].folds[:1])
    document = read_bundle(study.build(BEST, trials=(stopped, *study.trials[1:])))
    assert [member.trial for member in document.members] == [1]
    assert document.selection.candidates == 3


def test_a_trial_without_its_weights_is_not_chosen_and_the_bundle_says_so(study):
    study.folder.trial(0).fold(1).weights.unlink()
    document = read_bundle(study.build(VOTES))
    assert 0 not in [member.trial for member in document.members]
    assert any("trials 0 too" in warning and "keep_weights" in warning for warning in document.warnings)


def test_missing_weights_that_change_nothing_are_no_warning(study):
    study.folder.trial(3).fold(1).weights.unlink()
    assert read_bundle(study.build(VOTES)).warnings == ()


def test_without_a_finished_trial_the_error_counts_the_others_and_says_what_to_do(study):
    failed = dataclasses.replace(study.trials[0], state="failed", folds=(), reason="loss is NaN in fold 0")
    stopped = dataclasses.replace(study.trials[1], state="stopped", folds=())
    with pytest.raises(RunError, match=r"1 failed, 1 stopped.*trial 0: loss is NaN.*consilia search"):
        study.build(VOTES, trials=(failed, stopped))
    with pytest.raises(RunError, match="no trials at all"):
        study.build(VOTES, trials=())


def test_without_any_weights_the_error_names_the_setting(study):
    for number in range(4):
        study.folder.trial(number).fold(0).weights.unlink()
    with pytest.raises(RunError, match=r"4 trials finished.*search\.keep_weights"):
        study.build(VOTES)


def test_a_damaged_trial_is_named(study):
    study.folder.trial(1).fold(0).oof.write_bytes(b"")
    with pytest.raises(StudyError, match=r"1/fold-0/oof\.parquet"):
        study.build(VOTES)


def test_building_again_replaces_the_bundle_and_leaves_nothing_beside_it(study):
    study.build(VOTES)
    bundle = study.build(VOTES, trials=study.trials[2:])
    assert [member.trial for member in read_bundle(bundle).members] != [0, 1]
    assert [path.name for path in bundle.parent.iterdir()] == ["votes"]


@pytest.mark.slow("builds twice; test_equality compares two recipes' bundles with a record, bit for bit")
def test_the_same_study_gives_the_same_members_weights_and_calibrator(study):
    recipe = EnsembleRecipe(name="greedy", selection=Greedy(bags=4))
    first, second = (read_bundle(study.build(recipe)) for _ in range(2))
    assert (first.members, first.calibrator, first.evaluations) == (
        second.members,
        second.calibrator,
        second.evaluations,
    )


def test_the_card_holds_the_numbers(study):
    bundle = study.build(VOTES)
    document = read_bundle(bundle)
    card = (bundle / "card.md").read_text()
    (evaluation,) = document.evaluations
    for name, estimate in evaluation.metrics.items():
        text = f"{METRICS[name].title} | {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
        assert text in card
    assert card.count("every image weighs the same") == 2  # the honest report and the evaluation
    assert "minimised (every patient weighs the same)" in card
    for row in evaluation.confusion:
        assert f"| {row[0]} | {row[1]} |" in card
    for said in (document.selection.reason, document.calibration.reason, study.plan.digest, "0.500"):
        assert said in card
    assert "No locked test split has been evaluated" in card
    assert "no patient's image" in card
    assert "| class | images | patients | precision |" in card
    assert "| class | patients | precision |" in card  # patient by patient
    assert "| 0 | resnet | test_resnet | 0.500 | 3 |" in card


def test_the_card_names_an_architecture_as_the_study_does_and_says_what_it_is_of_timm_s(study):
    bundle = study.build(VOTES)
    document = read_bundle(bundle)
    small = Architecture(timm="densenet121", arguments={"growth_rate": 12, "block_config": (3, 3, 3)})
    members = tuple(
        each.model_copy(
            update={"architecture": "tiny_densenet", "model": each.model.model_copy(update={"architecture": small})}
        )
        for each in document.members
    )
    card = model_card(document.model_copy(update={"members": members}))
    assert "| tiny_densenet | densenet121, growth_rate=12, block_config=(3, 3, 3) |" in card


def test_the_document_is_json_that_others_can_read(study):
    content = json.loads((study.build(VOTES) / "ensemble.json").read_text())
    assert content["schema_version"] == 7
    assert set(content["files"]) == {
        "card.md",
        "golden.npz",
        "seen.npy",
        "sets.npz",
        "unusual.npz",
        *(f"members/trial-{trial}-fold-{fold}.safetensors" for trial in (0, 1) for fold in range(3)),
    }


def test_a_set_without_patients_is_warned_of_in_document_and_card(study):
    manifest = study.store.manifest.model_copy(update={"has_patients": False})
    store = dataclasses.replace(study.store, manifest=manifest)
    bundle = dataclasses.replace(study, store=store).build(BEST)
    assert any("No patient grouping" in warning for warning in read_bundle(bundle).warnings)
    assert "No patient grouping" in (bundle / "card.md").read_text()


def test_a_built_bundle_loads(study):
    assert load_predictor(study.build(VOTES), device="cpu").classes == ("clear", "nodule")
