"""Two ensembles on the same images: a fair pair, or a refusal that says why."""

import dataclasses
import shutil

import pytest
import yaml

from consilia.cli.app import run
from consilia.data.phantoms import write_phantoms
from consilia.errors import DataError
from consilia.study import measure
from consilia.study.measure import compare_on_card, evaluate_on_card


@pytest.fixture
def others(trained, tmp_path):
    """A card of phantoms that no ensemble has seen."""
    path = write_phantoms(tmp_path / "others", patients=24, size=32, seed=7)
    return trained.plan.data.model_copy(update={"path": str(path)})


def openings(trained):
    return trained.folder.test_openings.read_text().splitlines()


def test_an_ensemble_beside_itself_differs_by_nothing_and_its_openings_are_written_down(trained_copy):
    before = len(openings(trained_copy))
    card, bundle = trained_copy.plan.data, trained_copy.bundle
    found = compare_on_card(bundle, bundle, card, stores=trained_copy.stores, device="cpu")
    assert len(openings(trained_copy)) == before + 2
    alone = evaluate_on_card(bundle, card, stores=trained_copy.stores, device="cpu").evaluation
    assert (found.images, found.patients) == (alone.images, alone.patients)
    for each in found.metrics:
        assert each.difference is None or each.difference.value == each.difference.low == each.difference.high == 0
        assert each.first == alone.metrics[each.metric]
    assert any(note.startswith("No claim: there are fewer than 30 patients") for note in found.notes)


def test_other_classes_are_refused_in_words_and_nothing_is_opened(trained_copy, tmp_path, monkeypatch):
    predictor = measure.load_predictor(trained_copy.bundle, device="cpu")
    document = predictor.document
    foreign = document.model_copy(update={"name": "skin", "classes": ("mole", *document.classes[1:])})
    loaded = iter([predictor, dataclasses.replace(predictor, document=foreign)])
    monkeypatch.setattr(measure, "load_predictor", lambda bundle, *, device: next(loaded))
    before = openings(trained_copy)
    with pytest.raises(DataError, match=r"the same classes.*skin mole"):
        compare_on_card(tmp_path, tmp_path, trained_copy.plan.data, stores=trained_copy.stores, device="cpu")
    assert openings(trained_copy) == before


def test_images_that_one_of_them_was_trained_on_are_refused_by_its_name(trained_copy, phantoms_copy):
    table = phantoms_copy / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[: len(lines) // 2]))
    card = trained_copy.plan.data
    columns = card.source.columns.model_copy(update={"split": None})
    source = card.source.model_copy(update={"columns": columns})
    unsplit = card.model_copy(update={"source": source, "path": str(phantoms_copy)})
    with pytest.raises(DataError, match=rf"{trained_copy.bundle.name}: .*were in the training"):
        compare_on_card(trained_copy.bundle, trained_copy.bundle, unsplit, stores=trained_copy.stores, device="cpu")


def test_groups_of_an_evaluation_are_of_the_images_that_it_scores(trained, others):
    found = evaluate_on_card(
        trained.bundle, others, by=["scanner", "lesion_x=0.4"], stores=trained.stores, device="cpu"
    )
    evaluation, (scanners, scores) = found.evaluation, found.subgroups
    for each in (scanners, scores):
        assert sum(group.images for group in each.groups) == evaluation.images
        mean = sum(group.metrics["accuracy"].value * group.images for group in each.groups) / evaluation.images
        assert mean == pytest.approx(evaluation.metrics["accuracy"].value)
    assert scanners.column == "scanner"


def test_a_wrong_column_does_not_open_the_test_split(trained_copy):
    before = openings(trained_copy)
    with pytest.raises(DataError, match="did you mean scanner"):
        evaluate_on_card(
            trained_copy.bundle, trained_copy.plan.data, by=["scaner"], stores=trained_copy.stores, device="cpu"
        )
    assert openings(trained_copy) == before


def test_the_commands_print_verdicts_and_groups(trained, others, tmp_path, capsys):
    file = tmp_path / "others.yaml"
    file.write_text(yaml.safe_dump(others.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    common = [str(file), "--stores", str(trained.stores), "--device", "cpu"]
    copy = shutil.copytree(trained.bundle, tmp_path / "copy")
    assert run(["compare", str(trained.bundle), str(copy), *common]) == 0
    assert "cannot be told" in capsys.readouterr().out
    assert run(["evaluate", str(trained.bundle), *common, "--by", "scanner", "--by", "lesion_x=0.4"]) == 0
    printed = capsys.readouterr().out
    assert "By scanner" in printed
    assert "By lesion_x" in printed
