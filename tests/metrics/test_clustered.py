import numpy as np
import pytest
from scipy.stats import binomtest

from consilia.metrics.clustered import clustered_rate, sums_before


@pytest.mark.parametrize(("events", "n"), [(0, 59), (1, 30), (7, 40), (39, 40), (40, 40)])
def test_with_one_image_a_patient_the_bounds_are_clopper_pearsons(events, n):
    rate = clustered_rate(np.arange(n) < events, np.arange(n).astype(str))
    expected = binomtest(events, n).proportion_ci(0.90, method="exact")
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (rate.value, rate.images, rate.patients, rate.effective) == (events / n, n, n, pytest.approx(n))


@pytest.mark.parametrize("events", [0, 3, 20])
def test_images_that_go_wrong_together_count_as_one(events):
    single = np.arange(20) < events
    one = clustered_rate(single, np.arange(20).astype(str))
    five = clustered_rate(np.repeat(single, 5), np.repeat(np.arange(20), 5).astype(str))
    assert (five.low, five.high, five.effective) == pytest.approx((one.low, one.high, one.effective))


def test_images_that_go_wrong_singly_count_about_one_each():
    generator = np.random.default_rng(0)
    rate = clustered_rate(generator.random(3000) < 0.3, np.repeat(np.arange(1000), 3).astype(str))
    assert rate.effective == pytest.approx(3000, rel=0.1)


def test_few_events_do_not_show_that_images_are_independent():
    events = np.zeros(400, dtype=bool)
    events[0] = True
    rate = clustered_rate(events, np.repeat(np.arange(100), 4).astype(str))
    assert 100 <= rate.effective < 130


def test_copies_of_every_image_and_another_order_change_nothing():
    generator = np.random.default_rng(1)
    patients = generator.integers(0, 40, 150).astype(str)
    events = generator.random(150) < 0.2
    rows = generator.permutation(np.repeat(np.arange(150), 3))
    once, thrice = clustered_rate(events, patients), clustered_rate(events[rows], patients[rows])
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx((once.value, once.low, once.high))
    assert thrice.effective == pytest.approx(once.effective)


def test_a_patient_with_many_images_weighs_one():
    rate = clustered_rate(np.array([True] * 9 + [False]), np.array(["a"] * 9 + ["b"]))
    assert rate.value == 0.5


def test_the_upper_bound_holds_in_at_least_95_of_100_draws_of_correlated_images():
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(500):
        shares = generator.beta(0.5, 4.5, size=80)  # patients' own rates, mean 0.1
        images = generator.choice([1, 2, 6], size=80)
        events = generator.random(images.sum()) < np.repeat(shares, images)
        held += clustered_rate(events, np.repeat(np.arange(80), images).astype(str)).high >= 0.1
    assert held >= 500 * 0.95 - 3 * np.sqrt(500 * 0.95 * 0.05)


def test_no_image_has_no_rate():
    assert clustered_rate(np.array([], dtype=bool), np.array([], dtype=str)) is None


def test_earlier_values_of_the_same_group_are_summed():
    generator = np.random.default_rng(3)
    values, groups = generator.random(50), generator.integers(0, 7, 50)
    expected = [sum(values[j] for j in range(i) if groups[j] == groups[i]) for i in range(50)]
    np.testing.assert_allclose(sums_before(values, groups), expected, atol=1e-12)
