"""Measuring a finished ensemble again: the same numbers on the same split, and no opening unwritten."""

import json
import shutil

import numpy as np
import pytest

from consilia import Study, search
from consilia.bundle.reading import read_bundle
from consilia.cli.app import run
from consilia.config.card import DataCard
from consilia.errors import DataError
from consilia.study.measure import compare_on_card, evaluate_on_card, write_figures


def openings(trained) -> list[dict[str, object]]:
    return [json.loads(line) for line in trained.folder.test_openings.read_text().splitlines()]


def test_the_own_test_split_gives_the_numbers_of_the_study_and_is_written_down(trained_copy):
    before = len(openings(trained_copy))
    again = evaluate_on_card(
        trained_copy.bundle, trained_copy.plan.data, stores=trained_copy.stores, device="cpu"
    ).evaluation
    (recorded,) = (each for each in read_bundle(trained_copy.bundle).evaluations if each.split == "test")
    assert again.metrics["log_loss"].value == pytest.approx(recorded.metrics["log_loss"].value, abs=1e-6)
    assert again.confusion == recorded.confusion
    assert len(openings(trained_copy)) == before + 1


def without_splits(card: DataCard) -> DataCard:
    columns = card.source.columns.model_copy(update={"split": None})
    return card.model_copy(update={"name": "relabelled", "source": card.source.model_copy(update={"columns": columns})})


@pytest.fixture(scope="module")
def drawn(trained, phantoms, tmp_path_factory) -> Study:
    """A study that has drawn its test itself, since its card names none."""
    root = tmp_path_factory.mktemp("drawn")
    plan = trained.plan.model_copy(update={"name": "drawn", "data": without_splits(trained.plan.data)})
    return search(plan, studies=root / "studies", stores=root / "stores")


def test_the_card_of_a_study_that_has_drawn_its_test_means_that_test(drawn, tmp_path):
    before = len(openings(drawn))
    on_card = {"stores": drawn.stores, "device": "cpu"}
    bundle = drawn.folder.bundle("best_single")
    again = evaluate_on_card(bundle, drawn.plan.data, **on_card).evaluation
    (recorded,) = (each for each in read_bundle(bundle).evaluations if each.split == "test")
    assert (again.split, again.images, again.confusion) == ("test", len(drawn.folds.test), recorded.confusion)
    assert again.metrics["log_loss"].value == pytest.approx(recorded.metrics["log_loss"].value, abs=1e-6)
    counted = f"{len(drawn.folds.test)} of these {len(drawn.store)} images are measured"
    said = f"{counted}: the locked test of study drawn, which no network of it has seen in training or folds."
    assert said in again.notes
    compared = compare_on_card(bundle, bundle, drawn.plan.data, **on_card)
    assert (compared.images, said in compared.notes) == (len(drawn.folds.test), True)
    assert said in write_figures(bundle, drawn.plan.data, out=tmp_path / "figures", **on_card).notes
    assert len(openings(drawn)) == before + 4
    alone = shutil.copytree(bundle, tmp_path / "alone" / "alone" / "alone")
    assert evaluate_on_card(alone, drawn.plan.data, **on_card).evaluation.confusion == recorded.confusion
    assert len(openings(drawn)) == before + 4  # nobody knows where its study lies


def test_two_studies_that_drew_other_tests_are_compared_on_what_neither_has_seen(drawn, tmp_path):
    plan = drawn.plan.model_copy(update={"name": "redrawn", "seed": 1})
    other = search(plan, studies=tmp_path, stores=drawn.stores)
    common = np.intersect1d(drawn.folds.test, other.folds.test)
    assert 0 < len(common) < len(drawn.folds.test)
    before = len(openings(drawn)), len(openings(other))
    bundles = [study.folder.bundle("best_single") for study in (drawn, other)]
    found = compare_on_card(*bundles, drawn.plan.data, stores=drawn.stores, device="cpu")
    assert found.images == len(common)
    assert any("the locked test of study drawn and redrawn, which" in note for note in found.notes)
    assert (len(openings(drawn)), len(openings(other))) == (before[0] + 1, before[1] + 1)


