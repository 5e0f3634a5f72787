"""Whoever opens the test split again for another choice is told so, and so is the reader of the card."""

import json
import shutil

import pytest

from consilia import open_study
from consilia.bundle.reading import read_bundle
from consilia.cli.app import run
from consilia.config.recipe import EnsembleRecipe, SoftVote
from consilia.errors import StudyError
from consilia.study.test_access import log_opening


def test_an_opening_for_the_same_ensemble_is_no_second_choice(trained_copy):
    document = read_bundle(trained_copy.bundle)
    before = trained_copy.folder.test_openings.read_text().splitlines()
    assert log_opening(trained_copy.folder, document) == ""
    assert len(trained_copy.folder.test_openings.read_text().splitlines()) == len(before) + 1


def test_an_opening_from_before_there_were_two_builds_is_the_same_choice_as_a_max_build_of_now(trained_copy):
    path = trained_copy.folder.test_openings
    older = [json.loads(line) for line in path.read_text().splitlines()]
    for line in older:
        del line["for"]["build"]
    path.write_text("".join(json.dumps(line) + "\n" for line in older))
    document = read_bundle(trained_copy.bundle)
    assert log_opening(trained_copy.folder, document) == ""
    fast = document.provenance.recipe.model_copy(update={"build": "fast"})
    other = document.model_copy(update={"provenance": document.provenance.model_copy(update={"recipe": fast})})
    assert "opened before for another choice" in log_opening(trained_copy.folder, other)


def test_a_second_ensemble_says_in_its_card_that_the_test_was_open(trained_copy, tmp_path):
    recipe = EnsembleRecipe(name="again", selection=SoftVote(members=1))
    file = tmp_path / "again.yaml"
    file.write_text(recipe.model_dump_json())
    result = open_study(trained_copy.folder.root, stores=trained_copy.stores).build(file, test=True)
    (test,) = (each for each in result.document.evaluations if each.split == "test")
    first = read_bundle(trained_copy.bundle).provenance.recipe.name
    assert f"opened before for another choice ({first} on 20" in test.notes[-1]
    assert test.notes[-1] in (result.bundle / "card.md").read_text()


def test_another_recipe_opens_the_test_only_where_it_is_asked_to(trained_copy, capsys):
    folders = ["--studies", str(trained_copy.studies), "--stores", str(trained_copy.stores)]
    before = trained_copy.folder.test_openings.read_text()
    assert run(["ensemble", "tiny-train", "--recipe", "soft_vote", *folders]) == 0
    told = capsys.readouterr().err
    assert "the locked test stays closed: soft_vote is not the study's own recipe; --test opens it" in told
    assert "opened before" not in told
    assert trained_copy.folder.test_openings.read_text() == before
    bundle = trained_copy.folder.bundle("soft_vote")
    assert [each.split for each in read_bundle(bundle).evaluations] == ["cross_fitted"]
    assert "No locked test split has been evaluated" in (bundle / "card.md").read_text()
    created = read_bundle(bundle).provenance.created
    assert run(["ensemble", "tiny-train", "--recipe", "soft_vote", "--test", *folders]) == 0
    assert "stays closed" not in capsys.readouterr().err
    assert [each.split for each in read_bundle(bundle).evaluations] == ["cross_fitted", "test"]
    assert read_bundle(bundle).provenance.created == created  # measured, not built again
    assert len(trained_copy.folder.test_openings.read_text().splitlines()) == len(before.splitlines()) + 1


def test_the_study_s_own_recipe_opens_the_test_when_it_is_built_again(trained_copy):
    shutil.rmtree(trained_copy.bundle)
    result = open_study(trained_copy.folder.root, stores=trained_copy.stores).build()
    assert [each.split for each in result.document.evaluations] == ["cross_fitted", "test"]


def test_a_damaged_list_of_openings_is_refused_by_line(trained_copy):
    with trained_copy.folder.test_openings.open("a") as file:
        file.write("{}\n")
    n_lines = len(trained_copy.folder.test_openings.read_text().splitlines())
    with pytest.raises(StudyError, match=rf"test_openings\.jsonl, line {n_lines}: .*must stay readable"):
        log_opening(trained_copy.folder, read_bundle(trained_copy.bundle))
