import json

import pytest

from consilia.predict.timing import BUDGET_SECONDS, Timing, compare
from consilia.predict.timing_file import MOST_TIMINGS, recall, remember, timings_file

TIMING = Timing(in_turn=0.02, together=0.01)


class Watch:
    """A clock that only the measured work moves."""

    def __init__(self):
        self.now = 0.0
        self.passes = []

    def __call__(self):
        return self.now

    def work(self, name, *seconds):
        """Take the given seconds, pass after pass; the last of them for all further passes."""
        left = list(seconds)

        def run():
            self.passes.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_the_least_of_several_passes_counts_and_the_first_of_each_does_not():
    watch = Watch()
    found = compare(watch.work("in turn", 9, 0.3, 0.2, 0.4), watch.work("together", 9, 0.2, 0.1, 0.3), clock=watch)
    assert (found.in_turn, found.together) == pytest.approx(
        (0.3, 0.2)
    )  # the budget is used up, so nothing is tried again
    watch = Watch()
    found = compare(watch.work("in turn", 0.1, 0.03, 0.02), watch.work("together", 0.1, 0.02, 0.01), clock=watch)
    assert (found.in_turn, found.together) == pytest.approx((0.02, 0.01))


def test_heavy_networks_are_not_tried_together():
    watch = Watch()
    found = compare(watch.work("in turn", 0.9), watch.work("together", 0.001), clock=watch)
    assert (found.in_turn, found.together) == (pytest.approx(0.9), None)
    assert not found.is_together_faster
    assert "together" not in watch.passes


def test_measuring_stays_within_its_budget_but_for_the_passes_under_way():
    watch = Watch()
    compare(watch.work("in turn", 0.4), watch.work("together", 0.5), clock=watch)
    assert watch.now < BUDGET_SECONDS + 0.9


@pytest.mark.parametrize(
    ("together", "expected"), [(0.5, True), (0.9, True), (0.95, False), (1.2, False), (None, False)]
)
def test_running_together_must_be_clearly_faster(together, expected):
    assert Timing(in_turn=1.0, together=together).is_together_faster is expected


# --- the file


def test_a_timing_is_remembered_and_replaced(tmp_path):
    path = tmp_path / "cache" / "execution.json"
    assert recall(path, "a") is None
    remember(path, "a", TIMING)
    remember(path, "b", Timing(in_turn=3.0, together=None))
    assert recall(path, "a") == TIMING
    assert recall(path, "b") == Timing(in_turn=3.0, together=None)
    remember(path, "a", Timing(in_turn=5.0, together=4.0))
    assert recall(path, "a") == Timing(in_turn=5.0, together=4.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"schema": 2, "seconds": {"a": {"in_turn": 0.02, "together": 0.01}}}',
        '{"schema": 1, "seconds": []}',
        '{"schema": 1, "seconds": {"a": {"in_turn": -1.0, "together": 0.01}}}',
        '{"schema": 1, "seconds": {"a": {"in_turn": NaN, "together": 0.01}}}',
        '{"schema": 1, "seconds": {"a": {"in_turn": true, "together": "fast"}}}',
        '{"schema": 1, "seconds": {"a": null}}',
    ],
)
def test_a_damaged_file_knows_nothing_and_is_written_anew(tmp_path, text):
    path = tmp_path / "execution.json"
    path.write_text(text)
    assert recall(path, "a") is None
    remember(path, "b", TIMING)
    assert recall(path, "b") == TIMING


def test_what_cannot_be_written_is_passed_over(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "execution.json"
    remember(path, "a", TIMING)
    assert recall(path, "a") is None


def test_the_file_does_not_grow_without_end(tmp_path):
    path = tmp_path / "execution.json"
    full = {f"old-{number}": {"in_turn": 0.1, "together": None} for number in range(MOST_TIMINGS)}
    path.write_text(json.dumps({"schema": 1, "seconds": full}))
    remember(path, "new", TIMING)
    assert recall(path, "new") == TIMING
    assert recall(path, "old-0") is None
    assert recall(path, "old-1") is not None


def test_the_file_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert timings_file() == tmp_path / "consilia" / "execution.json"
