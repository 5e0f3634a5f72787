import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from consilia.decision.combination import LARGEST_COEFFICIENT, LinearPool, Stack, centred_logs, combine
from consilia.metrics.scores import softmax

POOL = LinearPool(weights=(0.0, 0.75, 0.25))
GENERATOR = np.random.default_rng(0)
STACK = Stack(
    coefficients=[np.zeros((3, 3)).tolist(), *GENERATOR.normal(size=(2, 3, 3)).tolist()],
    intercepts=(0.2, -0.3, 0.1),
    strength=10.0,
)
BOTH = pytest.mark.parametrize("combination", [POOL, STACK], ids=lambda each: each.kind)


@pytest.fixture
def candidates():
    return softmax(np.random.default_rng(1).normal(size=(3, 4, 20, 3)))  # of 4 folds


@BOTH
def test_only_members_count(combination, candidates):
    assert combination.members == (1, 2)
    expected = combine(candidates, combination)
    assert expected.shape == candidates.shape[1:]
    np.testing.assert_allclose(expected.sum(axis=-1), 1)
    others = np.concatenate([np.full_like(candidates[:1], 1 / 3), candidates[1:]])
    np.testing.assert_array_equal(combine(others, combination), expected)


@BOTH
def test_votes_are_of_members_only_and_sum_to_one(combination):
    assert combination.votes[0] == 0
    assert (combination.votes[1:] > 0).all()
    assert combination.votes.sum() == pytest.approx(1)


@BOTH
def test_it_survives_json_to_the_last_bit(combination):
    read = TypeAdapter(LinearPool | Stack).validate_json
    assert read(combination.model_dump_json()) == combination


def test_a_stack_adds_what_each_class_of_each_member_says(candidates):
    logs = centred_logs(candidates)
    scores = np.zeros((4, 20, 3))
    for member, from_class, to_class in np.ndindex(3, 3, 3):
        scores[..., to_class] += STACK.coefficients[member][from_class][to_class] * logs[member, ..., from_class]
    np.testing.assert_allclose(combine(candidates, STACK), softmax(scores + np.array(STACK.intercepts)))


def test_a_stack_without_the_others_says_the_same_of_the_members_alone(candidates):
    np.testing.assert_array_equal(combine(candidates[1:], STACK.without_others()), combine(candidates, STACK))


def test_shares_are_of_the_absolute_coefficients():
    sizes = [np.abs(matrix).sum() for matrix in STACK.coefficients]
    assert STACK.shares.tolist() == pytest.approx([size / sum(sizes) for size in sizes])


def test_a_member_that_is_sure_beyond_the_clip_counts_as_one_at_it():
    at, beyond = np.array([[[1e-5, 1.0]]]), np.array([[[1e-300, 1.0]]])
    np.testing.assert_array_equal(centred_logs(beyond), centred_logs(at))
    assert np.isfinite(centred_logs(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300, -2 * LARGEST_COEFFICIENT])
def test_coefficients_that_no_fit_gives_are_refused(wrong):
    content = STACK.model_dump()
    with pytest.raises(ValidationError, match="coefficients"):
        Stack.model_validate({**content, "coefficients": [[[wrong] * 3] * 3] * 3})
    with pytest.raises(ValidationError, match="intercepts"):
        Stack.model_validate({**content, "intercepts": [wrong] * 3})


@pytest.mark.parametrize("shape", [(3, 3, 2), (3, 2, 3), (1, 4, 4), (2, 0, 0)])
def test_coefficients_of_another_number_of_classes_are_refused(shape):
    with pytest.raises(ValidationError, match="matrices of 3 x 3"):
        Stack(coefficients=np.ones(shape).tolist(), intercepts=(0.0, 0.0, 0.0), strength=1.0)
