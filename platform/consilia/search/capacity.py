"""How many slots a cluster can hold: computed before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass

from consilia.errors import ClusterError
from consilia.plan.study import ClusterProfile


@dataclass(frozen=True, slots=True)
class Capacity:
    """The slots of a search and each one's share."""

    n_slots: int
    cpus_per_slot: float
    gpus_per_slot: float


def plan_capacity(nodes: list[Mapping[str, float]], profile: ClusterProfile, *, n_trials: int) -> Capacity:
    """Fill every node with slots.

    Args:
        nodes: Free resources of each living node, as Ray names them ("CPU", "GPU"). A slot cannot span nodes.
        profile: Each slot's share, and an upper bound on their number.
        n_trials: More slots than trials would stand idle.

    Raises:
        ClusterError: No node can hold a single slot, so the search would wait for ever.
    """
    gpus = profile.gpus_per_slot
    if gpus == "auto":
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    need = {"CPU": profile.cpus_per_slot, "GPU": gpus}
    n_slots = sum(_slots_on(node, need) for node in nodes)
    if n_slots == 0:
        found = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes) or "no node"
        raise ClusterError(
            f"A slot needs {need['CPU']:g} CPU and {need['GPU']:g} GPU on one node, but free are: {found}.\n"
            "Lower cluster.cpus_per_slot or cluster.gpus_per_slot, or wait until other jobs have ended."
        )
    return Capacity(min(n_slots, profile.max_slots or n_slots, n_trials), need["CPU"], need["GPU"])


def _slots_on(node: Mapping[str, float], need: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0) / share + 1e-9) for name, share in need.items() if share > 0)
