"""The controller of trials, in the driver: it asks, hears, decides and writes. It does not use Ray."""

import errno
import logging
from collections import defaultdict, deque
from dataclasses import replace

from consilia.config.record_files import write_trial
from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialRecord, TrialState, TrialTask
from consilia.config.study import SearchPlan
from consilia.config.study_folder import StudyFolder
from consilia.files import write_text
from consilia.tune.checkpoint_cleanup import CheckpointCleanup
from consilia.tune.contract import SearchObserver
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.progress import Failures, Losses, Totals, TrialProgress
from consilia.tune.racing import Racing
from consilia.tune.stored import read_trials
from consilia.tune.suggester import Suggester

logger = logging.getLogger(__name__)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class TrialController:
    """The only writer of the journal and of every trial.json.

    An ended trial is written to trial.json first and told to Optuna second; whatever lies between the two when the
    driver dies is told when the next driver starts. Whatever ends the search, `close` leaves no trial running.

    Args:
        plan: How many trials there are, and by which metric they are judged.
        folder: Of the study.
        n_folds: Of a trial.
        suggester: Where configurations come from.
        racing: Who goes on.
        observer: Told of everything.
        limits: What may be spent.
        has_exclusive_slots: A trial that ran out of memory may have a slot that shares its device with nobody.
    """

    def __init__(
        self,
        plan: SearchPlan,
        *,
        folder: StudyFolder,
        n_folds: int,
        suggester: Suggester,
        racing: Racing,
        observer: SearchObserver,
        limits: Limits,
        has_exclusive_slots: bool = False,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._n_folds = n_folds
        self._suggester = suggester
        self._racing = racing
        self._observer = observer
        self._limits = limits
        self._has_exclusive_slots = has_exclusive_slots
        self._running: dict[int, TrialProgress] = {}
        self._leaving: dict[int, tuple[TrialState, str]] = {}  # state and reason of trials told to leave
        self._exclusive: deque[TrialTask] = deque()
        self._losses: defaultdict[int, Losses] = defaultdict(Losses)  # by trial
        self.totals = Totals()
        self.halted = ""  # why no trial can go on: a full disk
        self.gave_up = ""  # why no other trial is tried: too many have failed in a row
        self.records: dict[int, TrialRecord] = read_trials(folder)
        ended = [record for record in self.records.values() if record.has_ended]
        self._failures = Failures(any_other=any(record.state != "failed" for record in ended))
        self._resumable = deque(self._settle())
        self._cleanup = CheckpointCleanup(
            folder, n_folds=n_folds, n_best=plan.keep_weights, metric=plan.metric, records=self.records
        )
        for record in ended:
            limits.ended(record)

    @property
    def n_running(self) -> int:
        """Trials that are in slots."""
        return len(self._running)

    @property
    def n_training(self) -> int:
        """Trials that a worker has taken."""
        return sum(progress.was_taken for progress in self._running.values())

    @property
    def ledger(self) -> Ledger:
        """The account of the slots' time."""
        return self._limits.ledger

    def next_task(self) -> TrialTask | None:
        """Return an interrupted trial, or else a new one; None while there is none to hand out.

        Trials that wait for an exclusive slot come last: a slot that has its device alone must wait for the others.
        """
        if self.must_leave() or self._limits.enough():
            return None
        try:
            return self._hand_out()
        except OSError as error:
            self._halt(error)
            return None

    def taken(self, message: TaskTaken) -> None:
        """Note that a worker has started on a trial; a later attempt means that a worker was lost."""
        if message.number not in self._running:
            return
        self._running[message.number].was_taken = True
        self._limits.ledger.taken(message.number)
        if message.attempt > 1:
            self.totals.losses["worker"] += 1
            reason = f" ({message.reason})" if message.reason else ""
            self._observer.noted(f"trial {message.number}: its worker was lost{reason}; another goes on with it")

    def hear(self, report: EpochReport) -> str | None:
        """Record an epoch and decide whether the trial goes on.

        Returns:
            Why the trial leaves its slot now, or None for it to go on.
        """
        progress = self._running.get(report.number)
        if progress is None:
            return None
        progress.heard(report)
        self.totals.heard(report)
        self._limits.ledger.heard(report)
        self._limits.heard(report)
        if report.note:
            self._observer.noted(f"trial {report.number}, fold {report.fold + 1}: {report.note}")
        self._observer.epoch_ended(report)
        reason = self._racing.hear(report)
        if report.is_repeat:
            return None  # the decision was made when it was new
        if reason is not None:
            self._leaving[report.number] = ("stopped", reason)
            return reason
        ends_fold = report.fold_result is not None and report.fold + 1 < self._n_folds
        if ends_fold and (reason := self._limits.enough()):
            self._leaving[report.number] = ("paused", reason)
            return reason
        return None

    def must_leave(self) -> str:
        """Return why all trials must leave their slots now, or ""."""
        return self.halted or self.gave_up or self._limits.over()

    def reserve(self, n_slots: int) -> None:
        """Record how many slots are held."""
        self._limits.ledger.reserve(n_slots)

    def end(self, outcome: TrialOutcome) -> None:
        """Write how a trial ended on its worker; a trial that has already left is ignored."""
        if outcome.number not in self._running:
            return
        if outcome.fault:
            self.totals.losses[outcome.fault] += 1
        if outcome.fault == "disk":
            self._halt_for(outcome.reason)
        if outcome.fault == "memory" and self._makes_room(outcome):
            return
        self._leave(outcome.number, outcome.state, outcome.reason, traceback=outcome.traceback)

    def left(self, number: int) -> bool:
        """End a trial that `hear` has told to leave; say whether it has ended for good."""
        if number not in self._leaving:
            return False
        state, reason = self._leaving.pop(number)
        task = self._running[number].task
        self._leave(number, state, reason)
        if state == "paused":  # and a late gain may let the search go on after all
            self._resumable.append(task)
        return state != "paused"

    def lost(self, number: int, reason: str, *, counts: bool = True) -> None:
        """Hand the trial of a lost slot to another slot, unless several have already brought nothing.

        Args:
            number: Of the trial.
            reason: Why, for people.
            counts: False where there was no slot to be had: it is not the trial's fault, however often.
        """
        progress = self._running.get(number)
        if progress is None or number in self._leaving:
            self.left(number)
            return
        self.totals.losses["slot"] += 1
        losses = self._losses[number]
        if counts:
            losses.add(progress)
        if losses.are_too_many:
            self._leave(number, "failed", f"its slot was lost {losses.n} times without a new epoch: {reason}")
            return
        del self._running[number]
        self._limits.ledger.lost(number)
        self._resumable.append(progress.task)
        self._observer.noted(f"trial {number}: its slot was lost ({reason}); another goes on with it")

    def close(self, reason: str) -> None:
        """Pause every trial that still runs, delete files that nobody needs, and write the ledger.

        Args:
            reason: Why the search ended, for trials that would have gone on.
        """
        reason = self.must_leave() or reason
        for number in sorted(self._running):
            self._leave(number, *self._leaving.get(number, ("paused", reason)))
        try:
            self._pause_waiting(reason)
            self._cleanup.sweep(self.records)
        except OSError as error:
            self._halt(error)
        self._limits.ledger.reserve(0)
        self._limits.ledger.write()

    def ended_by(self) -> str:
        """Return which limit ended the search, or "" if it was none of them."""
        if self.halted or self.gave_up:
            return ""
        if all(record.has_ended for record in self.records.values()) and self._suggester.n_asked >= self._plan.trials:
            return f"all {self._plan.trials} trials are done"
        return self._limits.over() or self._limits.enough()

    def _hand_out(self) -> TrialTask | None:
        if self._resumable:
            task = self._resumable.popleft()
            self._suggester.resume(task.number)
        elif self._suggester.n_asked < self._plan.trials:
            task = self._suggester.ask()
        elif self._exclusive:
            task = self._exclusive.popleft()
        else:
            return None
        self._running[task.number] = TrialProgress(task)
        self._write(TrialRecord(number=task.number, state="running", hyperparameters=task.hyperparameters))
        self._limits.ledger.begin(task.number)
        self._observer.trial_started(task)
        return task

    def _makes_room(self, outcome: TrialOutcome) -> bool:
        """Queue a trial that ran out of memory for an exclusive slot, once; say whether it was."""
        task = self._running[outcome.number].task
        if not self._has_exclusive_slots or task.exclusive:
            return False
        del self._running[outcome.number]
        self._limits.ledger.end(outcome.number, "failed")
        self._exclusive.append(replace(task, exclusive=True))
        self._observer.noted(f"trial {outcome.number}: {outcome.reason}. It goes on in a slot with more memory.")
        return True

    def _leave(self, number: int, state: TrialState, reason: str, *, traceback: str = "") -> None:
        progress = self._running.pop(number)
        self._leaving.pop(number, None)
        scores = progress.scores(self._plan.metric)
        objective: float | None = None
        if state == "finished":
            assert len(progress.folds) == self._n_folds, f"trial {number} finished with {len(progress.folds)} folds"
            objective = sum(scores) / len(scores)
        elif state == "stopped" and scores:
            objective = self._racing.adjusted(scores)
        record = TrialRecord(
            number=number,
            state=state,
            hyperparameters=progress.task.hyperparameters,
            folds=tuple(progress.folds.values()),
            objective=objective,
            reason=reason,
            seconds=progress.seconds,
        )
        self._limits.ledger.end(number, state)
        try:
            if traceback:
                write_text(self._folder.trial(number).error, traceback)
            self._write(record)
            self._suggester.tell(record, metric=self._plan.metric)
            if record.has_ended:
                self._cleanup.ended(record)
        except OSError as error:
            self._halt(error)
        if record.has_ended:
            self._limits.ended(record)
            self.gave_up = self.gave_up or self._failures.ended(record)
        self._observer.trial_ended(record)

    def _pause_waiting(self, reason: str) -> None:
        """Pause trials that have no slot, since they wait for one in vain or an earlier driver was killed."""
        for record in [record for record in self.records.values() if record.state == "running"]:
            paused = replace(record, state="paused", reason=reason)
            self._write(paused)
            self._suggester.tell(paused, metric=self._plan.metric)

    def _settle(self) -> list[TrialTask]:
        """Tell Optuna how trials ended that it has not heard of, and return the trials to go on with."""
        resumable = []
        for task in self._suggester.unfinished():
            record = self.records.get(task.number)
            if record is not None and record.has_ended:
                self._suggester.tell(record, metric=self._plan.metric)
            else:
                resumable.append(task)
                if record is not None and record.state == "running":  # its driver was killed
                    self._limits.ledger.lost(task.number)
        return resumable

    def _write(self, record: TrialRecord) -> None:
        self.records[record.number] = record
        write_trial(self._folder.trial(record.number).record, record)

    def _halt(self, error: OSError) -> None:
        """Remember that the disk is full; any other error is a defect."""
        if error.errno not in _DISK_FULL:
            raise error
        self._halt_for(f"{error.filename or self._folder.root}: {error.strerror}")

    def _halt_for(self, reason: str) -> None:
        if not self.halted:
            logger.error("the search halts: %s", reason)
        self.halted = self.halted or reason
