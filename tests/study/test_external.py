"""Measuring a finished ensemble again: the same numbers on the same split, and no opening unwritten."""

import json

import numpy as np
import pytest

from consilia.bundle.reading import read_bundle
from consilia.errors import DataError
from consilia.study.measure import evaluate_on_card


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


def test_training_images_under_another_card_are_refused(trained_copy):
    card = trained_copy.plan.data
    columns = card.source.columns.model_copy(update={"split": None})
    unsplit = card.model_copy(
        update={"name": "relabelled", "source": card.source.model_copy(update={"columns": columns})}
    )
    with pytest.raises(DataError, match="were in the training"):
        evaluate_on_card(trained_copy.bundle, unsplit, stores=trained_copy.stores, device="cpu")


def test_other_images_are_an_external_evaluation(trained_copy, tmp_path):
    from consilia.data.phantoms import write_phantoms

    path = write_phantoms(tmp_path / "others", patients=24, size=32, seed=7)
    card = trained_copy.plan.data.model_copy(update={"path": str(path)})
    evaluation = evaluate_on_card(trained_copy.bundle, card, stores=trained_copy.stores, device="cpu").evaluation
    assert evaluation.split == "external"
    assert evaluation.images == int(np.sum(evaluation.confusion))