def test_the_study_itself_means_its_locked_test(drawn, trained, tmp_path, capsys):
    before, of_other = len(openings(drawn)), len(openings(trained))
    bundle = drawn.folder.bundle("best_single")
    again = evaluate_on_card(bundle, drawn, device="cpu").evaluation
    assert f"These are the {len(drawn.folds.test)} images of the locked test of study drawn." in again.notes
    assert again.confusion == evaluate_on_card(bundle, drawn.plan.data, stores=drawn.stores).evaluation.confusion
    assert len(openings(drawn)) == before + 2
    common = ["--study", "drawn", "--studies", str(drawn.studies), "--device", "cpu"]
    assert run(["evaluate", str(bundle), *common]) == 0
    assert run(["compare", str(bundle), str(bundle), *common]) == 0
    assert run(["figures", str(bundle), *common, "--out", str(tmp_path / "figures")]) == 0
    assert capsys.readouterr().out.count("of the locked test of study drawn.") == 3
    assert len(openings(drawn)) == before + 6
    with pytest.raises(DataError, match="were in the training"):
        evaluate_on_card(trained.bundle, drawn, device="cpu")  # another study's ensemble has seen some of them
    assert (len(openings(drawn)), len(openings(trained))) == (before + 6, of_other)


def test_a_measurement_is_of_a_card_or_of_a_study(drawn, capsys):
    bundle = str(drawn.folder.bundle("best_single"))
    for wrong in ([], ["phantoms", "--study", "drawn"]):
        assert run(["evaluate", bundle, *wrong]) == 2
        assert "either a CARD or --study STUDY" in " ".join(capsys.readouterr().err.split())
    assert run(["evaluate", bundle, "--study", "drawn", "--set", "size=32"]) == 2
    assert "Leave --set out" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "compare", "figures"])
def test_a_shipped_card_is_given_by_its_name_and_settings(trained_copy, tmp_path, command, capsys):
    bundles = [str(trained_copy.bundle)] * (2 if command == "compare" else 1)
    settings = [
        "--set",
        f"path={trained_copy.plan.data.path}",
        "--set",
        "size=32",
        "--stores",
        str(trained_copy.stores),
    ]
    out = ["--out", str(tmp_path / "figures")] if command == "figures" else []
    before = len(openings(trained_copy))
    assert run([command, *bundles, "phantoms", *settings, *out, "--device", "cpu"]) == 0
    assert len(openings(trained_copy)) == before + len(bundles)
    assert run([command, "--help"]) == 0
    assert "Override a key of the card, such as path=DIR" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_the_study_s_images_under_another_card_are_its_locked_test_too(trained_copy):
    before = len(openings(trained_copy))
    unsplit = without_splits(trained_copy.plan.data)
    found = evaluate_on_card(trained_copy.bundle, unsplit, stores=trained_copy.stores, device="cpu").evaluation
    (recorded,) = (each for each in read_bundle(trained_copy.bundle).evaluations if each.split == "test")
    assert (found.split, found.confusion) == ("test", recorded.confusion)
    assert len(openings(trained_copy)) == before + 1


def test_some_training_images_under_another_card_are_refused(trained_copy, phantoms_copy):
    table = phantoms_copy / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[: len(lines) // 2]))
    card = without_splits(trained_copy.plan.data).model_copy(update={"path": str(phantoms_copy)})
    before = openings(trained_copy)
    with pytest.raises(DataError, match=r"were in the training.*such as the locked test of its study \(--study\)"):
        evaluate_on_card(trained_copy.bundle, card, stores=trained_copy.stores, device="cpu")
    assert openings(trained_copy) == before


def test_other_images_are_an_external_evaluation(trained_copy, tmp_path):
    from consilia.data.phantoms import write_phantoms

    path = write_phantoms(tmp_path / "others", patients=24, size=32, seed=7)
    card = trained_copy.plan.data.model_copy(update={"path": str(path)})
    evaluation = evaluate_on_card(trained_copy.bundle, card, stores=trained_copy.stores, device="cpu").evaluation
    assert evaluation.split == "external"
    assert evaluation.images == int(np.sum(evaluation.confusion))
