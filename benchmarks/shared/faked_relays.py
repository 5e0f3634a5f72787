"""Relays that are no processes: Ray Tune runs a search through its own code, but its actors are played in virtual time.

`FakedRelays` takes the place of the manager of actors in Tune's controller. A relay answers as `consilia.tune.relay`
does: with the next message of its trial, or with a heartbeat when none comes in time.
"""

import heapq
import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ray.air.execution._internal.tracked_actor import TrackedActor

from consilia.config.records import TrialTask
from consilia.config.space import Hyperparameters
from consilia.tune.relay import HEARTBEAT_SECONDS
from consilia.tune.simulator import Play, VirtualClock

_HANDLE = SimpleNamespace(get_auto_filled_metrics=SimpleNamespace(remote=lambda **_: {}))  # all that Tune calls itself
_MANAGER = "ray.tune.execution.tune_controller.RayActorManager"


class FakedRelays:
    """Stands in for Ray's RayActorManager: what Tune's controller calls of it.

    Args:
        play: Plays one trial on one worker.
        clock: Moved from answer to answer.
    """

    def __init__(self, play: Play, clock: VirtualClock) -> None:
        self._play = play
        self._clock = clock
        self._order = itertools.count()  # a tie goes to who came first
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._live_actors_to_ray_actors_resources: dict[TrackedActor, tuple[Any, None]] = {}  # Tune looks into it
        self._relays: dict[TrackedActor, _Relay] = {}
        self.n_answers = 0
        self.most_running = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let Tune take it for Ray's for the length of a block."""
        with patch(_MANAGER, lambda **_: self):
            yield

    num_pending_actors = 0

    @property
    def num_live_actors(self) -> int:
        """Relays that have started."""
        return len(self._relays)

    num_total_actors = num_live_actors
    num_actor_tasks = num_live_actors

    def get_live_actors_resources(self) -> dict[str, float]:
        """Nothing is reserved."""
        return {}

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        """Whether it lives."""
        return tracked_actor in self._relays

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        """None ever fails."""
        return False

    def add_actor(
        self, cls: Any, resource_request: Any, *, kwargs: Any, on_start: Any, on_stop: Any, on_error: Any
    ) -> TrackedActor:
        """Start a relay, at once."""
        actor = TrackedActor(uuid.uuid4().int, on_start=on_start, on_stop=on_stop, on_error=on_error)
        self._relays[actor] = _Relay(self._play, self._clock, kwargs["config"])
        self._live_actors_to_ray_actors_resources[actor] = (_HANDLE, None)
        self.most_running = max(self.most_running, len(self._relays))
        self._at(0.0, lambda: on_start(actor))
        return actor

    def remove_actor(self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Any = None) -> bool:
        """End a relay."""
        if self._relays.pop(tracked_actor, None) is not None:
            self._live_actors_to_ray_actors_resources.pop(tracked_actor)
            on_stop: Any = tracked_actor._on_stop
            if on_stop:
                self._at(0.0, lambda: on_stop(tracked_actor))
        return True

    def schedule_actor_task(
        self,
        tracked_actor: TrackedActor,
        method_name: str,
        args: Any = (),
        kwargs: Any = None,
        on_result: Callable[[TrackedActor, Any], None] | None = None,
        on_error: Any = None,
        _return_future: bool = False,
    ) -> Any:
        """Ask a relay for something; it answers when its trial's time has come."""
        relay = self._relays[tracked_actor]
        seconds: float = 0.0
        answer: Any = None
        if method_name == "train":
            seconds, answer = relay.train()
        elif method_name == "reset":
            relay.reset(args[0])
            answer = True

        def resolve() -> None:
            if tracked_actor in self._relays and on_result is not None and not relay.is_stale(ticket):
                on_result(tracked_actor, answer)

        ticket = relay.ticket
        self._at(seconds, resolve)

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        """Forget what was asked of a relay."""
        if tracked_actor in self._relays:
            self._relays[tracked_actor].ticket += 1

    def next(self, timeout: float | None = None) -> bool:
        """Go to the next answer, and let Tune hear it."""
        if not self._coming:
            return False
        self._clock.now, _, answer = heapq.heappop(self._coming)
        self.n_answers += 1
        answer()
        return True

    def cleanup(self) -> None:
        """Forget everything."""
        self._relays.clear()
        self._coming.clear()

    def _at(self, seconds: float, answer: Callable[[], None]) -> None:
        heapq.heappush(self._coming, (self._clock.now + seconds, next(self._order), answer))


class _Relay:
    """One relay, and the trial that it relays."""

    def __init__(self, play: Play, clock: VirtualClock, config: dict[str, Any]) -> None:
        self._play = play
        self._clock = clock
        self.ticket = 0
        self.reset(config)

    def reset(self, config: dict[str, Any]) -> None:
        """Take up another trial."""
        hyperparameters = Hyperparameters.model_validate(config["hyperparameters"])
        self._messages = self._play(TrialTask(number=config["number"], hyperparameters=hyperparameters))
        self._iteration = 0
        self._seconds = 0.0
        self._due: tuple[float, Any] | None = None

    def train(self) -> tuple[float, dict[str, Any]]:
        """Return in how many seconds it answers, and what: as Tune's Trainable fills it in."""
        if self._due is None:
            seconds, coming = next(self._messages)
            self._due = self._clock.now + seconds, coming
        wait = min(self._due[0] - self._clock.now, HEARTBEAT_SECONDS)
        message: Any = None if wait == HEARTBEAT_SECONDS else self._due[1]
        if message is not None:
            self._due = None
        self._iteration += 1
        self._seconds += wait
        return wait, {
            "message": message,
            "done": False,
            "training_iteration": self._iteration,
            "time_this_iter_s": wait,
            "time_total_s": self._seconds,
            "time_since_restore": self._seconds,
            "iterations_since_restore": self._iteration,
            "timestamp": 0,
            "date": "",
            "pid": 1,
            "hostname": "faked",
            "node_ip": "127.0.0.1",
            "trial_id": "",
            "config": {},
        }

    def is_stale(self, ticket: int) -> bool:
        """Whether what was asked then has been forgotten."""
        return ticket != self.ticket
