import numpy as np
import pytest

from consilia.decision.combination import LinearPool, combine
from consilia.metrics.scores import softmax

POOL = LinearPool(weights=(0.0, 0.75, 0.25))


@pytest.fixture
def candidates():
    return softmax(np.random.default_rng(1).normal(size=(3, 4, 20, 3)))  # of 4 folds


def test_only_members_count(candidates):
    assert POOL.members == (1, 2)
    expected = combine(candidates, POOL)
    assert expected.shape == candidates.shape[1:]
    np.testing.assert_allclose(expected.sum(axis=-1), 1)
    others = np.concatenate([np.full_like(candidates[:1], 1 / 3), candidates[1:]])
    np.testing.assert_array_equal(combine(others, POOL), expected)


def test_shares_are_of_members_only_and_sum_to_one():
    assert POOL.shares[0] == 0
    assert (POOL.shares[1:] > 0).all()
    assert POOL.shares.sum() == pytest.approx(1)


def test_it_survives_json_to_the_last_bit():
    pool = LinearPool(weights=(0.1, 1 / 3, 1 - 0.1 - 1 / 3))
    assert LinearPool.model_validate_json(pool.model_dump_json()) == pool
