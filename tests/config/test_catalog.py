"""Content by name or by file, read strictly; settings as a nested mapping."""

from pathlib import Path
from typing import get_args

import pytest

from consilia.config import catalog
from consilia.config.card import DataCard
from consilia.config.catalog import Kind, content_folder, load, names
from consilia.config.frozen import validate
from consilia.config.recipe import EnsembleRecipe
from consilia.config.space import SearchSpace
from consilia.config.strict_yaml import merge, parse_settings, read_yaml
from consilia.config.study import ClusterProfile, SearchPlan
from consilia.errors import PlanError

RECIPE = "name: mine\nselection: {kind: soft_vote, members: 3}\n"


def recipe(reference, base: Path, **overrides) -> EnsembleRecipe:
    return load("ensembles", reference, EnsembleRecipe, base=base, overrides=overrides)


def problem(model, content) -> str:
    with pytest.raises(PlanError) as caught:
        validate(model, content, where="FILE")
    return str(caught.value)


# --- finding


@pytest.mark.parametrize("kind", get_args(Kind))
def test_an_editable_install_finds_the_folders_of_the_checkout(kind, root):
    assert content_folder(kind) == root / kind


@pytest.mark.parametrize("kind", get_args(Kind))
def test_an_installed_wheel_finds_what_it_ships(kind, tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "consilia"
    (package / "shipped" / kind).mkdir(parents=True)
    (package / "shipped" / kind / "own.yaml").touch()
    monkeypatch.setattr(catalog, "_PACKAGE", package)
    assert names(kind) == ["own"]


def test_a_name_a_file_and_the_content_itself_are_read_alike(tmp_path):
    shipped = recipe("soft_vote", tmp_path)
    file = content_folder("ensembles") / "soft_vote.yaml"
    assert recipe(str(file), tmp_path) == shipped
    assert recipe(read_yaml(file), tmp_path) == shipped


def test_a_relative_file_starts_from_the_base(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "mine.yaml").write_text(RECIPE)
    assert recipe("mine.yaml", tmp_path / "below").name == "mine"
    assert recipe("below/mine.yaml", tmp_path).name == "mine"
    assert recipe("./mine.yaml", tmp_path / "below").name == "mine"


def test_a_tilde_stands_for_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "card.yaml").write_text("name: x\nsource: {kind: folder}\npath: ~/images\n")
    assert recipe("~/mine.yaml", Path("/")).name == "mine"
    assert load("data/cards", "~/card.yaml", DataCard, base=Path("/")).path == str(tmp_path / "images")


def test_the_path_in_a_card_starts_from_the_card(tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "own.yaml").write_text("name: own\nsource: {kind: folder}\npath: ../images\n")
    card = load("data/cards", "cards/own.yaml", DataCard, base=tmp_path)
    assert Path(card.path).resolve() == tmp_path / "images"


def test_overrides_replace_values_and_merge_mappings(tmp_path):
    assert recipe("soft_vote", tmp_path, selection={"members": 2}).selection.members == 2
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": []}) == {"a": {"b": 3, "c": 2}, "d": []}


def test_merging_changes_neither_side():
    content, overrides = {"a": {"b": 1}}, {"a": {"c": 2}}
    merge(content, overrides)
    assert (content, overrides) == ({"a": {"b": 1}}, {"a": {"c": 2}})


# --- strict YAML


def test_yaml_anchors_and_merges_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &base {a: 1, b: 2}\nown: {<<: *base, b: 3}\n")
    assert read_yaml(tmp_path / "a.yaml")["own"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands twice"),
        ("a:\n  b: 1\n  b: 1\n", "line 3: the key 'b' stands twice"),
        ("a: [1\nb: 2\n", "line 2: expected"),
        ("? [1, 2]\n: 3\n", "line 1: a key must be a plain word"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
        ("- 1\n- 2\n", "must hold keys and values, but holds list"),
        ("", "must hold keys and values, but holds NoneType"),
    ],
)
def test_yaml_that_is_ambiguous_or_could_run_code_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# --- keys as they stand in the file


