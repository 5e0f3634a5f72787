"""How many slots the cluster holds now: nodes come and go while a search runs."""

import time
from collections.abc import Callable, Mapping

from consilia.tune.capacity import Capacity, Node, Share, places

_POLL_SECONDS = 2.0


class LiveSlots:
    """Counts slots over the nodes that live now.

    What a node holds is the most that was ever seen to be free on it: later the search's own workers occupy it. The
    most, and not the first, since a slot that waits for its workers may take a new node's room before anybody has
    looked, and since other jobs end. A node that is lost takes its places with it, and has the same ones if it comes
    back.

    Args:
        capacity: Of the search: shares and workers of a slot.
        nodes: Returns the living nodes by id.
        limit: Slots that are wanted at most.
        seen: Nodes as they were before the first slot started: what `plan_capacity` was given.
        measure: Called with a node's id and the node while its share is not known and more slots are wanted; returns
            the share once it is. It must not wait. Left out: such nodes hold no slot.
        clock: Monotonic seconds.
        poll_seconds: `nodes` is asked no more often.
    """

    def __init__(
        self,
        capacity: Capacity,
        nodes: Callable[[], Mapping[str, Node]],
        *,
        limit: int,
        seen: Mapping[str, Node],
        measure: Callable[[str, Node], Share | None] = lambda key, node: None,
        clock: Callable[[], float] = time.monotonic,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        self._capacity, self._nodes, self.limit = capacity, nodes, limit
        self._measure = measure
        self._clock, self._poll_seconds = clock, poll_seconds
        self._shares = {key: share for key, node in seen.items() if (share := capacity.share_on(node)) is not None}
        self._places = {key: places(seen[key].free, share) for key, share in self._shares.items()}
        self._alive = frozenset(seen)
        self._left_out: set[str] = set()
        self._names = {key: node.name for key, node in seen.items()}
        self._next_poll = clock() + poll_seconds

    def count(self) -> int:
        """Return the number of slots that the cluster holds, 0 while all nodes are lost."""
        if self._clock() >= self._next_poll:
            self._poll()
        n_places = sum(self._places.get(key, 0) for key in self._alive)
        return min(self.limit, n_places // self._capacity.workers)

    def n_missing(self) -> int:
        """Return how many slots are wanted beyond those that the cluster holds."""
        return self.limit - self.count()

    def by_node(self) -> dict[str, int]:
        """Return how many workers each living node holds, by the node's id."""
        self.count()
        return {key: n for key, n in self._places.items() if key in self._alive and n > 0}

    def share(self, node: str) -> Share:
        """Return what each worker takes on this node, which has held a worker."""
        return self._shares[node]

    def devices_per_slot(self) -> float:
        """Return the GPUs that a slot holds, or the CPUs where it has no GPU: the mean over the slots there are now."""
        n_workers = self.count() * self._capacity.workers
        devices, left = 0.0, n_workers
        for key, n in self.by_node().items():  # workers start in this order
            devices += min(n, left) * self._shares[key].devices
            left -= min(n, left)
        return self._capacity.workers * (devices / n_workers if n_workers else self._capacity.shares[0].devices)

    def leave_out(self, node: str) -> None:
        """Count this node no more, whatever it has free."""
        self._left_out.add(node)
        self._alive -= self._left_out

    @property
    def left_out(self) -> frozenset[str]:
        """The ids of nodes that `leave_out` was told of."""
        return frozenset(self._left_out)

    def name(self, node: str) -> str:
        """Return the address of a node that was seen, by its id."""
        return self._names[node]

    def _poll(self) -> None:
        self._next_poll = self._clock() + self._poll_seconds
        nodes = self._nodes()
        self._alive = frozenset(nodes) - self._left_out
        self._names.update((key, node.name) for key, node in nodes.items())
        for key, node in nodes.items():
            share = self._shares.get(key) or self._capacity.share_on(node)
            if share is None and key in self._alive and self.n_missing() > 0:
                share = self._measure(key, node)
            if share is not None:
                self._shares[key] = share
                self._places[key] = max(self._places.get(key, 0), places(node.free, share))
