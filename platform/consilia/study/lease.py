"""One driver at a time: a lease beside the study at its URI, renewed while its holder lives.

Object stores have no locks, and pyarrow has no conditional write. So a driver writes its name, waits, and reads it
back: of two that start together, the last writer holds the lease. The other one has either read that back or finds it
out before its next push. What remains possible: a driver that stood still for longer than the lease lasts, in the
middle of an upload, may still bring that one object to its end.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from consilia.errors import StudyError
from consilia.study.remote import Remote, RemoteError

logger = logging.getLogger(__name__)

NAME = "lease.json"
BEAT_SECONDS = 10.0
LASTS_SECONDS = 60.0  # without a beat
_SETTLE_SECONDS = 2.0  # between writing the lease and reading it back
_POLL_SECONDS = 2.0
_CONFIRMED_SECONDS = 5.0  # what was read so long ago is asked again before an upload


class LeaseLostError(StudyError):
    """Another driver has taken the study over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What lease.json says."""

    copy: str  # of the study, by the name that its folder on the holder's machine was given
    session: str  # of one hold
    host: str
    pid: int
    beat: int  # counts up
    held: bool  # False: let go in order

    @property
    def who(self) -> str:
        """The holder, for people."""
        return f"process {self.pid} on {self.host}"


class Lease:
    """A study's lease, from `take` to `release`.

    Args:
        remote: The study at its URI.
        copy: Name of the copy that this driver works in.
        clock: Seconds that never jump; tests pass their own, as of the next.
        wait: Waits so many seconds.
    """

    def __init__(
        self,
        remote: Remote,
        copy: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._remote = remote
        self._clock = clock
        self._wait = wait
        self._confirmed = clock()
        self._lock = threading.Lock()
        self._claim = Claim(
            copy=copy, session=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), beat=0, held=True
        )

    def take(self, noted: Callable[[str], None]) -> str:
        """Take the lease, or take over one whose holder is dead.

        A holder is judged by its beats while this driver watches, and by the store's own clock, never by two clocks.

        Args:
            noted: Told of a holder that is dead, or may be.

        Returns:
            The copy that held the lease last, "" where none did.

        Raises:
            StudyError: A living driver holds it.
        """
        before = read_claim(self._remote)
        if before is not None and before.held and before.copy != self._claim.copy:  # our own copy is locked on disk
            self._watch(before, noted)
        self._write()
        self._wait(_SETTLE_SECONDS)
        now = read_claim(self._remote)
        if now is None or now.session != self._claim.session:
            raise self._refusal(now or self._claim)
        self._confirmed = self._clock()
        return "" if before is None else before.copy

    def beat(self) -> None:
        """Renew the lease.

        Raises:
            LeaseLostError: Another driver has it.
        """
        with self._lock:
            self._check()
            self._claim = Claim(**{**asdict(self._claim), "beat": self._claim.beat + 1})
            self._write()

    def confirm(self) -> None:
        """See that the lease is still ours, if that was not seen a moment ago.

        Raises:
            LeaseLostError: Another driver has it.
        """
        if self._clock() - self._confirmed > _CONFIRMED_SECONDS:
            with self._lock:
                self._check()

    def release(self) -> None:
        """Let it go; one that is another's by now is left alone."""
        with self._lock:
            try:
                self._check()
            except LeaseLostError:
                return
            self._claim = Claim(**{**asdict(self._claim), "held": False})
            self._write()

    def _watch(self, holder: Claim, noted: Callable[[str], None]) -> None:
        """Return once the holder has been silent for as long as the lease lasts."""
        silent = self._silence()
        if silent < LASTS_SECONDS:
            noted(f"the study is held by {holder.who}, silent for {silent:.0f} s: waiting for a sign of life")
        until = self._clock() + LASTS_SECONDS - silent
        while self._clock() < until:
            self._wait(_POLL_SECONDS)
            now = read_claim(self._remote)
            if now is None or not now.held:
                return
            if (now.session, now.beat) != (holder.session, holder.beat):
                raise self._refusal(now)
        noted(f"{holder.who} held the study and has been silent for {LASTS_SECONDS:.0f} s: it is taken over")

    def _silence(self) -> float:
        """Return how long ago the lease was written, by the clock of the store."""
        probe = f"{NAME}.{self._claim.session}"
        self._remote.write(probe, b"{}")
        now, then = self._remote.stamp(probe), self._remote.stamp(NAME)
        self._remote.delete(probe)
        return LASTS_SECONDS if now is None or then is None else max(0.0, (now[1] - then[1]) / 1e9)

    def _check(self) -> None:
        now = read_claim(self._remote)
        if now is None or now.session != self._claim.session:
            by = "was deleted" if now is None else f"was taken over by {now.who}"
            raise LeaseLostError(
                f"{self._remote.shown} {by} while this driver was silent. It stops, and what it has done since its "
                "last push is not kept. Let one driver go on."
            )
        self._confirmed = self._clock()

    def _refusal(self, holder: Claim) -> StudyError:
        return StudyError(
            f"Another driver works on {self._remote.shown}: {holder.who}. Wait for it, or stop it there; the same "
            "command then goes on where it stopped."
        )

    def _write(self) -> None:
        self._remote.write(NAME, json.dumps(asdict(self._claim)).encode())


class Heart:
    """Renews a lease in the background, and ends the block that it is held for where another driver has taken it."""

    def __init__(self, lease: Lease, *, every: float = BEAT_SECONDS) -> None:
        self.lost: LeaseLostError | None = None
        self._lease = lease
        self._every = every
        self._ended = threading.Event()
        self._owner = threading.current_thread()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Stop, whatever happens to the lease."""
        self._ended.set()
        self._thread.join()

    def lose(self, error: LeaseLostError) -> None:
        """Note that the lease is another's, and let the block end as by Ctrl-C, so that trials are paused."""
        if self.lost is None and not self._ended.is_set():
            self.lost = error
            if self._owner is threading.main_thread():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._lease.beat()
            except LeaseLostError as error:
                return self.lose(error)
            except RemoteError as error:  # the next beat may come through
                logger.warning("the lease could not be renewed: %s", error)
        return None


@contextmanager
def beating(lease: Lease, *, every: float = BEAT_SECONDS) -> Iterator[Heart]:
    """Keep a lease that was taken for the length of a block, then let it go.

    Raises:
        LeaseLostError: Another driver took it, in place of whatever ended the block.
    """
    heart = Heart(lease, every=every)
    heart.start()
    try:
        yield heart
    except BaseException as error:
        if heart.lost is not None:
            raise heart.lost from error
        raise
    finally:
        heart.end()
        with suppress(RemoteError):  # then it runs out
            lease.release()
    if heart.lost is not None:
        raise heart.lost


def read_claim(remote: Remote) -> Claim | None:
    """Read a study's lease; None where nobody ever held it.

    Raises:
        RemoteError: It cannot be read, or is damaged.
    """
    content = remote.read(NAME)
    if content is None:
        return None
    try:
        values: dict[str, Any] = json.loads(content)
        return Claim(**values)
    except (ValueError, TypeError) as error:
        raise RemoteError(f"{remote.shown}/{NAME} is damaged ({error}). Delete it if no driver is at work.") from error
