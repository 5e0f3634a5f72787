"""Requests that wait are predicted together, each gets its own results, and none is kept waiting at the end."""

import asyncio
import threading

import pytest
from starlette.exceptions import HTTPException

from consilia.serve.batching import MOST, PAUSE, PREDICTING, READING, Batcher, wait_for_threads


class Gate:
    """Predicts a letter by its capital, once it is let through."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.claims: list[bool] = []  # of threads that predict
        self.begun, self.may_end = threading.Event(), threading.Event()

    def claim(self, has_all: bool) -> None:
        if threading.current_thread().name.startswith(PREDICTING):
            self.claims.append(has_all)

    def __call__(self, images: list[str]) -> list[str]:
        self.calls.append(images)
        self.begun.set()
        assert self.may_end.wait(60)
        if "bad" in images:
            raise ValueError("bad")
        return [image.upper() for image in images]


def in_a_loop(check, most_waiting: int = 1000, n_predictors: int = 1) -> Gate:
    """Run `check` with a batcher whose predictor stands at a gate."""
    gate = Gate()

    async def run() -> None:
        batcher = Batcher(gate, claim=gate.claim, most_waiting=most_waiting, n_predictors=n_predictors, n_readers=1)
        batcher.start()
        try:
            await asyncio.wait_for(check(batcher, gate), 60)
        finally:
            batcher.stop()
            gate.may_end.set()

    asyncio.run(run())
    assert wait_for_threads(PREDICTING, 60)
    assert wait_for_threads(READING, 60)
    return gate


async def predict(batcher: Batcher[str, str], images: str) -> list[str]:
    """Predict letters as a request does, with a place for each."""
    with batcher.place(len(images)):
        return await batcher.predict(list(images))


async def until_begun(gate: Gate) -> None:
    await asyncio.get_running_loop().run_in_executor(None, gate.begun.wait, 60)


def test_what_comes_during_a_batch_is_predicted_in_one_call_and_divided():
    async def check(batcher, gate):
        first = asyncio.create_task(predict(batcher, "a"))
        await until_begun(gate)
        later = [asyncio.create_task(predict(batcher, names)) for names in ("bc", "d", "efg")]
        await asyncio.sleep(0)
        gate.may_end.set()
        assert await first == ["A"]
        assert [await each for each in later] == [["B", "C"], ["D"], ["E", "F", "G"]]

    assert in_a_loop(check).calls == [["a"], ["b", "c", "d", "e", "f", "g"]]


def test_a_batch_takes_no_further_request_once_it_is_large():
    async def check(batcher, gate):
        first = asyncio.create_task(predict(batcher, "a"))
        await until_begun(gate)
        large = asyncio.create_task(predict(batcher, "b" * MOST))
        last = asyncio.create_task(predict(batcher, "c"))
        gate.may_end.set()
        assert await last == ["C"]
        await asyncio.gather(first, large)

    assert [len(call) for call in in_a_loop(check).calls] == [1, MOST, 1]


def test_each_thread_that_predicts_takes_its_share_of_what_waits():
    async def check(batcher, gate):
        requests = [asyncio.create_task(predict(batcher, name)) for name in "abcdef"]
        while len(gate.calls) < 2:  # both are at the gate
            await asyncio.sleep(PAUSE)
        gate.may_end.set()
        assert [await each for each in requests] == [[name] for name in "ABCDEF"]

    gate = in_a_loop(check, n_predictors=2)
    assert [len(call) for call in gate.calls] == [3, 3]
    assert gate.claims == [False, False]


def test_a_batch_that_has_its_share_begins_before_another_is_collected():
    async def check(batcher, gate):
        gate.may_end.set()
        batcher._last_seconds = 6000.0  # what is being read is worth a long wait
        with batcher.place(2):
            assert await asyncio.gather(predict(batcher, "a"), predict(batcher, "b")) == [["A"], ["B"]]

    assert in_a_loop(check, n_predictors=2).calls == [["a", "b"]]


def test_work_has_all_of_the_machine_where_nothing_else_waits():
    async def check(batcher, gate):
        gate.may_end.set()
        assert await predict(batcher, "abc") == ["A", "B", "C"]
        with batcher.place(1):  # of a heat map
            await batcher.alone(lambda: None)
            assert gate.claims == [True, True]
            assert await predict(batcher, "d") == ["D"]
            with batcher.place(1):
                await batcher.alone(lambda: None)

    assert in_a_loop(check, n_predictors=2).claims == [True, True, False, False]


def test_images_that_are_still_being_read_are_waited_for_where_the_last_batch_took_long():
    async def check(batcher, gate):
        gate.may_end.set()
        batcher._last_seconds = 6000.0
        with batcher.place(2):
            first = asyncio.create_task(batcher.predict(["a"]))
            await asyncio.sleep(10 * PAUSE)
            assert gate.calls == []
            assert await batcher.predict(["b"]) == ["B"]
            assert await first == ["A"]
        batcher._last_seconds = 6000.0
        with batcher.place(1):
            assert await batcher.predict(["c"]) == ["C"]  # nobody else is to come

    assert in_a_loop(check).calls == [["a", "b"], ["c"]]


def test_a_batch_that_fails_fails_its_requests_alone():
    async def check(batcher, gate):
        gate.may_end.set()
        with pytest.raises(ValueError, match="bad"):
            await batcher.predict(["bad"])
        assert await batcher.predict(["a"]) == ["A"]

    in_a_loop(check)


def test_images_that_there_is_no_room_for_are_refused_at_once():
    async def check(batcher, gate):
        with batcher.place(2):
            assert batcher.n_waiting == 2
            with pytest.raises(HTTPException) as refused, batcher.place(2):
                pass
            assert refused.value.status_code == 503
            assert refused.value.headers == {"Retry-After": "1"}
            with batcher.place(1):
                assert batcher.n_waiting == 3
        assert batcher.n_waiting == 0

    in_a_loop(check, most_waiting=3)


def test_files_are_read_while_a_batch_is_predicted():
    async def check(batcher, gate):
        first = asyncio.create_task(batcher.predict(["a"]))
        await until_begun(gate)
        assert await batcher.read(lambda: "read") == "read"
        assert not first.done()
        gate.may_end.set()
        await first

    in_a_loop(check)


def test_other_work_has_the_thread_to_itself():
    async def check(batcher, gate):
        first = asyncio.create_task(batcher.predict(["a"]))
        await until_begun(gate)
        alone = asyncio.create_task(batcher.alone(lambda: (len(gate.calls), threading.current_thread().name)))
        await asyncio.sleep(0)
        assert not alone.done()
        gate.may_end.set()
        await first
        n_calls, thread = await alone
        assert n_calls == 1
        assert thread.startswith("consilia-predict")

    in_a_loop(check)


def test_nobody_waits_once_it_stops():
    async def check(batcher, gate):
        first = asyncio.create_task(batcher.predict(["a"]))
        await until_begun(gate)
        waiting = [
            first,
            asyncio.create_task(batcher.predict(["b"])),
            asyncio.create_task(batcher.alone(lambda: None)),
            asyncio.create_task(batcher.read(gate.may_end.wait)),
        ]
        await asyncio.sleep(0)
        batcher.stop()
        for task in waiting:
            with pytest.raises(HTTPException, match="stopping"):
                await task
        with pytest.raises(HTTPException, match="stopping"):
            await batcher.predict(["b"])
        with pytest.raises(HTTPException, match="stopping"), batcher.place(1):
            pass
        assert not gate.may_end.is_set()

    in_a_loop(check)