def test_an_unknown_key_is_named_as_the_file_has_it_though_pydantic_names_the_union_member():
    text = problem(DataCard, {"name": "x", "source": {"kind": "table", "columns": {"lable": "a"}}})
    assert text == (
        "FILE: unknown key 'source.columns.lable'. Did you mean 'label'? Known keys: label, path, patient, split."
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"modality": "mri"}, "'histology' or 'other', but got 'mri'. Did you mean 'mr'?"),
        ({"fit": "padd"}, "'pad', 'crop' or 'stretch', but got 'padd'. Did you mean 'pad'?"),
        ({"source": {"kind": "tabel"}}, "but got 'tabel'. Did you mean 'table'?"),
    ],
)
def test_a_value_that_is_nearly_an_allowed_one_is_answered_with_all_and_the_nearest(content, says):
    assert says in problem(DataCard, {"name": "a", "source": {"kind": "folder"}, **content})


def test_every_wrong_key_gets_its_own_line():
    ranges = {"lr": {"kind": "float", "low": 2, "high": 1, "default": 1}, "tau": {"kind": "choice", "value": [1]}}
    space = {"family": "x", "architectures": {"a": {"timm": "x"}}, "start_with": ["a"], "parameters": ranges}
    lines = problem(SearchSpace, space).splitlines()
    assert lines[0] == "FILE: parameters.lr: low <= high must hold, but got low=2.0, high=1.0: the range is empty"
    assert "FILE: parameters.tau.values is missing." in lines
    assert any("unknown key 'parameters.tau.value'. Did you mean 'values'?" in line for line in lines)


@pytest.mark.parametrize(
    ("model", "content", "expected"),
    [
        (DataCard, {"name": "x", "source": {}}, "source.kind is missing."),
        (
            DataCard,
            {"name": "x", "source": {"kind": "tabel"}},
            "source.kind must be one of 'folder', 'table', 'dicom', 'npz', but got 'tabel'.",
        ),
        (
            SearchPlan,
            {"configuration": {"architecture": "a", "lrr": 1}},
            "unknown key 'configuration.lrr'. Did you mean 'lr'?",
        ),
        (
            SearchPlan,
            {"stopping": {"kind": "halving", "reductio": 1}},
            "'stopping.reductio'. Did you mean 'reduction'?",
        ),
        (ClusterProfile, {"max_slots": 0}, "max_slots: Input should be greater than or equal to 1, but got 0"),
        (ClusterProfile, {"gpus_per_slot": "all"}, "gpus_per_slot: Input should be 'auto', but got 'all'"),
        (ClusterProfile, {"gpus": "needed"}, "gpus: Input should be 'auto', 'required' or 'none', but got 'needed'"),
        (ClusterProfile, {"gpus": "required", "gpus_per_slot": 0}, "gpus is required, but gpus_per_slot is 0; leave"),
        (ClusterProfile, {"gpus": "none", "gpus_per_slot": 0.5}, "gpus is none, but gpus_per_slot is 0.5; leave"),
        (DataCard, {"name": "a/b", "source": {"kind": "folder"}}, "name: "),
    ],
)
def test_a_problem_names_the_key_and_what_was_found(model, content, expected):
    assert expected in problem(model, content)


def test_an_override_that_is_wrong_is_not_blamed_on_the_file_alone(tmp_path):
    with pytest.raises(PlanError, match=r"soft_vote\.yaml \(with selection set from outside\).*'selection\.member'"):
        recipe("soft_vote", tmp_path, selection={"member": 2})


# --- settings


def test_settings_become_a_nested_mapping_of_yaml_values():
    assert parse_settings(["a.b=1", "a.c=[x, 2.5]", "d=text", "e=null", "f=a=b"]) == {
        "a": {"b": 1, "c": ["x", 2.5]},
        "d": "text",
        "e": None,
        "f": "a=b",
    }


def test_a_later_setting_of_the_same_key_counts():
    assert parse_settings(["a.b=1", "a.b=2"]) == {"a": {"b": 2}}
    assert parse_settings(["a.c=1", "a={b: 2}"]) == {"a": {"b": 2, "c": 1}}


@pytest.mark.parametrize("settings", [["a=x", "a.b=1"], ["a.b=1", "a=x"], ["a.b.c=1", "a.b=2"]])
def test_settings_of_which_one_would_be_lost_are_refused(settings):
    with pytest.raises(PlanError, match="use one of the two"):
        parse_settings(settings)
