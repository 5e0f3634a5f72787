import numpy as np
import pytest
from scipy.stats import entropy

from consilia.decision.disagreement import measure_disagreement, mutual_information
from consilia.ensemble.uncertainty import disagreement_limit
from consilia.metrics.scores import softmax


def voices(generator, *, n_folds, n_images, n_members=3, spread=0.5):
    """Members (n_members, n_folds, n_images, 3) that differ more about some images than about others."""
    common = generator.normal(size=(n_images, 3)) * 2
    dispute = spread * generator.lognormal(0, 0.7, size=(n_images, 1))
    return softmax(common + dispute * generator.normal(size=(n_members, n_folds, n_images, 3)))


def everyone(n_images):
    return np.arange(n_images).astype(str)


def test_it_is_the_mean_divergence_of_the_members_from_their_mean():
    probabilities = voices(np.random.default_rng(0), n_folds=1, n_images=50)[:, 0]
    weights = np.array([0.5, 0.3, 0.2])
    mean = np.tensordot(weights, probabilities, axes=1)
    divergences = [entropy(member, mean, axis=1) for member in probabilities]
    assert mutual_information(probabilities, weights) == pytest.approx(np.average(divergences, axis=0, weights=weights))


def test_equal_members_disagree_about_nothing_however_unsure_they_are():
    same = np.broadcast_to(np.array([[0.4, 0.35, 0.25], [1, 0, 0]]), (4, 2, 3))
    assert mutual_information(same, np.full(4, 0.25)) == pytest.approx([0, 0], abs=1e-15)
    assert (mutual_information(same, np.full(4, 0.25)) >= 0).all()


def test_two_that_are_certain_of_different_classes_reach_log_2():
    opposite = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert mutual_information(opposite, np.array([0.5, 0.5])) == pytest.approx([np.log(2)])


def test_neither_the_order_of_folds_nor_that_of_members_matters():
    members, weights = voices(np.random.default_rng(1), n_folds=5, n_images=20), np.array([0.5, 0.3, 0.2])
    expected = measure_disagreement(members, weights)
    assert measure_disagreement(members[:, ::-1], weights) == pytest.approx(expected)
    assert measure_disagreement(members[::-1], weights[::-1]) == pytest.approx(expected)


def test_folds_that_differ_while_their_members_agree_are_no_disagreement():
    folds = voices(np.random.default_rng(2), n_folds=3, n_images=10)[:1]
    members = np.concatenate([folds, folds])
    assert measure_disagreement(members, np.array([0.5, 0.5])) == pytest.approx(np.zeros(10), abs=1e-15)


def test_a_single_member_is_compared_over_folds_and_has_no_limit():
    members = voices(np.random.default_rng(3), n_folds=4, n_images=10, n_members=1)
    expected = mutual_information(members[0], np.full(4, 0.25))
    assert measure_disagreement(members, np.ones(1)) == pytest.approx(expected)
    candidates = voices(np.random.default_rng(3), n_folds=1, n_images=10)[:, 0]
    assert disagreement_limit(candidates, np.array([0.0, 1.0, 0.0]), everyone(10)) is None


def test_five_percent_of_the_patients_lie_above_the_limit():
    candidates, weights = voices(np.random.default_rng(4), n_folds=1, n_images=1000)[:, 0], np.array([0.6, 0.4, 0.0])
    limit = disagreement_limit(candidates, weights, everyone(1000))
    above = mutual_information(candidates, weights) > limit
    assert above.sum() == 50


def test_a_patient_with_many_images_counts_once():
    candidates, weights = voices(np.random.default_rng(5), n_folds=1, n_images=200)[:, 0], np.array([0.6, 0.2, 0.2])
    worst = int(mutual_information(candidates, weights).argmax())
    rows = np.append(np.arange(200), np.full(100, worst))
    repeated = disagreement_limit(candidates[:, rows], weights, everyone(200)[rows])
    assert repeated == disagreement_limit(candidates, weights, everyone(200))


def test_candidates_without_weight_do_not_move_the_limit():
    candidates = voices(np.random.default_rng(6), n_folds=1, n_images=100)[:, 0]
    alone = disagreement_limit(candidates[:2], np.array([0.5, 0.5]), everyone(100))
    assert disagreement_limit(candidates, np.array([0.5, 0.5, 0.0]), everyone(100)) == alone


@pytest.mark.parametrize("n_folds", [1, 2, 3, 5])
def test_new_images_are_flagged_at_most_as_often_as_promised(n_folds):
    weights = np.array([0.5, 0.3, 0.2])
    generator = np.random.default_rng(7)
    limit = disagreement_limit(voices(generator, n_folds=1, n_images=20_000)[:, 0], weights, everyone(20_000))
    new = measure_disagreement(voices(generator, n_folds=n_folds, n_images=20_000), weights)
    share = (new > limit).mean()
    if n_folds == 1:  # what the limit was taken from: 5 %, within three standard errors of both samples
        assert share == pytest.approx(0.05, abs=3 * np.sqrt(2 * 0.05 * 0.95 / 20_000))
    else:  # the median of several scatters less
        assert 0.01 < share < 0.05
