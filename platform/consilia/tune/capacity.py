"""How many slots a cluster can hold: computed before anything is started.

The rule. All workers on nodes of one kind take equal shares. A node holds as many as each of its resources has shares
for, and a share below a whole GPU lies on one GPU: two GPUs hold two shares of 0.6, not three. The workers of one slot
may lie on several nodes (Ray Train's PACK puts them on as few as it can) and have one share on all kinds, so a cluster
holds as many slots as it has places for workers, divided by the workers of a slot. Equal shares leave no room to
arrange them badly: whichever places Ray chooses, this many can be scheduled and no more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.tune.demand import Demand

_UNITS = 10_000  # Ray counts in ten-thousandths; so do we, or 1 / 0.1 would not be 10
_START_BYTES = 1_000_000_000  # of a worker that has imported torch and waits for its first trial
_MODEL = "accelerator_type:"  # how Ray names the resource that says what a node's GPUs are
_SLOT_BYTES = 2**20  # of a worker's memory that it does not reserve: slots reserve a byte each, on any node


class Kind(NamedTuple):
    """A node's hardware as far as Ray tells it: a training step needs as much on all nodes of a kind."""

    gpu: str  # model, such as "H100"; "" without a GPU, or where Ray does not know it
    gpus: float
    cpus: float
    memory: int  # binary logarithm of the GB: what Ray finds differs a little between equal machines

    def __str__(self) -> str:
        return f"{self.gpus:g} {self.gpu or 'GPU'}" if self.gpus else f"{self.cpus:g} CPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A living node, with its resources as Ray names them: "CPU", "GPU", "memory" (bytes)."""

    name: str
    free: Mapping[str, float]
    total: Mapping[str, float]

    @property
    def kind(self) -> Kind:
        """What it is; nodes of one kind share what was measured on one of them."""
        models = sorted(name.removeprefix(_MODEL) for name in self.total if name.startswith(_MODEL))
        gigabytes = max(1.0, self.total.get("memory", 0) / 1e9)
        return Kind(" ".join(models), self.total.get("GPU", 0), self.total.get("CPU", 0), round(math.log2(gigabytes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What each worker of a slot takes."""

    cpus: float
    gpus: float
    memory: int  # bytes of host memory; 0: nothing is known of it

    @property
    def devices(self) -> float:
        """GPUs; CPUs where a worker has no GPU."""
        return self.gpus or self.cpus

    @property
    def resources(self) -> dict[str, float]:
        """The share as Ray is asked for it."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(max(0, self.memory - _SLOT_BYTES))}
        return {name: amount for name, amount in asked.items() if amount > 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The slots of a search."""

    n_slots: int
    workers: int  # of each slot
    share: Share | None  # on nodes of any kind but those measured; None: they hold no slot until they are measured
    exclusive: Share | None  # for a trial that ran out of memory; None: no node has more for it
    n_exclusive: int = 0  # slots of that share
    measured: Mapping[Kind, Share] = field(default_factory=dict)

    def share_on(self, node: Node) -> Share | None:
        """Return what each worker takes on this node, None where that is not known."""
        return self.measured.get(node.kind, self.share)

    @property
    def shares(self) -> tuple[Share, ...]:
        """All that are known, the smallest first."""
        known = [*self.measured.values(), *([self.share] if self.share else [])]
        return tuple(sorted(known, key=lambda share: (share.gpus, share.cpus, share.memory)))


def first_demand(profile: ClusterProfile, nodes: Mapping[str, Node]) -> Demand:
    """Return what workers take that start before a step is measured: what the profile says, else a whole GPU, if any.

    Raises:
        ClusterError: A step is to be measured on a GPU, and none is free.
    """
    gpus, memory = profile.gpus_of_worker, profile.memory_per_slot
    if gpus == "auto":
        gpus = float(any(node.total.get("GPU", 0) >= 1 for node in nodes.values()))
        if gpus and not any(node.free.get("GPU", 0) >= 1 for node in nodes.values()):
            found = ", ".join(
                f"{node.name} {node.free.get('GPU', 0):g} of {node.total.get('GPU', 0):g}" for node in nodes.values()
            )
            raise ClusterError(
                f"A whole GPU must be free to measure a training step on, but free are: {found}.\n"
                "Wait until other jobs have ended, or set cluster.gpus_per_slot and cluster.memory_per_slot to numbers."
            )
    return Demand(gpus=gpus, memory=_START_BYTES if memory == "auto" else round(memory * 1e9))


def plan_capacity(
    nodes: Mapping[str, Node],
    profile: ClusterProfile,
    *,
    demand: Demand | None = None,
    measured: Mapping[Kind, Demand] | None = None,
    n_trials: int,
) -> Capacity:
    """Fill the cluster with slots.

    Args:
        nodes: Living nodes by their ids.
        profile: CPUs and workers of a slot, and an upper bound on the number of slots.
        demand: What a worker needs of GPU and memory, on nodes of any kind; None: only what was measured counts.
        measured: What it needs on nodes of these kinds.
        n_trials: More slots than trials would stand idle.

    Raises:
        ClusterError: The cluster cannot hold a single slot, so the search would wait for ever.
    """
    workers = profile.workers_per_trial
    capacity = Capacity(
        n_slots=0,
        workers=workers,
        share=None if demand is None else share_of(demand, profile),
        exclusive=None,
        measured={kind: share_of(each, profile) for kind, each in (measured or {}).items()},
    )
    shares = {key: share for key, node in nodes.items() if (share := capacity.share_on(node)) is not None}
    n_slots = sum(places(nodes[key].free, share) for key, share in shares.items()) // workers
    if n_slots == 0:
        raise ClusterError(_refusal(nodes, capacity.shares[0], profile))
    larger = _exclusive_or_larger(capacity.shares)
    known = {key: nodes[key] for key in shares}
    exclusive = next((each for each in larger if _places(known, each) >= workers), None)
    return replace(
        capacity,
        n_slots=min(n_slots, profile.max_slots or n_slots, n_trials),
        exclusive=exclusive,
        n_exclusive=0 if exclusive is None else _places(known, exclusive) // workers,
    )


def share_of(demand: Demand, profile: ClusterProfile) -> Share:
    """Return what a worker takes that needs this much.

    Raises:
        ClusterError: Ray or NCCL would refuse it later.
    """
    share = Share(cpus=profile.cpus_per_slot, gpus=demand.gpus, memory=demand.memory)
    _check_gpus(share, workers=profile.workers_per_trial)
    return share


def most_slots(profile: ClusterProfile, *, n_trials: int) -> int:
    """Return how many slots a search asks for: `max_slots`, else a quarter of its trials, but two if there are two.

    TPE learns from trials that have ended: with as many slots as trials, it would suggest none.
    """
    return min(profile.max_slots or max(2, -(-n_trials // 4)), n_trials)


def describe_capacity(capacity: Capacity, demands: Mapping[Kind, Demand]) -> str:
    """Say how many slots there are and why each is as large as it is, on each kind of node."""
    slots = f"{capacity.n_slots} slot{'s' if capacity.n_slots > 1 else ''}"
    of = f" of {capacity.workers} workers with " if capacity.workers > 1 else " of "
    sizes: dict[str, list[str]] = {}  # kinds of node by what a slot takes there
    for kind, demand in demands.items():
        share = capacity.measured.get(kind, capacity.share)
        assert share is not None, "each kind was measured"
        sizes.setdefault(describe_share(share, demand), []).append(str(kind))
    if len(sizes) == 1:
        return slots + of + next(iter(sizes))
    return f"{slots}; " + "; ".join(f"on nodes with {' or '.join(kinds)}{of}{size}" for size, kinds in sizes.items())


def describe_share(share: Share, demand: Demand) -> str:
    """Say what a worker takes and why."""
    parts = [f"{share.gpus:g} GPU"] if share.gpus else [f"{share.cpus:g} CPU"]
    parts += [f"{_gigabytes(share.memory)} GB of memory"] if share.memory and not share.gpus else []
    taken = " and ".join(parts) + (f" (bound by {demand.bound})" if demand.bound else "")
    step = demand.most
    if step is None:
        return f"{taken}, as the profile says"
    if not step.device_total_bytes:
        return f"{taken}: {step.title} peaks at {_gigabytes(step.host_bytes)} GB"
    return (
        f"{taken}: {step.title} peaks at {_gigabytes(step.device_bytes)} GB of {_gigabytes(step.device_total_bytes)} GB"
    )


def places(resources: Mapping[str, float], share: Share) -> int:
    """Return how many workers a node with these resources holds.

    A node says how much of its GPUs is free in sum. The whole ones in it are taken to be whole, and
    the rest to lie on one GPU, since Ray fills a GPU that is in use before it opens another.
    """
    counts = [_units(resources.get("CPU", 0)) // _units(share.cpus)]
    if share.memory:
        counts.append(int(resources.get("memory", 0)) // share.memory)
    if share.gpus:
        counts.append(_gpu_places(_units(resources.get("GPU", 0)), _units(share.gpus)))
    return min(counts)


def _gpu_places(free: int, need: int) -> int:
    if need >= _UNITS:
        return free // need
    gpus, rest = divmod(free, _UNITS)
    return gpus * (_UNITS // need) + rest // need


def _units(amount: float) -> int:
    return round(amount * _UNITS)


def _places(nodes: Mapping[str, Node], share: Share) -> int:
    return sum(places(node.free, share) for node in nodes.values())


def _exclusive_or_larger(shares: Sequence[Share]) -> list[Share]:
    """Return what would give a trial more room than any of `shares`, the most first."""
    smallest, memory = shares[0], max(share.memory for share in shares)
    if smallest.gpus >= 1:
        return []
    if smallest.gpus > 0:
        alone = replace(smallest, gpus=1.0, memory=memory)
        return [replace(alone, memory=2 * memory), alone]
    return [replace(smallest, memory=2 * memory)] if memory else []


def _check_gpus(share: Share, *, workers: int) -> None:
    """Refuse shares that Ray or NCCL would refuse later."""
    if share.gpus > 1 and share.gpus != int(share.gpus):
        raise ClusterError(
            f"cluster.gpus_per_slot must be whole above 1, but is {share.gpus:g}: Ray divides one GPU, not two."
        )
    if workers > 1 and 0 < share.gpus < 1:
        raise ClusterError(
            f"The {workers} workers of a trial need a GPU each, since NCCL takes no two workers on one, but "
            f"cluster.gpus_per_slot is {share.gpus:g}. Set it to 1 or auto, or cluster.workers_per_trial to 1."
        )


def _refusal(nodes: Mapping[str, Node], share: Share, profile: ClusterProfile) -> str:
    need = f"{share.cpus:g} CPU, {share.gpus:g} GPU and {_gigabytes(share.memory)} GB of memory"
    if profile.workers_per_trial == 1:
        who = f"A slot needs {need} on one node"
    else:
        who = f"A slot needs {profile.workers_per_trial} workers with {need} each, a worker on one node"
    found = "\n".join(f"  {node.name}: {_describe(node)}" for node in nodes.values()) or "  no node"
    whole = {key: replace(node, free=node.total) for key, node in nodes.items()}
    if _places(whole, share) >= profile.workers_per_trial:
        advice = "Other jobs hold the rest: wait until they have ended, or"
    else:
        advice = "No waiting helps, since the whole cluster is too small:"
    return f"{who}, but free are:\n{found}\n{advice} lower {' or '.join(_keys(whole, share, profile))}."


def _keys(nodes: Mapping[str, Node], share: Share, profile: ClusterProfile) -> list[str]:
    """Return the keys to lower: of what is short even by itself, else of everything that is asked for."""
    memory = "cluster.memory_per_slot"
    if profile.memory_per_slot == "auto":  # a smaller number would be a promise that training breaks
        memory = "training.batch_size or training.image_size (the memory was measured)"
    parts = {
        "cluster.cpus_per_slot": replace(share, gpus=0.0, memory=0),
        "cluster.gpus_per_slot": replace(share, cpus=1 / _UNITS, memory=0),
        memory: replace(share, cpus=1 / _UNITS, gpus=0.0),
    }
    asked = {key: part for key, part in parts.items() if part.gpus or part.memory or key == "cluster.cpus_per_slot"}
    short = [key for key, part in asked.items() if _places(nodes, part) < profile.workers_per_trial]
    more = ["cluster.workers_per_trial"] if profile.workers_per_trial > 1 else []
    return (short or list(asked)) + more


def _describe(node: Node) -> str:
    free, total = node.free, node.total
    memory = f"{_gigabytes(free.get('memory', 0))} of {_gigabytes(total.get('memory', 0))} GB of memory"
    return ", ".join([*(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in ("CPU", "GPU")), memory])


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f}"
