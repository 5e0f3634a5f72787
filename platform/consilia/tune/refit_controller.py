"""The controller of refits, or of confirmations: which are handed out, lost and finished. It does not use Ray."""

import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace

from consilia.config.records import EpochReport, RefitProgress, TaskTaken, TrialOutcome, TrialTask
from consilia.tune.contract import RefitView
from consilia.tune.ledger import Ledger
from consilia.tune.progress import Losses, TrialProgress

logger = logging.getLogger(__name__)


class RefitController:
    """A Controller whose tasks are known beforehand and are never stopped for their scores.

    It stores only the ledger: a finished refit has its files, any other its checkpoint.

    Args:
        tasks: To be trained, at least one.
        ledger: Takes down their seconds.
        view: Told of everything.
        n_slots: That are there at the start.
        noun: What each is called.
        has_exclusive_slots: One that ran out of memory may have a slot that shares its device with nobody.
    """

    def __init__(
        self,
        tasks: Sequence[TrialTask],
        *,
        ledger: Ledger,
        view: RefitView,
        n_slots: int,
        noun: str = "refit",
        has_exclusive_slots: bool = False,
    ) -> None:
        self._n_all = len(tasks)
        self._waiting = deque(tasks)
        self._exclusive: deque[TrialTask] = deque()  # ran out of memory: last, as their slots have a device alone
        self._running: dict[int, TrialProgress] = {}
        self._last: dict[int, EpochReport] = {}
        self._losses: defaultdict[int, Losses] = defaultdict(Losses)
        self._ledger = ledger
        self._view = view
        self._n_slots = n_slots
        self._noun = noun
        self._has_exclusive_slots = has_exclusive_slots
        self.finished: list[int] = []  # numbers of their trials
        self.failed: dict[int, str] = {}  # why
        self.halted = ""  # why none can go on: a full disk

    @property
    def n_running(self) -> int:
        """Refits that are in slots."""
        return len(self._running)

    @property
    def n_open(self) -> int:
        """Refits that have neither finished nor failed."""
        return self._n_all - len(self.finished) - len(self.failed)

    def next_task(self) -> TrialTask | None:
        """Return the next refit, or None while there is none; one that is lost will come again."""
        waiting = self._waiting or self._exclusive
        if self.halted or not waiting:
            return None
        task = waiting.popleft()
        self._running[task.number] = TrialProgress(task)
        self._ledger.begin(task.number)
        self._show()
        return task

    def taken(self, message: TaskTaken) -> None:
        """Note that a worker has started on a refit; a later attempt means that a worker was lost."""
        if message.number not in self._running:
            return
        self._running[message.number].was_taken = True
        self._ledger.taken(message.number)
        if message.attempt > 1:
            reason = f" ({message.reason})" if message.reason else ""
            self._note(f"{self._noun} {message.number}: its worker was lost{reason}; another goes on with it")

    def hear(self, report: EpochReport) -> str | None:
        """Record an epoch; a refit always goes on."""
        progress = self._running.get(report.number)
        if progress is None:
            return None
        progress.heard(report)
        self._last[report.number] = report
        self._ledger.heard(report)
        if report.note:
            self._note(f"{self._noun} {report.number}: {report.note}")
        self._show()
        return None

    def left(self, number: int) -> bool:
        """Return False: a refit is never told to leave."""
        return False

    def end(self, outcome: TrialOutcome) -> None:
        """Record how a refit ended on its worker."""
        progress = self._running.get(outcome.number)
        if progress is None:
            return
        if outcome.fault == "memory" and self._has_exclusive_slots and not progress.task.exclusive:
            self._take_out(outcome.number)
            self._ledger.end(outcome.number, "failed")
            self._exclusive.append(replace(progress.task, exclusive=True))
            self._note(f"{self._noun} {outcome.number}: {outcome.reason}. It goes on in a slot with more memory.")
        elif outcome.state == "finished":
            self._finish(outcome.number, progress)
        elif outcome.state == "failed":
            self._fail(outcome.number, outcome.reason)
        else:  # at its checkpoint, since the disk is full
            self._take_out(outcome.number)
            self._ledger.end(outcome.number, "paused")
            self.halted = self.halted or outcome.reason
        self._show()

    def lost(self, number: int, reason: str, *, counts: bool = True) -> None:
        """Hand the refit of a lost slot to another slot, unless several have already brought nothing."""
        progress = self._running.get(number)
        if progress is None:
            return
        losses = self._losses[number]
        if counts:
            losses.add(progress)
        if losses.are_too_many:
            self._fail(number, f"its slot was lost {losses.n} times without a new epoch: {reason}")
        else:
            self._take_out(number)
            self._ledger.lost(number)
            self._waiting.append(progress.task)
            self._note(f"{self._noun} {number}: its slot was lost ({reason}); another goes on with it")
        self._show()

    def must_leave(self) -> str:
        """Return why all must leave their slots now, or ""."""
        return self.halted

    def reserve(self, n_slots: int) -> None:
        """Record how many slots are held."""
        self._n_slots = n_slots
        self._ledger.reserve(n_slots)

    def close(self) -> None:
        """Write the ledger once nothing runs any more; an interrupted refit keeps its checkpoint."""
        for number in list(self._running):
            self._take_out(number)
            self._ledger.end(number, "paused")
        self._ledger.reserve(0)
        self._ledger.write()

    def _finish(self, number: int, progress: TrialProgress) -> None:
        self._take_out(number)
        self._ledger.end(number, "finished")
        self.finished.append(number)
        architecture = progress.task.hyperparameters.architecture
        self._note(f"{self._noun} {number:>3}  finished  {architecture:<18}{progress.seconds:.0f} s")

    def _fail(self, number: int, reason: str) -> None:
        self._take_out(number)
        self._ledger.end(number, "failed")
        self.failed[number] = reason
        self._note(f"{self._noun} {number:>3}  failed    {reason}")

    def _note(self, text: str) -> None:
        logger.info("%s", text)
        self._view.noted(text)

    def _take_out(self, number: int) -> None:
        del self._running[number]
        self._last.pop(number, None)

    def _show(self) -> None:
        running = tuple((each.task, self._last.get(number)) for number, each in sorted(self._running.items()))
        self._view.refitting(
            RefitProgress(
                noun=self._noun,
                n_finished=len(self.finished),
                n_all=self._n_all,
                n_slots=self._n_slots,
                running=running,
            )
        )
