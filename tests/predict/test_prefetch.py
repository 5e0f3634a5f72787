import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consilia.predict.prefetch import in_batches, spare_threads, work_ahead


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("consilia-decode")]


def squares(items, *, ahead=4, n_threads=3, is_slow=lambda item: True):
    return work_ahead(items, lambda item: item * item, is_slow=is_slow, ahead=ahead, n_threads=n_threads)


@given(
    items=st.lists(st.integers(), max_size=20),
    ahead=st.integers(0, 6),
    n_threads=st.integers(1, 4),
    slow=st.sets(st.integers(0, 1)),
)
def test_results_come_in_the_order_of_the_items_whichever_are_slow(items, ahead, n_threads, slow):
    found = squares(items, ahead=ahead, n_threads=n_threads, is_slow=lambda item: item % 2 in slow)
    assert list(found) == [item * item for item in items]
    assert decoding_threads() == []


def test_a_later_item_that_is_ready_waits_for_an_earlier_one():
    second_is_done = threading.Event()

    def work(item):
        if item == 0:
            assert second_is_done.wait(30)
        else:
            second_is_done.set()
        return item

    assert list(work_ahead([0, 1], work, is_slow=lambda _: True, ahead=1, n_threads=2)) == [0, 1]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_slow_items_are_taken_so_many_ahead_and_no_more(ahead):
    taken = []

    def source():
        for number in range(30):
            taken.append(number)
            yield number

    for done, _ in enumerate(squares(source(), ahead=ahead), start=1):
        assert len(taken) == min(30, done + ahead)


def test_nothing_is_taken_past_an_item_in_memory():
    taken = []

    def source():
        for number in range(6):
            taken.append(number)
            yield number

    for done, _ in enumerate(squares(source(), is_slow=lambda item: item < 2), start=1):
        assert len(taken) == max(done, 3)  # 0 and 1 are slow, so 2 is taken before their turn


def test_items_in_memory_are_worked_on_by_the_caller_and_start_no_thread():
    threads = []
    results = work_ahead(
        [1, 2], lambda _: threads.append(threading.current_thread()), is_slow=lambda _: False, ahead=4, n_threads=2
    )
    next(results)
    assert decoding_threads() == []
    list(results)
    assert set(threads) == {threading.current_thread()}


def test_what_the_source_raises_comes_after_the_results_before_it():
    def source() -> Iterator[int]:
        yield from (1, 2, 3)
        raise KeyError("the archive ended")

    batches = in_batches(squares(source(), ahead=8), 2)
    assert next(batches) == [1, 4]
    assert next(batches) == [9]
    with pytest.raises(KeyError, match="the archive ended"):
        next(batches)
    assert decoding_threads() == []


def test_what_the_work_raises_comes_at_the_place_of_its_item():
    results = work_ahead([2, 1, 0, 3], lambda item: 6 // item, is_slow=lambda _: True, ahead=4, n_threads=2)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert decoding_threads() == []


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_leaving_early_ends_the_threads_and_what_was_not_begun(error):
    begun, may_go_on = [], threading.Event()

    def work(item):
        begun.append(item)
        if item > 0:
            assert may_go_on.wait(30)
        return item

    results = work_ahead(range(100), work, is_slow=lambda _: True, ahead=50, n_threads=2)
    assert next(results) == 0
    may_go_on.set()
    if error is None:
        results.close()
    else:
        with pytest.raises(error):
            results.throw(error)
    assert decoding_threads() == []
    assert len(begun) <= 51


def test_an_interrupted_source_is_not_kept_until_its_place():
    def source() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(squares(source()))
    assert decoding_threads() == []


@given(st.integers(0, 20), st.integers(1, 7))
def test_batches_are_full_but_for_the_last(n_items, size):
    batches = list(in_batches(squares(range(n_items)), size))
    assert [each for batch in batches for each in batch] == [item * item for item in range(n_items)]
    assert all(len(batch) == size for batch in batches[:-1])


@pytest.mark.parametrize(("n_torch", "expected"), [(1, 3), (3, 1), (4, 1), (1000, 1)])
def test_decoding_leaves_torch_s_threads_their_cores_but_has_at_least_one(monkeypatch, n_torch, expected):
    monkeypatch.setattr("consilia.predict.prefetch._count_cores", lambda: 4)
    monkeypatch.setattr("consilia.predict.prefetch.torch.get_num_threads", lambda: n_torch)
    assert spare_threads(torch.device("cpu")) == expected
    assert spare_threads(torch.device("cuda")) == 3
