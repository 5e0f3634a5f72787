"""The broker is plain asyncio: its contract with a slot and its workers, without Ray."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from search_records import epoch, task

from consilia.config.records import TaskTaken, TrialOutcome
from consilia.tune.broker import Broker, TrialFailedError, WorkersLost


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, timeout=20))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_worker_waits_for_a_task_and_its_reports_come_out_in_order():
    async def main() -> None:
        broker = Broker()
        taking = asyncio.create_task(broker.take())
        await settle()
        assert not taking.done()
        await broker.assign(task(1))
        assert await taking == task(1)
        reports = [epoch(1, 0, 1, 0.5), epoch(1, 0, 2, 0.4)]
        for report in reports:
            await broker.report(report)
        done = TrialOutcome(number=1, state="finished")
        await broker.finish(done)
        taken = TaskTaken(number=1, attempt=1)
        assert [await broker.next_message() for _ in range(4)] == [taken, *reports, done]

    run(main())


def test_a_finished_task_is_not_given_out_again():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        await broker.finish(TrialOutcome(number=1, state="finished"))
        taking = asyncio.create_task(broker.take())
        await settle()
        assert not taking.done()
        await broker.assign(task(2))
        assert await taking == task(2)

    run(main())


def test_a_new_worker_takes_the_same_task_up_again_and_repeated_reports_are_dropped():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        await broker.report(epoch(1, 0, 1, 0.5))
        assert await broker.take() == task(1)  # the first worker was killed
        await broker.report(epoch(1, 0, 1, 0.5))
        await broker.report(epoch(1, 0, 2, 0.4))
        heard = [await broker.next_message() for _ in range(4)]
        assert [(each.attempt if isinstance(each, TaskTaken) else -each.epoch) for each in heard] == [1, -1, 2, -2]

    run(main())


def test_a_task_that_kills_every_worker_fails_instead_of_going_round_for_ever():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        for _ in range(4):
            assert await broker.take() == task(1)
        fifth = asyncio.create_task(broker.take())
        assert [(await broker.next_message()).attempt for _ in range(4)] == [1, 2, 3, 4]
        outcome = await broker.next_message()
        assert (outcome.state, outcome.number) == ("failed", 1)
        assert "died 4 times" in outcome.reason
        assert not fifth.done()
        await broker.assign(task(2))
        assert await fifth == task(2)

    run(main())


def test_losses_count_only_within_one_epoch_so_that_a_trial_that_gets_on_is_never_given_up():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        for each in range(1, 9):
            assert await broker.take() == task(1)
            await broker.report(epoch(1, 0, each, 0.5))
        for _ in range(4):
            assert await broker.take() == task(1)
            await broker.report(epoch(1, 0, 8, 0.5))  # nothing new
        fifth = asyncio.create_task(broker.take())
        messages = [await broker.next_message() for _ in range(8 + 8 + 4 + 1)]
        assert messages[-1].state == "failed"
        assert [each.attempt for each in messages if isinstance(each, TaskTaken)] == list(range(1, 13))
        fifth.cancel()

    run(main())


def test_the_next_assignment_stops_the_trial_under_way():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        row, fold = asyncio.create_task(broker.trial(1)), asyncio.create_task(broker.fold(1, 0))
        await settle()
        assert not row.done()
        await broker.assign(task(2))
        assert await row == "stopped"
        assert await fold == "stopped"
        await broker.report(epoch(1, 0, 3, 0.1))  # the old worker has not noticed yet
        await broker.finish(TrialOutcome(number=1, state="stopped"))
        await broker.report(epoch(2, 0, 1, 0.9))
        assert (await broker.next_message()).number == 2

    run(main())


def test_a_failed_trial_ends_its_rows_with_the_reason():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        row, fold = asyncio.create_task(broker.trial(1)), asyncio.create_task(broker.fold(1, 0))
        await settle()
        await broker.finish(TrialOutcome(number=1, state="failed", reason="the loss is not finite"))
        for each in (row, fold):
            with pytest.raises(TrialFailedError, match="not finite"):
                await each

    run(main())


def test_a_finished_fold_ends_its_row_and_leaves_the_trials_row():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        row, fold = asyncio.create_task(broker.trial(1)), asyncio.create_task(broker.fold(1, 0))
        await settle()
        await broker.report(epoch(1, 0, 2, 0.4, ends_fold=True))
        assert await fold == "ended"
        assert not row.done()

    run(main())


def test_closing_sends_workers_home_and_ends_the_rows():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        row = asyncio.create_task(broker.trial(1))
        await settle()
        await broker.close()
        assert await row == "closed"
        assert await broker.take() is None

    run(main())


def test_the_loss_of_all_workers_reaches_the_slot():
    async def main() -> None:
        broker = Broker()
        await broker.lose_workers("no node left")
        assert await broker.next_message() == WorkersLost("no node left")

    run(main())


def test_a_task_that_comes_after_the_loss_of_all_workers_hears_of_it_too():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.lose_workers("no node left")
        await broker.assign(task(2))
        assert await broker.next_message() == WorkersLost("no node left")

    run(main())


def test_the_stop_of_an_earlier_assignment_does_not_end_a_later_one_of_the_same_trial():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        await broker.assign(task(1))
        await broker.finish(TrialOutcome(number=1, state="stopped"))  # the worker has only now noticed
        assert await broker.take() == task(1)

    run(main())


class Clock:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_silence_counts_from_the_last_sign_of_life_and_only_while_a_worker_has_the_task():
    async def main() -> None:
        clock = Clock()
        broker = Broker(clock)
        await broker.assign(task(1))
        clock.now = 100.0
        assert await broker.silent_seconds() == 0.0  # no worker has come yet: a slot may wait for resources
        await broker.take()
        clock.now = 130.0
        assert await broker.silent_seconds() == 30.0
        await broker.alive()
        clock.now = 135.0
        assert await broker.silent_seconds() == 5.0
        await broker.report(epoch(1, 0, 1, 0.5))
        assert await broker.silent_seconds() == 0.0
        await broker.finish(TrialOutcome(number=1, state="finished"))
        clock.now = 999.0
        assert await broker.silent_seconds() == 0.0

    run(main())


def test_a_worker_that_was_given_up_is_not_watched_and_its_successor_learns_why():
    async def main() -> None:
        clock = Clock()
        broker = Broker(clock)
        await broker.assign(task(1))
        await broker.join(0, "first")
        await broker.take()
        clock.now = 50.0
        await broker.blame("it showed no sign of life for 50 s")
        assert await broker.silent_seconds() == 0.0
        assert await broker.workers() == ["first"]
        await broker.join(0, "second")
        await broker.take()
        assert await broker.workers() == ["second"]
        messages = [await broker.next_message() for _ in range(2)]
        assert messages[1] == TaskTaken(number=1, attempt=2, reason="it showed no sign of life for 50 s")
        clock.now = 60.0
        assert await broker.silent_seconds() == 10.0

    run(main())


def test_a_note_is_passed_on_even_with_an_epoch_that_was_heard_before():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1))
        await broker.take()
        await broker.report(epoch(1, 0, 1, 0.5))
        await broker.take()
        again = replace(epoch(1, 0, 1, 0.5), note="the checkpoint is damaged: the fold starts again")
        await broker.report(again)
        messages = [await broker.next_message() for _ in range(4)]
        assert messages[-1] == replace(again, is_repeat=True)

    run(main())


def test_a_task_is_untaken_until_a_worker_has_it_and_again_when_that_one_is_given_up():
    async def main() -> None:
        clock = Clock()
        broker = Broker(clock)
        assert await broker.untaken() == (0.0, False)
        clock.now = 10.0
        await broker.assign(task(1))
        clock.now = 30.0
        assert await broker.untaken() == (20.0, False)
        await broker.take()
        clock.now = 40.0
        assert await broker.untaken() == (0.0, False)
        await broker.blame("its process died")
        clock.now = 45.0
        assert await broker.untaken() == (5.0, True)
        await broker.report(epoch(1, 0, 1, 0.5))  # it was given up too early
        assert await broker.untaken() == (0.0, False)
        await broker.finish(TrialOutcome(number=1, state="finished"))
        clock.now = 99.0
        assert await broker.untaken() == (0.0, False)

    run(main())
