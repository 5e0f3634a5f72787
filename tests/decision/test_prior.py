import numpy as np
import pytest

from consilia.decision.prior import correct_prior, prevalence_of, read_prevalence
from consilia.errors import UserError
from consilia.metrics.scores import softmax

CLASSES = ("normal", "pneumonia", "tumour")


def test_a_correction_gives_the_probabilities_that_bayes_gives_in_the_other_population():
    generator = np.random.default_rng(0)
    likelihoods = generator.random((50, 3))  # of each image under each class
    trained, deployed = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.09, 0.01])
    there, here = (likelihoods * prior / (likelihoods @ prior)[:, None] for prior in (trained, deployed))
    np.testing.assert_allclose(correct_prior(there, trained=trained, deployed=deployed), here)


def test_corrected_probabilities_are_calibrated_in_a_sample_of_the_other_population():
    generator = np.random.default_rng(1)
    labels = generator.choice(2, p=[0.5, 0.5], size=200_000)
    images = generator.normal(labels, 1.0)
    probabilities = softmax(np.stack([-0.5 * images**2, -0.5 * (images - 1) ** 2], axis=1))
    rare = (labels == 0) | (generator.random(len(labels)) < 1 / 9)  # now one in ten is a case
    corrected = correct_prior(probabilities[rare], trained=np.array([0.5, 0.5]), deployed=np.array([0.9, 0.1]))
    for low in (0.05, 0.1, 0.2, 0.3):
        near = np.abs(corrected[:, 1] - low) < 0.01
        assert labels[rare][near].mean() == pytest.approx(low, abs=4 * np.sqrt(low / near.sum()))


def test_the_same_prevalence_changes_nothing_and_a_correction_can_be_undone():
    probabilities = softmax(np.random.default_rng(0).normal(size=(20, 3)))
    here, there = np.array([0.2, 0.3, 0.5]), np.array([0.8, 0.1, 0.1])
    np.testing.assert_allclose(correct_prior(probabilities, trained=here, deployed=here), probabilities)
    away = correct_prior(probabilities, trained=here, deployed=there)
    np.testing.assert_allclose(correct_prior(away, trained=there, deployed=here), probabilities)


def test_every_patient_weighs_one_in_the_prevalence_of_training():
    labels = np.array([0, 1, 1, 1])
    patients = np.array(["a", "b", "b", "b"])
    np.testing.assert_allclose(prevalence_of(labels, patients, 3), [0.5, 0.5, 0.0])


def test_a_class_that_is_left_out_has_the_rest():
    np.testing.assert_allclose(read_prevalence({"tumour": 0.01, "pneumonia": 0.09}, CLASSES), [0.9, 0.09, 0.01])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"pneumonia": 0.1, "covid": 0.1}, "must name classes of normal, pneumonia, tumour, but names covid"),
        ({"pneumonia": 0.1}, "all classes but one, but lacks normal, tumour"),
        ({"normal": 0.5, "pneumonia": 0.5, "tumour": 0.1}, "must sum to 1, but sums to 1.1"),
        ({"normal": 0.7, "pneumonia": 0.5}, "prevalence of tumour must lie between 0 and 1, but is -0.2"),
        ({"normal": 1.0, "pneumonia": 0.0, "tumour": 0.0}, "normal must lie between 0 and 1, but is 1"),
        ({"normal": float("nan"), "pneumonia": 0.5}, "between 0 and 1, but is nan"),
    ],
)
def test_a_prevalence_that_is_none_is_refused_in_words(given, problem):
    with pytest.raises(UserError, match=problem):
        read_prevalence(given, CLASSES)
