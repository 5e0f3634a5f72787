"""The broker is plain asyncio: its contract with relays, workers and those who look after them, without Ray."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_records import epoch, task

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialTask
from consilia.tune.broker import Broker, BrokerLost, Counts, Job, Taken, TrialFailedError, WorkerId

JOB = Job(program="a reference", n_folds=2)
FIRST, SECOND = WorkerId("here", 0), WorkerId("here", 1)
ELSEWHERE = WorkerId("elsewhere", 0)

Call = Coroutine[Any, Any, Any]


class Worker:
    """A worker process as the broker meets it; a second one in the same place is its successor."""

    def __init__(self, broker: Broker, place: WorkerId = FIRST, *, exclusive: bool = False) -> None:
        self.broker, self.place, self.exclusive = broker, place, exclusive
        self.number, self.ticket = -1, ""

    async def take(self) -> TrialTask | None:
        taken = await self.broker.take(self.place, self, exclusive=self.exclusive)
        if taken is None:
            return None
        assert taken.job == JOB
        self.number, self.ticket = taken.task.number, taken.ticket
        return taken.task

    async def report(self, report: EpochReport) -> None:
        await self.broker.report(report, self.ticket)

    async def finish(self, state: str = "finished", reason: str = "") -> None:
        await self.broker.finish(TrialOutcome(number=self.number, state=state, reason=reason), self.ticket)

    async def refuse(self, reason: str = "no images", *, is_last: bool = False) -> None:
        given = Taken(task(self.number), JOB, self.ticket)
        await self.broker.refuse(self.place, given, reason, is_last=is_last)

    def trial(self) -> Call:
        return self.broker.trial(self.number, self.ticket)

    def fold(self, fold: int) -> Call:
        return self.broker.fold(self.number, self.ticket, fold)


def run(main: Call) -> None:
    asyncio.run(asyncio.wait_for(main, timeout=20))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def begin(call: Call) -> "asyncio.Task[Any]":
    """Start a call that may have to wait, and let it come as far as it gets."""
    started = asyncio.create_task(call)
    await settle()
    return started


async def messages(broker: Broker, number: int, n: int) -> list[Any]:
    return [await broker.next_message(number) for _ in range(n)]


def taken(number: int, attempt: int = 1, reason: str = "") -> TaskTaken:
    return TaskTaken(number=number, attempt=attempt, reason=reason)


def finished(number: int) -> TrialOutcome:
    return TrialOutcome(number=number, state="finished")


# --- tasks go in, and reports come out


def test_a_worker_waits_for_a_task_and_its_reports_come_out_in_order():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        taking = await begin(worker.take())
        assert not taking.done()
        await broker.assign(task(1), JOB)
        assert await taking == task(1)
        reports = [epoch(1, 0, 1, 0.5), epoch(1, 0, 2, 0.4)]
        for report in reports:
            await worker.report(report)
        await worker.finish()
        assert await messages(broker, 1, 4) == [taken(1), *reports, finished(1)]

    run(main())


def test_whoever_waits_for_the_next_message_hears_it_when_it_comes():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB)
        asking = await begin(broker.next_message(1))
        assert not asking.done()
        await Worker(broker).take()
        assert await asking == taken(1)

    run(main())


def test_two_workers_train_two_trials_and_each_trial_has_messages_of_its_own():
    async def main() -> None:
        broker = Broker()
        for number in (1, 2):
            await broker.assign(task(number), JOB)
        first, second = Worker(broker, FIRST), Worker(broker, SECOND)
        assert [await first.take(), await second.take()] == [task(1), task(2)]
        await second.report(epoch(2, 0, 1, 0.2))
        await first.report(epoch(1, 0, 1, 0.1))
        await second.finish()
        assert await messages(broker, 1, 2) == [taken(1), epoch(1, 0, 1, 0.1)]
        assert await messages(broker, 2, 3) == [taken(2), epoch(2, 0, 1, 0.2), finished(2)]

    run(main())


def test_a_finished_task_is_not_given_out_again():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        await worker.finish()
        taking = await begin(worker.take())
        assert not taking.done()
        await broker.assign(task(2), JOB)
        assert await taking == task(2)

    run(main())


def test_repeated_reports_are_dropped_but_their_notes_are_passed_on():
    async def main() -> None:
        broker = Broker()
        killed, worker = Worker(broker), Worker(broker)
        await broker.assign(task(1), JOB)
        await killed.take()
        await killed.report(epoch(1, 0, 1, 0.5))
        await worker.take()
        again = replace(epoch(1, 0, 1, 0.5), note="the checkpoint is damaged: the fold starts again")
        await worker.report(epoch(1, 0, 1, 0.5))
        await worker.report(again)
        await worker.report(epoch(1, 0, 2, 0.4))
        news = [epoch(1, 0, 1, 0.5), taken(1, 2), replace(again, is_repeat=True), epoch(1, 0, 2, 0.4)]
        assert await messages(broker, 1, 5) == [taken(1), *news]

    run(main())


def test_a_broker_that_was_started_again_says_so_of_every_trial_and_sends_its_worker_away():
    async def main() -> None:
        before, broker = Broker(), Broker()
        worker = Worker(before)
        await before.assign(task(1), JOB)
        await worker.take()
        worker.broker = broker
        assert await broker.next_message(1) == BrokerLost()
        for is_assigned_again in (False, True):
            await worker.report(epoch(1, 0, 1, 0.5))
            await worker.finish()
            await broker.alive(1, worker.ticket)
            assert [await worker.trial(), await worker.fold(0)] == ["stopped", "stopped"]
            if not is_assigned_again:
                await broker.assign(task(1), JOB)
        assert await worker.take() == task(1)
        assert await broker.next_message(1) == taken(1)

    run(main())


# --- a task is one worker's at a time


def test_withdrawing_a_trial_tells_its_worker_to_leave_and_forgets_it():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        for number in (1, 2):
            await broker.assign(task(number), JOB)
        await worker.take()
        row, fold = await begin(worker.trial()), await begin(worker.fold(0))
        assert [row.done(), fold.done()] == [False, False]
        for number in (1, 2):
            await broker.withdraw(number)
        assert [await row, await fold] == ["stopped", "stopped"]
        await worker.report(epoch(1, 0, 3, 0.1))  # it has not noticed yet
        await worker.finish("stopped")
        assert await broker.next_message(1) == BrokerLost()
        assert await broker.counts() == Counts(ordinary=0, exclusive=0)
        taking = await begin(worker.take())
        assert not taking.done()

    run(main())


def test_a_worker_learns_that_nobody_will_go_on_with_its_trial():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        row = await begin(worker.trial())
        await broker.withdraw(1, is_over=True)
        await broker.withdraw(1)  # as its relay does too
        assert await row == "over"

    run(main())


def test_a_trial_that_is_assigned_again_is_nobodys_before_its_worker_has_let_go_of_it():
    async def main() -> None:
        broker = Broker()
        first, second = Worker(broker, FIRST), Worker(broker, SECOND)
        await broker.assign(task(1), JOB)
        await first.take()
        await broker.assign(task(1, lr=0.1), JOB)
        other = await begin(second.take())
        await first.report(epoch(1, 0, 1, 0.5))  # it has not noticed yet
        await first.finish("stopped")  # and has still files open
        await settle()
        assert not other.done()
        assert await first.take() == task(1, lr=0.1)
        await first.finish()
        assert await messages(broker, 1, 2) == [taken(1), finished(1)]
        await broker.assign(task(2), JOB)
        assert await other == task(2)

    run(main())


@pytest.mark.parametrize(
    "lose",
    [
        lambda broker: broker.lose_worker(FIRST),
        lambda broker: broker.lose_group(FIRST.group),
        lambda broker: begin(Worker(broker, FIRST, exclusive=True).take()),
    ],
    ids=["it is lost", "its group is lost", "its successor asks"],
)
def test_a_trial_that_was_assigned_again_is_free_once_the_worker_that_was_to_leave_it_is_gone(
    lose: Callable[[Broker], Awaitable[object]],
):
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB)
        await Worker(broker, FIRST).take()
        await broker.assign(task(1), JOB)
        other = await begin(Worker(broker, ELSEWHERE).take())
        assert not other.done()
        await lose(broker)
        assert await other == task(1)
        assert await broker.next_message(1) == taken(1)  # the first of this assignment

    run(main())


def test_a_worker_that_was_taken_for_lost_is_told_to_leave_and_no_longer_believed():
    async def main() -> None:
        broker = Broker()
        first, second = Worker(broker, FIRST), Worker(broker, SECOND)
        await broker.assign(task(1), JOB)
        await first.take()
        row = await begin(first.trial())
        await broker.lose_worker(FIRST)
        assert await row == "closed"
        await second.take()
        await first.report(epoch(1, 0, 1, 0.5))
        await first.finish("failed", "its files were in use")
        await second.report(epoch(1, 0, 1, 0.6))
        await second.finish()
        assert await messages(broker, 1, 4) == [taken(1), taken(1, 2), epoch(1, 0, 1, 0.6), finished(1)]

    run(main())


def test_what_a_worker_knows_too_late_of_its_task_reaches_it_at_once():
    """Its rows are opened by calls that may come in after the task has gone to another."""

    async def main() -> None:
        broker = Broker()
        first, second = Worker(broker, FIRST), Worker(broker, ELSEWHERE)
        await broker.assign(task(1), JOB)
        await first.take()
        await broker.close([FIRST.group])
        assert [await first.trial(), await first.fold(0)] == ["stopped", "stopped"]
        assert await first.take() is None
        await second.take()
        assert [await first.trial(), await first.fold(0)] == ["stopped", "stopped"]

    run(main())


def test_a_task_that_its_worker_has_left_unasked_is_handed_out_again_and_costs_the_trial_nothing():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        for _ in range(9):
            assert await worker.take() == task(1)
            await worker.finish("stopped")  # it took the broker for dead
        assert [each.attempt for each in await messages(broker, 1, 9)] == list(range(1, 10))

    run(main())


# --- workers are lost


def test_the_task_of_a_lost_worker_is_the_next_that_another_gets_who_learns_why():
    async def main() -> None:
        broker = Broker()
        for number in (1, 2):
            await broker.assign(task(number), JOB)
        await Worker(broker, FIRST).take()
        await broker.lose_worker(FIRST, "OSError: no such file")
        assert await Worker(broker, SECOND).take() == task(1)
        assert await messages(broker, 1, 2) == [taken(1), taken(1, 2, "OSError: no such file")]

    run(main())


@pytest.mark.parametrize("is_told", [True, False], ids=["Ray Train says so", "the successor asks"])
def test_a_task_that_kills_every_worker_fails_instead_of_going_round_for_ever(is_told: bool):
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB)
        for _ in range(4):
            assert await Worker(broker).take() == task(1)
            if is_told:
                await broker.lose_worker(FIRST, "it met a bad image")
        fifth = await begin(Worker(broker).take())
        assert [each.attempt for each in await messages(broker, 1, 4)] == [1, 2, 3, 4]
        outcome = await broker.next_message(1)
        assert (outcome.state, outcome.number) == ("failed", 1)
        assert "died 4 times" in outcome.reason
        assert ("the last time because it met a bad image" in outcome.reason) is is_told
        assert not fifth.done()
        await broker.assign(task(2), JOB)
        assert await fifth == task(2)

    run(main())


def test_nothing_is_heard_of_a_trial_after_its_end():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        for _ in range(2):
            await worker.finish("failed", "the loss is not finite")
            await worker.report(epoch(1, 0, 1, 0.5))
        assert [each.number for each in await messages(broker, 1, 2)] == [1, 1]
        asking = await begin(broker.next_message(1))
        assert not asking.done()

    run(main())


def test_losses_count_only_within_one_epoch_so_that_a_trial_that_gets_on_is_never_given_up():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB)
        for at in [*range(1, 9), 8, 8, 8]:  # nothing new at the end
            worker = Worker(broker)
            assert await worker.take() == task(1)
            await worker.report(epoch(1, 0, at, 0.5))
            await broker.lose_worker(FIRST)
        heard = await messages(broker, 1, 11 + 8 + 1)
        assert heard[-1].state == "failed"
        assert [each.attempt for each in heard if isinstance(each, TaskTaken)] == list(range(1, 12))

    run(main())


async def lose_group(worker: Worker) -> None:
    await worker.broker.lose_group(worker.place.group)


async def close_group(worker: Worker) -> None:
    await worker.broker.close([worker.place.group])
    assert await worker.take() is None


@pytest.mark.parametrize(
    ("end", "attempts"),
    [(lose_group, range(1, 10)), (close_group, [1] * 9)],  # a group that is closed loses no worker
)
def test_a_trial_does_not_pay_for_its_group(end: Callable[[Worker], Awaitable[None]], attempts: Iterable[int]):
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB)
        for n in range(9):
            worker = Worker(broker, WorkerId(f"here#{n}", 0))
            assert await worker.take() == task(1)
            await end(worker)
        assert [each.attempt for each in await messages(broker, 1, 9)] == list(attempts)

    run(main())


def test_a_worker_that_dies_without_a_task_or_with_one_that_has_ended_costs_nobody_anything():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        await worker.finish()
        for place in (FIRST, FIRST, SECOND):  # the last has never asked
            await broker.lose_worker(place)
        assert await messages(broker, 1, 2) == [taken(1), finished(1)]
        assert await broker.counts() == Counts(ordinary=0, exclusive=0)

    run(main())


@pytest.mark.parametrize(
    "lose",
    [lambda broker: broker.lose_worker(FIRST), lambda broker: broker.lose_group(FIRST.group)],
    ids=["the worker", "the group"],
)
def test_the_question_that_a_dead_worker_has_left_behind_gets_no_task(lose: Callable[[Broker], Awaitable[None]]):
    async def main() -> None:
        broker = Broker()
        stale = await begin(Worker(broker).take())
        await lose(broker)
        await broker.assign(task(1), JOB)
        assert await stale is None
        assert await Worker(broker).take() == task(1)

    run(main())


def test_of_two_questions_from_one_place_the_later_is_answered():
    async def main() -> None:
        broker = Broker()
        stale, asking = await begin(Worker(broker).take()), await begin(Worker(broker).take())
        await broker.assign(task(1), JOB)
        assert [await stale, await asking] == [None, task(1)]

    run(main())


# --- groups are closed


def test_closing_sends_workers_home_and_leaves_other_groups_alone():
    async def main() -> None:
        broker = Broker()
        first, second, elsewhere = (Worker(broker, place) for place in (FIRST, SECOND, ELSEWHERE))
        for number in (1, 2):
            await broker.assign(task(number), JOB)
        for worker in (first, elsewhere):
            await worker.take()
        rows = [await begin(worker.trial()) for worker in (first, elsewhere)]
        waiting = await begin(second.take())
        await broker.close([FIRST.group])
        assert [await waiting, await rows[0], await first.take()] == [None, "closed", None]
        assert not rows[1].done()
        assert await second.take() is None  # nor does one start that comes only now

    run(main())


def test_the_task_of_a_closed_group_is_the_next_that_another_gets_once_its_worker_has_let_go():
    async def main() -> None:
        broker = Broker()
        first, elsewhere = Worker(broker, FIRST), Worker(broker, ELSEWHERE)
        await broker.assign(task(1), JOB)
        await first.take()
        await first.report(epoch(1, 0, 1, 0.5))
        await broker.close([FIRST.group])
        other = await begin(elsewhere.take())
        assert not other.done()
        await broker.assign(task(2), JOB)
        assert await other == task(2)
        await first.finish("stopped")
        assert await first.take() is None
        await broker.assign(task(3), JOB)
        await elsewhere.finish()
        assert await elsewhere.take() == task(1)
        await elsewhere.report(epoch(1, 0, 1, 0.5))  # from the checkpoint
        await elsewhere.finish()
        assert await messages(broker, 1, 4) == [taken(1), epoch(1, 0, 1, 0.5), taken(1), finished(1)]

    run(main())


def test_a_task_that_ended_before_its_group_was_closed_is_not_handed_out_again():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        await worker.finish()
        await broker.close([FIRST.group])
        assert await worker.take() is None
        assert await broker.counts() == Counts(ordinary=0, exclusive=0)

    run(main())


def test_closing_a_group_again_changes_nothing():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        for _ in range(3):
            await broker.close([FIRST.group, "unknown"])
        assert await broker.counts() == Counts(ordinary=1, exclusive=0)
        assert await worker.take() is None
        assert await Worker(broker, ELSEWHERE).take() == task(1)
        other = await begin(Worker(broker, WorkerId("elsewhere", 1)).take())
        assert not other.done()

    run(main())


# --- exclusive tasks


def test_exclusive_tasks_go_to_exclusive_workers_alone_and_others_to_the_others():
    async def main() -> None:
        broker = Broker()
        large = replace(task(1), exclusive=True)
        alone = Worker(broker, ELSEWHERE, exclusive=True)
        ordinary, exclusive = await begin(Worker(broker, FIRST).take()), await begin(alone.take())
        await broker.assign(large, JOB)
        assert await exclusive == large
        await broker.lose_worker(ELSEWHERE)
        assert await alone.take() == large
        await alone.finish()
        exclusive = await begin(alone.take())
        assert not ordinary.done()
        await broker.assign(task(2), JOB)
        assert await ordinary == task(2)
        assert not exclusive.done()

    run(main())


def test_tasks_that_wait_or_are_under_way_are_counted_by_their_kind():
    async def main() -> None:
        broker = Broker()
        first, alone = Worker(broker, FIRST), Worker(broker, ELSEWHERE, exclusive=True)
        for number in range(5):
            await broker.assign(replace(task(number), exclusive=number > 2), JOB)
        assert await broker.counts() == Counts(ordinary=3, exclusive=2)
        for worker in (first, alone):
            await worker.take()
        assert await broker.counts() == Counts(ordinary=3, exclusive=2)
        await broker.lose_worker(FIRST)
        await broker.close([ELSEWHERE.group])
        assert await broker.counts() == Counts(ordinary=3, exclusive=2)
        await first.take()
        await first.finish()
        await broker.withdraw(1)
        await broker.withdraw(4)
        assert await broker.counts() == Counts(ordinary=1, exclusive=1)

    run(main())


# --- workers are watched


class Clock:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_silence_counts_from_a_workers_own_last_sign_of_life_and_only_while_it_has_a_task():
    async def main() -> None:
        clock = Clock()
        broker = Broker(clock)
        first, second = Worker(broker, FIRST), Worker(broker, SECOND)
        await begin(Worker(broker, ELSEWHERE, exclusive=True).take())  # waits for ever
        for number in (1, 2):
            await broker.assign(task(number), JOB)
        clock.now = 100.0
        assert await broker.hung(0) == []
        await first.take()
        clock.now = 110.0
        await second.take()
        clock.now = 130.0
        assert await broker.hung(25) == [first]
        await broker.alive(2, first.ticket)  # not its own
        clock.now = 140.0
        assert await broker.hung(25) == [second]
        clock.now = 150.0
        await broker.alive(1, first.ticket)
        await second.report(epoch(2, 0, 1, 0.5))
        clock.now = 170.0
        assert await broker.hung(25) == []
        await first.finish()
        await begin(first.take())
        clock.now = 190.0
        assert await broker.hung(25) == [second]

    run(main())


def test_a_worker_that_is_told_to_leave_and_hangs_is_ended_too():
    async def main() -> None:
        clock = Clock()
        broker = Broker(clock)
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        clock.now = 100.0
        await broker.withdraw(1)
        assert await broker.hung(25) == []  # it has had no time yet
        clock.now = 130.0
        assert await broker.hung(25) == [worker]

    run(main())


def test_a_worker_that_hangs_has_time_to_be_ended_and_its_successor_learns_why():
    async def main() -> None:
        clock = Clock()
        broker = Broker(clock)
        hung = Worker(broker)
        await broker.assign(task(1), JOB)
        await hung.take()
        clock.now = 50.0
        assert await broker.hung(20) == [hung]
        assert await broker.hung(20) == []
        await broker.lose_worker(FIRST, "ActorDiedError: by ray.kill")
        await Worker(broker).take()
        await broker.lose_worker(FIRST)
        await Worker(broker).take()
        reasons = [each.reason for each in await messages(broker, 1, 3)]
        assert reasons == ["", "it showed no sign of life for 50 s", ""]  # said once

    run(main())


def test_a_withdrawal_is_of_its_own_assignment_and_whoever_waits_for_a_message_hears_of_it():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB, "first relay")
        waiting = await begin(broker.next_message(1))
        await broker.assign(task(1), JOB, "second relay")
        assert isinstance(await waiting, BrokerLost)
        await broker.withdraw(1, "first relay")  # it comes late
        assert await Worker(broker).take() == task(1)

    run(main())


def test_a_group_has_the_handles_of_its_workers_that_have_asked_and_live():
    async def main() -> None:
        broker = Broker()
        first, second, elsewhere = (Worker(broker, place) for place in (FIRST, SECOND, ELSEWHERE))
        for worker in (first, second, elsewhere):
            await begin(worker.take())
        assert await broker.workers(["here"]) == {FIRST: first, SECOND: second}
        assert await broker.workers(["elsewhere", "unknown"]) == {ELSEWHERE: elsewhere}
        successor = Worker(broker, FIRST)
        await begin(successor.take())
        await broker.lose_worker(SECOND)
        assert await broker.workers(["here"]) == {FIRST: successor}
        await broker.close(["here"])
        await settle()
        assert await broker.workers(["here"]) == {}

    run(main())


# --- rows of the dashboard


def test_a_failed_trial_ends_its_rows_with_the_reason():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        row, fold = await begin(worker.trial()), await begin(worker.fold(0))
        await worker.finish("failed", "the loss is not finite")
        for each in (row, fold):
            with pytest.raises(TrialFailedError, match="not finite"):
                await each

    run(main())


def test_a_finished_fold_ends_its_row_and_leaves_the_others():
    async def main() -> None:
        broker = Broker()
        worker = Worker(broker)
        await broker.assign(task(1), JOB)
        await worker.take()
        row, fold, last = [await begin(each) for each in (worker.trial(), worker.fold(0), worker.fold(1))]
        await worker.report(epoch(1, 0, 1, 0.5))
        await settle()
        assert not fold.done()
        await worker.report(epoch(1, 0, 2, 0.4, ends_fold=True))
        assert await fold == "ended"
        assert [row.done(), last.done()] == [False, False]
        await worker.finish()
        assert [await row, await last] == ["ended", "ended"]

    run(main())


# --- whatever happens

PLACES = [WorkerId(group, rank) for group in ("closing", "staying") for rank in (0, 1)]
ACTIONS = ["assign", "assign", "withdraw", "close", "die", "lose", "work", "end", "ask"]


class Played:
    """Workers in two groups of two: each asks, trains until it is told to leave or the test ends it, and asks again."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.asking: dict[Worker, asyncio.Task[TrialTask | None]] = {}
        self.training: dict[Worker, asyncio.Task[str]] = {}  # with its trial's row

    async def look(self) -> None:
        """Let everybody come as far as they get: no trial is ever in two hands."""
        await settle()
        for worker, asking in list(self.asking.items()):
            if asking.done():
                del self.asking[worker]
                if asking.result() is not None:
                    self.training[worker] = await begin(worker.trial())
        numbers = [worker.number for worker in self.training]
        assert len(numbers) == len(set(numbers))

    async def ask(self, worker: Worker) -> None:
        self.asking[worker] = await begin(worker.take())
        await self.look()

    def die(self, worker: Worker) -> None:
        self.asking.pop(worker, None)
        self.training.pop(worker, None)

    async def act(self, action: str, number: int, place: WorkerId) -> None:
        here = [worker for worker in {**self.asking, **self.training} if worker.place == place]
        group = [worker for worker in {**self.asking, **self.training} if worker.place.group == place.group]
        if action == "assign":
            await self.broker.assign(task(number), JOB)
        elif action == "withdraw":
            await self.broker.withdraw(number)
        elif action == "close":
            await self.broker.close(["closing"])
        elif action == "die" and here:
            self.die(here[0])
            await self.broker.lose_worker(place)
        elif action == "lose":
            for worker in group:
                self.die(worker)
            await self.broker.lose_group(place.group)
        elif action == "ask" and not here:
            await self.ask(Worker(self.broker, place))
        elif action == "work" and here:
            await here[0].report(epoch(here[0].number, 0, number, 0.5))
        elif action == "end" and here and here[0] in self.training:
            row = self.training.pop(here[0])
            await here[0].finish("stopped" if row.done() else "finished")
            await self.ask(here[0])
        await self.look()


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 3), st.sampled_from(PLACES)), max_size=40))
def test_whatever_happens_no_trial_is_ever_in_two_hands_and_each_comes_to_its_end(
    actions: list[tuple[str, int, WorkerId]],
):
    async def main() -> None:
        played = Played()
        for place in PLACES:
            await played.act("ask", 0, place)
        for action in actions:
            await played.act(*action)
        for _ in range(8):
            for place in PLACES:
                await played.act("end", 0, place)
                await played.act("ask", 0, place)
        assert await played.broker.counts() == Counts(ordinary=0, exclusive=0)
        assert not played.training

    run(main())


