import numpy as np
import pytest

from consilia.metrics.diagrams import class_scores, confusion

PROBABILITIES = np.array([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.1, 0.9, 0.0], [0.6, 0.4, 0.0]])
LABELS = np.array([0, 0, 1, 1])


def test_the_confusion_matrix_has_truth_in_rows_and_every_class():
    assert confusion(PROBABILITIES, LABELS) == ((1, 1, 0), (1, 1, 0), (0, 0, 0))


def test_scores_of_each_class_follow_from_the_confusion_matrix():
    clear, nodule, absent = class_scores(PROBABILITIES, LABELS, ["clear", "nodule", "absent"])
    assert (clear.name, clear.images, clear.precision, clear.recall, clear.f1) == ("clear", 2, 0.5, 0.5, 0.5)
    assert nodule.recall == 0.5
    assert (absent.images, absent.precision, absent.recall) == (0, 0.0, 0.0)


def test_weights_count():
    scores = class_scores(PROBABILITIES, LABELS, list("abc"), weights=np.array([3.0, 1.0, 1.0, 1.0]))
    assert scores[0].recall == pytest.approx(0.75)
