"""Made-up clusters and measured steps."""

from consilia.train.step_case import StepMemory
from consilia.tune.capacity import Node

GB = 10**9


def node(
    *, cpus: float = 8, gpus: float = 0, memory: float = 0, name: str = "10.0.0.1", model: str = "", **busy: float
) -> Node:
    """A node; `busy` takes some of a resource away: busy_cpus=2, busy_gpus=1, busy_memory=3 (GB)."""
    total = {"CPU": cpus, "GPU": gpus, "memory": memory * GB}
    taken = {
        "CPU": busy.get("busy_cpus", 0),
        "GPU": busy.get("busy_gpus", 0),
        "memory": busy.get("busy_memory", 0) * GB,
    }
    free = {key: total[key] - taken[key] for key in total}
    return Node(name=name, free=free, total={**total, f"accelerator_type:{model}": 1} if model else total)


def cluster(*nodes: Node) -> dict[str, Node]:
    return {f"id{number}": each for number, each in enumerate(nodes)}


def step(
    *, device: float = 0, of: float = 0, context: float = 0, host: float = 1, title: str = "one step", **flags: bool
) -> StepMemory:
    """A measured step; all in GB. Flags: is_captured, by_mps."""
    return StepMemory(
        title=title,
        device_bytes=int(device * GB),
        context_bytes=int(context * GB),
        device_total_bytes=int(of * GB),
        host_bytes=int(host * GB),
        **flags,
    )