# --- nodes that cannot train


def test_a_task_that_a_node_refuses_goes_to_another_and_costs_the_trial_nothing():
    async def main() -> None:
        broker = Broker()
        bad, good = Worker(broker, FIRST), Worker(broker, ELSEWHERE)
        await broker.assign(task(1), JOB)
        await bad.take()
        taking = await begin(good.take())
        await bad.refuse()
        assert await taking == task(1)
        again = await begin(bad.take())
        await good.finish()
        assert not again.done()
        assert await messages(broker, 1, 3) == [taken(1), taken(1), finished(1)]
        assert await broker.refusals() == {}

    run(main())


def test_a_task_that_a_node_has_refused_comes_back_only_while_there_is_no_other_node():
    async def main() -> None:
        broker = Broker()
        bad, good = Worker(broker, FIRST), Worker(broker, ELSEWHERE)
        await broker.assign(task(1), JOB)
        await bad.take()
        await bad.refuse()
        assert await bad.take() == task(1)  # it may have been for a moment
        await broker.assign(task(2), JOB)
        await good.take()
        await bad.refuse()
        again = await begin(bad.take())
        assert not again.done()
        await good.finish()
        assert await good.take() == task(1)

    run(main())


def test_a_task_that_two_nodes_refuse_fails_and_names_them():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB)
        for place in (FIRST, ELSEWHERE):
            worker = Worker(broker, place)
            await worker.take()
            await worker.refuse("its weights are missing")
        outcome = (await messages(broker, 1, 3))[-1]
        assert (outcome.state, outcome.reason) == (
            "failed",
            "it fails on two nodes, elsewhere and here: its weights are missing",
        )

    run(main())


