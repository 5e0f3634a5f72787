"""The images of a finished study that people should look at: the worst errors, and the least certain answers."""

import numpy as np

from consilia.config.records import Rows
from consilia.errors import DataError
from consilia.predict.explain import Explanation, explain_pixels
from consilia.predict.loading import load_predictor
from consilia.report.html import embed_jpeg
from consilia.report.overlay import draw_pair
from consilia.report.study_page import Case, Cases
from consilia.study.image_scores import ImageScores
from consilia.study.opened import OpenStudy

_EACH = 6  # pictures of a kind
_SIDE = 256  # pixels of a picture


def show_cases(study: OpenStudy, scores: ImageScores) -> Cases:
    """Return the pictures of the study's own ensemble with their heat maps, or why they cannot be had."""
    try:
        store = study.store
    except DataError as error:
        return Cases(absent=f"The images cannot be shown: {error}")
    shown = scores.shown
    wrong, unsure = _choose(scores)
    places = np.concatenate([wrong, unsure])
    if len(places) == 0:
        return Cases()
    predictor = load_predictor(study.folder.bundle(study.plan.ensemble.name))
    called = shown.probabilities.argmax(axis=1)
    explained = explain_pixels(predictor, store.pixels[scores.rows[places]], called[places])
    cases = [_draw(study, scores, int(place), each) for place, each in zip(places, explained, strict=True)]
    remark = (
        ""
        if scores.split == "test"
        else "Answers are those of ensembles that did not use the image; heat maps are those of the shipped one, most "
        "of whose networks were trained on it."
    )
    return Cases(wrong=tuple(cases[: len(wrong)]), unsure=tuple(cases[len(wrong) :]), remark=remark)


def _choose(scores: ImageScores) -> tuple[Rows, Rows]:
    """Return the places of the worst errors, and of the least certain among the others."""
    probabilities, labels = scores.shown.probabilities, scores.shown.labels
    of_truth = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(of_truth, kind="stable")
    wrong = order[probabilities.argmax(axis=1)[order] != labels[order]][:_EACH]
    by_confidence = np.argsort(probabilities.max(axis=1), kind="stable")
    return wrong, by_confidence[~np.isin(by_confidence, wrong)][:_EACH]


def _draw(study: OpenStudy, scores: ImageScores, place: int, explanation: Explanation) -> Case:
    shown, row = scores.shown, study.store.index.iloc[int(scores.rows[place])]
    probabilities, truth = shown.probabilities[place], int(shown.labels[place])
    silent = explanation.says_nothing_because
    heat_map = None if silent else explanation.heat_map
    strength = f"Strongest place: {explanation.heat_map.max():.2g} log odds per 1 % of the image."
    return Case(
        picture=embed_jpeg(draw_pair(explanation.pixels, heat_map, side=_SIDE)),
        truth=shown.classes[truth],
        label=shown.classes[int(probabilities.argmax())],
        confidence=float(probabilities.max()),
        of_truth=float(probabilities[truth]),
        file=str(row["file"]),
        patient=str(row["patient_id"]) if study.store.manifest.has_patients else "",
        remark=silent or strength,
    )
