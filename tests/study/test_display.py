"""What a notebook shows of a study, a predictor and predictions: their own numbers, and no text as markup."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from consilia import open_study
from consilia.predict.display import show_facts
from consilia.predict.predictions import Predictions


def table_in(html: str) -> pd.DataFrame:
    """Return the last table as texts."""
    header, *rows = [
        [cell.text for cell in row] for row in ElementTree.fromstring(html).findall("table")[-1].iter("tr")
    ]
    return pd.DataFrame(rows, columns=header)


def test_a_study_shows_its_trials_and_its_ensembles(trained):
    study = open_study(trained.folder.root, stores=trained.stores)
    html = study._repr_html_()
    assert "1 finished" in html
    assert "best_single" in html
    assert study.ensembles() == ["best_single"]
    assert float(table_in(html)["objective"][0]) == pytest.approx(study.trials()["objective"][0], rel=1e-3)


def test_a_predictor_shows_what_it_knows_and_how_it_was_measured(predictor, trained):
    ElementTree.fromstring(predictor._repr_html_())
    assert "clear, nodule" in predictor._repr_html_()
    measured = open_study(trained.folder.root, stores=trained.stores).predictor(device="cpu")
    auc = measured.document.evaluations[0].metrics["macro_auc"]
    assert f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" in measured._repr_html_()


def test_predictions_show_the_first_images_and_how_many_there_are(predictor):
    images = list(np.random.default_rng(0).integers(0, 256, (25, 32, 32), dtype=np.uint8))
    predictions = predictor.predict(images)
    html = predictions._repr_html_()
    assert "and 5 more rows" in html
    shown = table_in(html)
    assert len(shown) == 20
    assert list(shown["label"]) == [each.label for each in predictions[:20]]


def test_no_predictions_are_shown_as_none():
    assert "none" in Predictions((), ())._repr_html_()


def test_no_text_of_a_file_becomes_markup():
    html = show_facts("<b>", {"<i>": "<script>"}, table=pd.DataFrame({"<u>": ["<img src=x>"]}))
    assert all(f"<{tag}" not in html for tag in ("b>", "i>", "script", "u>", "img"))