def test_two_groups_of_one_node_are_one_node_to_a_trial_that_both_refuse():
    async def main() -> None:
        broker = Broker()
        await broker.assign(task(1), JOB)
        for name in ("workers#1", "workers#2", "exclusive#1"):
            place = WorkerId(name, 0)
            given = await broker.take(place, None, node="10.0.0.1")
            assert given is not None
            await broker.refuse(place, given, "no images", is_last=True)
        assert await Worker(broker, ELSEWHERE).take() == task(1)

    run(main())


def test_sixty_trials_on_a_node_that_reads_no_images_beside_one_that_does_cost_no_trial():
    async def main() -> None:
        broker = Broker()
        for number in range(60):
            await broker.assign(task(number), JOB)

        async def train(worker: Worker) -> None:
            while await worker.take() is not None:
                await worker.finish()

        async def refuse(worker: Worker) -> None:
            for n in range(2):
                await worker.take()
                await worker.refuse(is_last=n == 1)

        good = asyncio.create_task(train(Worker(broker, ELSEWHERE)))
        for rank in range(3):
            await refuse(Worker(broker, WorkerId("here", rank)))
        for number in range(60):
            while not isinstance(said := await broker.next_message(number), TrialOutcome):
                assert said == taken(number)
            assert said == finished(number)
        assert {place.rank for place in await broker.refusals()} == {0, 1, 2}
        good.cancel()

    run(main())


