from pathlib import Path

import pytest
import yaml

from consilia.config.recipe import EnsembleRecipe
from consilia.errors import RunError

FOLDER = Path(__file__).parents[2] / "ensembles"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_and_named_as_its_file(path):
    assert EnsembleRecipe.model_validate(yaml.safe_load(path.read_text())).name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_readme_lists_a_shipped_recipe(path):
    assert f"`{path.stem}`" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_builds_from_what_the_search_has_left_or_says_what_it_needs(path, study):
    recipe = EnsembleRecipe.model_validate(yaml.safe_load(path.read_text()))
    if recipe.build == "fast":
        with pytest.raises(RunError, match="--refit"):
            study.build(recipe)
    else:
        assert study.build(recipe).name == path.stem


def test_every_kind_of_selection_is_shipped():
    kinds = {yaml.safe_load(path.read_text())["selection"]["kind"] for path in FILES}
    assert kinds == {"best_single", "soft_vote", "greedy"}
