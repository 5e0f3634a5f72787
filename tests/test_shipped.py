"""Every YAML that people may pick or copy is read by the reader that reads it for them."""

import re
from pathlib import Path
from typing import get_args

import pytest

from consilia.config.augmentation import Modality
from consilia.config.catalog import content_folder, load, names
from consilia.config.recipe import EnsembleRecipe
from consilia.config.study import ClusterProfile
from consilia.study.plan import read_card, read_plan
from consilia.study.spaces import read_space

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", names("search_spaces"))
def test_a_search_space_is_stored_under_the_name_of_its_file(name, tmp_path):
    assert read_space(name, tmp_path).family == name


@pytest.mark.parametrize("name", names("ensembles"))
def test_a_recipe_is_stored_under_the_name_of_its_file(name, tmp_path):
    assert load("ensembles", name, EnsembleRecipe, base=tmp_path).name == name


@pytest.mark.parametrize("name", names("cluster"))
def test_a_cluster_profile_is_read(name, tmp_path):
    assert load("cluster", name, ClusterProfile, base=tmp_path).name == name


@pytest.mark.parametrize("name", names("data/cards"))
def test_a_card_says_what_a_person_must_know_before_using_it(name):
    card = read_card(name)
    assert card.name == name
    assert card.title
    assert card.licence
    assert card.homepage
    assert card.path is None  # everybody keeps data elsewhere


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_a_study_and_says_how_it_is_started(file):
    assert read_plan(file).name
    commands = [line for line in file.read_text().splitlines() if line.startswith("#") and "consilia search" in line]
    assert commands
    assert all(f"examples/{file.name}" in line for line in commands)


@pytest.mark.parametrize("kind", ["search_spaces", "ensembles", "cluster", "data/cards"])
def test_every_file_is_described_in_the_folder_s_readme_and_every_name_there_exists(kind):
    folder = content_folder(kind)
    readme = folder / "README.md" if kind != "data/cards" else folder.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    in_tables = set(re.findall(r"^\| `([\w-]+)` \|", text, flags=re.MULTILINE))
    files = set(re.findall(r"`([\w-]+)\.yaml`", text))
    known = set(names(kind))
    assert known <= in_tables | files
    assert files <= known
    assert in_tables <= known | set(ClusterProfile.model_fields)


def test_the_cards_readme_lists_every_modality(root):
    text = (root / "data" / "README.md").read_text(encoding="utf-8")
    assert [each for each in get_args(Modality) if f"`{each}`" not in text] == []


def test_every_kind_of_content_has_something_to_pick():
    for kind in ("search_spaces", "ensembles", "cluster", "data/cards"):
        assert names(kind)