# --- the driver's disk, and workers that have not let go yet


def test_a_worker_has_its_task_in_hand_until_it_asks_for_the_next():
    async def main() -> None:
        broker = Broker()
        worker, other = Worker(broker), Worker(broker, SECOND)
        assert await broker.busy() == 0
        await broker.assign(task(1), JOB)
        await broker.assign(task(2), JOB)
        await worker.take()
        await other.take()
        await worker.finish()
        await broker.withdraw(2)
        assert await broker.busy() == 2, "both may be writing still"
        asking = [await begin(each.take()) for each in (worker, other)]
        assert await broker.busy() == 0
        for each in asking:
            each.cancel()

    run(main())


def test_files_are_read_and_written_where_the_broker_runs_and_an_error_of_the_disk_is_an_answer(tmp_path: Path):
    async def main() -> None:
        broker = Broker()
        file, part = tmp_path / "trial" / "result.json", np.frombuffer(b"{}", np.uint8)
        assert await broker.disk("write", file, part, upload="1", offset=0, is_last=True) is None
        assert await broker.disk("sizes", (file, tmp_path / "missing")) == {file: 2}
        assert bytes(await broker.disk("read", file, 0)) == b"{}"
        error = await broker.disk("write", file / "below", part, upload="1", offset=0, is_last=True)
        assert isinstance(error, NotADirectoryError | FileExistsError)
        await broker.disk("remove", file)
        assert not file.exists()

    run(main())
