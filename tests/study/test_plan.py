"""From a study file to a frozen plan, and back."""

from pathlib import Path

import pytest
import yaml

from consilia.errors import PlanError
from consilia.study.plan import changed_keys, plan_to_yaml, read_card, read_plan, read_single_plan

STUDY = """
name: mine
data: {card: phantoms, path: images}
folds: {k: 4}
spaces: [tiny]
training: {epochs: 7}
"""
RECIPE = "name: own\nselection: {kind: soft_vote, members: 3}\n"


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A study file in a folder that is not the working directory."""
    (tmp_path / "files").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "files" / "mine.yaml"
    path.write_text(STUDY)
    return path


def write_plan(plan, path: Path) -> Path:
    path.write_text(yaml.safe_dump(plan_to_yaml(plan), sort_keys=False, allow_unicode=True))
    return path


def test_names_are_replaced_by_their_content_and_the_rest_has_defaults(file):
    plan = read_plan(file)
    assert (plan.folds.k, plan.training.epochs, plan.training.batch_size) == (4, 7, 64)
    assert plan.data.classes == ("clear", "consolidation", "nodule")
    assert list(plan.spaces[0].architectures) == ["test_resnet", "test_efficientnet", "tiny_densenet"]
    assert (plan.ensemble.name, plan.cluster.name) == ("greedy_calibrated", "local")


@pytest.mark.parametrize(
    "settings",
    [[], ["data.classes=[ä, b, c]", "ensemble=best_single", "cluster.max_slots=1", "search.stopping={kind: none}"]],
)
def test_a_resolved_plan_is_read_back_equal_wherever_it_lies(file, tmp_path, settings):
    plan = read_plan(file, settings=settings)
    again = read_plan(write_plan(plan, tmp_path / "study.yaml"))
    assert again == plan
    assert again.digest == plan.digest
    assert plan_to_yaml(again) == plan_to_yaml(plan)


def test_a_target_that_nobody_asks_for_is_not_asked_for_when_the_plan_is_read_again(file, tmp_path):
    plan = read_plan(file)
    safety = plan.ensemble.safety.model_copy(update={"sensitivity": None, "risk": None})
    changed = plan.model_copy(update={"ensemble": plan.ensemble.model_copy(update={"safety": safety})})
    again = read_plan(write_plan(changed, tmp_path / "study.yaml"))
    assert again == changed
    assert again.digest == changed.digest != plan.digest


def test_the_plan_of_one_configuration_is_read_back_equal(file, tmp_path):
    plan = read_single_plan(file, architecture="tiny_densenet", settings=["data.size=48"])
    assert read_plan(write_plan(plan, tmp_path / "study.yaml")) == plan


# --- settings


def test_a_setting_goes_before_the_file_and_the_file_before_the_default(file):
    plan = read_plan(file, settings=["training.epochs=2", "training.epochs=3", "seed=5"])
    assert (plan.training.epochs, plan.training.batch_size, plan.folds.k, plan.seed) == (3, 64, 4, 5)


def test_paths_in_the_file_start_from_its_folder_and_those_in_settings_from_the_working_directory(file, tmp_path):
    assert read_plan(file).data.path == str(tmp_path / "files" / "images")
    assert read_plan(file, settings=["data.path=images"]).data.path == str(tmp_path / "here" / "images")
    assert read_plan(file, settings=["data.path=/else"]).data.path == "/else"
    assert read_plan(file, settings=["data={path: images}"]).data.path == str(tmp_path / "here" / "images")


def test_files_of_content_start_where_their_data_would(file, tmp_path):
    for folder, members in (("files", 3), ("here", 4)):
        (tmp_path / folder / "own.yaml").write_text(RECIPE.replace("3", str(members)))
    file.write_text(STUDY + "ensemble: own.yaml\n")
    assert read_plan(file).ensemble.selection.members == 3
    assert read_plan(file, settings=["ensemble=own.yaml"]).ensemble.selection.members == 4
    card = {"name": "own", "source": {"kind": "folder"}, "group": "none"}
    (tmp_path / "here" / "card.yaml").write_text(yaml.safe_dump(card))
    assert read_plan(file, settings=["data.card=card.yaml"]).data.name == "own"
    space = read_plan(file).spaces[0].model_copy(update={"family": "mine"})
    (tmp_path / "here" / "space.yaml").write_text(yaml.safe_dump(space.model_dump(mode="json")))
    assert read_plan(file, settings=["spaces=[./space.yaml]"]).spaces[0].family == "mine"


def test_a_home_folder_in_a_setting_is_found(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert read_plan(file, settings=["data.path=~/images"]).data.path == str(tmp_path / "home" / "images")
    assert read_card("phantoms", settings=["path=~/images"]).path == str(tmp_path / "home" / "images")


def test_a_setting_changes_one_key_of_what_a_name_stands_for(file):
    plan = read_plan(file, settings=["cluster.max_slots=2", "ensemble.selection.bags=3", "data.size=32"])
    assert (plan.cluster.name, plan.cluster.max_slots) == ("local", 2)
    assert (plan.ensemble.name, plan.ensemble.selection.bags, plan.ensemble.selection.pool) == (
        "greedy_calibrated",
        3,
        50,
    )
    assert plan.data.size == 32


def test_a_name_and_a_change_of_one_of_its_keys_can_be_set_together(file, tmp_path):
    (tmp_path / "here" / "big.yaml").write_text("name: big\ncpus_per_slot: 4\n")
    for settings in (["cluster=big.yaml", "cluster.address=auto"], ["cluster.address=auto", "cluster=big.yaml"]):
        cluster = read_plan(file, settings=settings).cluster
        assert (cluster.name, cluster.cpus_per_slot, cluster.address) == ("big", 4, "auto")


def test_content_written_in_the_study_is_changed_by_settings_too(file):
    file.write_text(STUDY + "ensemble: {name: own, selection: {kind: soft_vote}}\n")
    assert read_plan(file, settings=["ensemble.selection.members=2"]).ensemble.selection.members == 2
    assert read_plan(file, settings=["ensemble=best_single"]).ensemble.name == "best_single"


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("data=phantoms", "data"),
        ("data=my/path", "data"),
        ("data=3", "data"),
        ("data.card=3", "'3'"),
        ("training=5", "training"),
        ("spaces=tiny", "spaces"),
        ("spaces=[]", "spaces"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_an_error_for_people(file, setting, key):
    with pytest.raises(PlanError, match=key):
        read_plan(file, settings=[setting])


# --- one configuration


def test_one_configuration_starts_from_the_defaults_of_its_architecture(file):
    plan = read_single_plan(file, architecture="tiny_densenet", settings=["mixup=0.3", "training.epochs=2"])
    configuration = plan.search.configuration
    assert (configuration.architecture, configuration.mixup, plan.training.epochs) == ("tiny_densenet", 0.3, 2)
    assert configuration.lr == plan.spaces[0].from_scratch["lr"].default
    assert (plan.name, plan.search.trials) == ("mine-train", 1)


def test_the_architecture_is_an_option_or_a_setting(file):
    assert read_single_plan(file).search.configuration.architecture == "test_resnet"
    single = read_single_plan(file, settings=["architecture=test_efficientnet"])
    assert single.search.configuration.architecture == "test_efficientnet"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lrr=1"], r"unknown key 'lrr'. Did you mean 'lr'\?"),
        (["architecture=test_resnett"], r"test_resnett: not in .*mine\.yaml\. Did you mean 'test_resnet'\?"),
        (["lr=fast"], "lr: .* but got 'fast'"),
        (["architecture=tiny_densenet", "image_size=8"], "cannot take images of 8 px: its smallest is"),
    ],
)
def test_a_configuration_that_cannot_be_trained_is_refused_before_it_starts(file, settings, message):
    with pytest.raises(PlanError, match=message):
        read_single_plan(file, settings=settings)


# --- networks


def test_a_name_that_timm_does_not_know_is_refused_even_where_no_network_is_built(file, tmp_path):
    space = {"family": "mine", "architectures": {"net": {"timm": "resnet1"}}, "start_with": ["net"]}
    (tmp_path / "files" / "space.yaml").write_text(yaml.safe_dump({**space, "parameters": {}}))
    file.write_text(STUDY.replace("[tiny]", "[./space.yaml]"))
    with pytest.raises(PlanError, match=r"architectures\.net\.timm.*'resnet1'.*(?i:did you mean)"):
        read_plan(file, networks=False)


def test_an_image_size_is_refused_where_networks_are_built_and_left_to_a_worker_where_not(file):
    small = ["training.image_size=8"]
    assert read_plan(file, settings=small, networks=False).image_size == 8
    with pytest.raises(PlanError, match="cannot take images of 8 px: its smallest is"):
        read_plan(file, settings=small)


# --- changes


def test_every_change_of_the_result_is_named_with_both_values(file):
    old = read_plan(file)
    new = read_plan(file, settings=["folds.k=3", "data.augmentation.scale=0.2", "ensemble.selection.pool=9"])
    assert changed_keys(old, new) == [
        "data.augmentation.scale: 0.1 in the study folder, 0.2 now",
        "ensemble.selection.pool: 50 in the study folder, 9 now",
        "folds.k: 4 in the study folder, 3 now",
    ]
    assert changed_keys(old, old) == []


def test_another_range_of_a_space_is_a_change(file, tmp_path):
    old = read_plan(file)
    space = old.spaces[0].model_dump(mode="json")
    space["from_scratch"]["lr"]["high"] = 0.5
    file.write_text(STUDY.replace("[tiny]", f"[{yaml.safe_dump(space, default_flow_style=True).strip()}]"))
    assert changed_keys(old, read_plan(file)) == ["spaces.0.from_scratch.lr.high: 0.02 in the study folder, 0.5 now"]


def test_what_is_confirmed_may_change_and_is_no_part_of_the_digest(file):
    old, new = read_plan(file), read_plan(file, settings=["search.confirm=3"])
    assert changed_keys(old, new) == []
    assert new.digest == old.digest
    assert new.search.confirm == 3


def test_where_a_study_runs_and_where_its_data_lie_are_no_changes(file):
    old = read_plan(file)
    new = read_plan(
        file, settings=["cluster.address=auto", "cluster.max_slots=3", "data.path=/moved", "data.positive=nodule"]
    )
    assert changed_keys(old, new) == []
    assert new.digest == old.digest
