"""Patients as a whole: what their images say together."""

import numpy as np

from consilia.metrics.patients import pool_images


def test_images_of_a_patient_are_combined_by_their_geometric_mean():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    names, pooled = pool_images(probabilities, np.array(["b", "b", "a"]))
    geometric = np.sqrt(probabilities[0] * probabilities[1])
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(pooled, [[0.2, 0.8], geometric / geometric.sum()])


def test_more_copies_of_an_image_make_nobody_surer_and_the_order_is_irrelevant():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), size=30)
    patients = generator.integers(0, 7, 30).astype(str)
    _, once = pool_images(probabilities, patients)
    _, twice = pool_images(np.repeat(probabilities, 2, axis=0), np.repeat(patients, 2))
    order = generator.permutation(30)
    np.testing.assert_allclose(twice, once)
    np.testing.assert_allclose(pool_images(probabilities[order], patients[order])[1], once)
    np.testing.assert_allclose(once.sum(axis=1), 1)


def test_one_image_cannot_veto_a_class():
    _, pooled = pool_images(np.array([[0.0, 1.0], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]), np.array(["a"] * 4))
    assert pooled[0, 0] > 0.2
