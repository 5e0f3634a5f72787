"""Planted wrong labels are found, and right ones are left alone."""

import numpy as np
import pytest

from consilia.metrics.label_errors import suspect_labels
from consilia.metrics.scores import softmax


def drawn(n: int, *, seed: int, separation: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n)
    images = generator.normal(size=(n, 3)) + separation * np.eye(3)[labels]
    return softmax(images * separation), labels


def test_a_small_case_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.95, 0.05]])
    labels = np.array([0, 0, 1, 1, 1])
    # Bars: 0.8 for class 0, (0.8 + 0.6 + 0.05) / 3 for class 1. Only the last image passes another class's bar.
    found = suspect_labels(probabilities, labels)
    assert (found.rows.tolist(), found.suggested.tolist()) == ([4], [0])
    assert found.margins == pytest.approx([0.05 - 0.95])


def test_planted_errors_are_most_of_what_is_found_and_come_first():
    probabilities, truth = drawn(3000, seed=0)
    generator = np.random.default_rng(1)
    wrong = generator.random(3000) < 0.05
    labels = np.where(wrong, (truth + 1 + generator.integers(0, 2, 3000)) % 3, truth)
    found = suspect_labels(probabilities, labels)
    is_wrong = wrong[found.rows]
    assert is_wrong.sum() / wrong.sum() > 0.75
    assert is_wrong.mean() > 0.7
    assert is_wrong[: len(found.rows) // 2].mean() > is_wrong[len(found.rows) // 2 :].mean()
    assert (found.suggested == truth[found.rows])[is_wrong].mean() > 0.95
    assert (np.diff(found.margins) >= 0).all()


def test_a_model_that_agrees_with_every_label_suspects_none():
    labels = np.arange(30) % 3
    assert len(suspect_labels(np.eye(3)[labels] * 0.9 + 1 / 30, labels).rows) == 0


def test_the_order_of_images_and_the_names_of_classes_are_irrelevant():
    probabilities, labels = drawn(300, seed=2, separation=1.0)
    found = suspect_labels(probabilities, labels)
    order = np.random.default_rng(0).permutation(300)
    assert set(order[suspect_labels(probabilities[order], labels[order]).rows]) == set(found.rows)
    renamed = suspect_labels(probabilities[:, [2, 0, 1]], (labels + 1) % 3)
    assert set(renamed.rows) == set(found.rows)


def test_nobody_looks_like_a_class_that_no_image_is_labelled_with():
    probabilities = np.array([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    assert 1 not in suspect_labels(probabilities, np.array([0, 2])).suggested
