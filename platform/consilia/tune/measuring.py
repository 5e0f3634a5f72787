"""Measure training steps in a worker before its first trial: it has imported all that a step takes, and stays."""

from collections.abc import Sequence

from consilia.errors import ClusterError
from consilia.train.step_case import StepCase, StepMemory

_SET_YOURSELF = "Set cluster.gpus_per_slot and cluster.memory_per_slot to numbers, so that nothing has to be measured."
_SMALLER = "Lower training.batch_size or training.image_size, or leave this architecture out."


def measure_steps(cases: Sequence[StepCase], *, device_name: str) -> tuple[StepMemory, ...]:
    """Measure the most demanding of these steps in this process.

    Args:
        cases: What may be trained.
        device_name: Of torch; a GPU that does not answer is an error, and the CPU no stand-in for it.

    Raises:
        ClusterError: A step does not fit into memory or fails otherwise; names architecture, image size and batch.
    """
    import torch

    from consilia.train.device import resolve_device
    from consilia.train.faults import is_out_of_memory
    from consilia.train.memory_probe import measure_step, most_demanding

    device = resolve_device(device_name)
    measured = []
    for case in most_demanding(cases):  # the largest last: main memory's peak is that of all so far
        try:
            measured.append(measure_step(case, device))
        except (AssertionError, MemoryError, RuntimeError) as error:  # torch asserts that it was built for the device
            title = case.title[0].upper() + case.title[1:]
            words = (str(error).strip() or type(error).__name__).splitlines()[0]
            if is_out_of_memory(error):
                raise ClusterError(
                    f"{title} runs out of memory, with nothing beside it on {device}: {words}.\n{_SMALLER}"
                ) from error
            raise ClusterError(f"{title} fails on {device}: {words}.\n{_SET_YOURSELF}") from error
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return tuple(measured)


def largest_network(cases: Sequence[StepCase]) -> int:
    """Return the bytes of the weights of the largest network among these."""
    from consilia.train.memory_probe import network_bytes

    return max(network_bytes(case.spec) for case in cases)
