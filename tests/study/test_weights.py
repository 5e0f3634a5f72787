"""Pretrained weights of a study: resolved in the driver, checked before anything is decoded, noted in the bundle."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm import create_model

from consilia import search
from consilia.bundle.reading import read_bundle
from consilia.config.study import FROM_SCRATCH, HUB
from consilia.config.study_folder import StudyFolder
from consilia.errors import PlanError, StudyError
from consilia.files import sha256_of_file
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan, read_single_plan
from consilia.study.preflight import check_unchanged, check_weights
from consilia.study.weights import resolve_weights
from consilia.train.network_files import read_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    save_file(create_model("test_resnet").state_dict(), folder / "test_resnet.safetensors")
    return folder


def plan_of(study_file: Path, *settings: str):
    return read_single_plan(study_file, architecture="test_resnet", settings=settings)


def study_of(plan, folder: StudyFolder) -> OpenStudy:
    return OpenStudy(plan=plan, folder=folder, stores=folder.root)


def test_the_profiles_folder_goes_before_the_environments_and_both_before_the_hub(study_file, tmp_path, weights):
    plain = read_plan(study_file, settings=["training.weights=imagenet"])
    profiled = read_plan(study_file, settings=["training.weights=imagenet", f"cluster.weights={weights}"])
    assert resolve_weights(plain, {}) == HUB
    assert resolve_weights(plain, {"CONSILIA_WEIGHTS": str(tmp_path)}).path == tmp_path
    assert resolve_weights(profiled, {"CONSILIA_WEIGHTS": str(tmp_path)}).path == weights
    assert resolve_weights(read_plan(study_file), {"CONSILIA_WEIGHTS": str(tmp_path)}) == FROM_SCRATCH


def test_a_path_starts_from_the_study_file_or_for_a_setting_from_here(study_file, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(weights.parent)
    plan = read_plan(study_file, settings=[f"training.weights=./{weights.name}"])
    assert resolve_weights(plan, {}).path == weights
    beside = study_file.with_name("own.yaml")
    beside.write_text(study_file.read_text().replace("epochs: 1", "epochs: 1, weights: ./mine"))
    (study_file.parent / "mine").mkdir(exist_ok=True)
    assert resolve_weights(read_plan(beside), {}).path == study_file.parent / "mine"


def test_a_misspelt_word_is_not_taken_for_a_path(study_file):
    with pytest.raises(PlanError, match=r"'imagenett' \(did you mean 'imagenet'\?\)"):
        read_plan(study_file, settings=["training.weights=imagenett"])


@pytest.mark.parametrize("setting", ["training.weights=./absent", "cluster.weights=/absent"])
def test_a_folder_that_is_not_there_is_named_with_its_setting(study_file, setting):
    settings = [setting] if setting.startswith("training") else [setting, "training.weights=imagenet"]
    with pytest.raises(PlanError, match=rf"{setting.partition('=')[0]} names .*absent, which does not exist"):
        resolve_weights(read_plan(study_file, settings=settings), {})


def test_missing_weights_stop_a_study_before_an_image_is_decoded(study_file, tmp_path, silent_view, weights):
    plan = read_plan(study_file, settings=[f"training.weights={weights}"])  # the space has more than test_resnet
    with pytest.raises(PlanError, match=r"test_efficientnet.*consilia weights fetch"):
        search(plan, studies=tmp_path / "studies", stores=tmp_path / "stores", view=silent_view)
    assert silent_view.n_prepared == 0
    assert not (tmp_path / "stores").exists()


def test_a_study_starts_from_the_weights_and_its_bundle_says_which(
    study_file, tmp_path, silent_view, weights, one_thread
):
    plan = plan_of(study_file, f"training.weights={weights}", "training.epochs=1", "lr=1e-9", "head_lr_factor=1")
    result = search(plan, studies=tmp_path / "studies", stores=tmp_path / "stores", view=silent_view).result()
    folder = StudyFolder(tmp_path / "studies" / plan.name)
    expected = {"test_resnet": f"sha256:{sha256_of_file(weights / 'test_resnet.safetensors')}"}
    assert json.loads(folder.weights.read_text()) == expected
    assert read_bundle(result.bundle).provenance.weights == expected
    assert expected["test_resnet"] in (result.bundle / "card.md").read_text()
    _, preprocessing, trained = read_weights(folder.trial(0).fold(0).weights)
    stored = create_model("test_resnet").default_cfg
    assert preprocessing.mean == (pytest.approx(sum(stored["mean"]) / 3),)
    body = load_file(weights / "test_resnet.safetensors")["layer1.0.conv1.weight"]
    assert torch.allclose(trained["layer1.0.conv1.weight"], body, atol=1e-4)


def test_a_study_does_not_go_on_from_other_weights(study_file, tmp_path, weights):
    folder = StudyFolder(tmp_path)
    plan = plan_of(study_file, f"training.weights={weights}")
    check_weights(study_of(plan, folder))
    check_weights(study_of(plan, folder))
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(2)
    save_file(create_model("test_resnet").state_dict(), other / "test_resnet.safetensors")
    moved = plan.model_copy(update={"training": plan.training.model_copy(update={"weights": str(other)})})
    assert moved.digest == plan.digest
    with pytest.raises(StudyError, match="started from other pretrained weights of test_resnet"):
        check_weights(study_of(moved, folder))
    with pytest.raises(StudyError, match="started from other pretrained weights of test_resnet"):
        check_unchanged(study_of(moved, folder))


def test_a_finished_study_needs_its_weights_no_more_but_takes_no_others(study_file, tmp_path, weights):
    folder = StudyFolder(tmp_path)
    plan = plan_of(study_file, f"training.weights={weights}")
    check_weights(study_of(plan, folder))
    check_unchanged(study_of(plan, folder))
    empty = tmp_path / "empty"
    empty.mkdir()
    gone = plan.model_copy(update={"training": plan.training.model_copy(update={"weights": str(empty)})})
    check_unchanged(study_of(gone, folder))
