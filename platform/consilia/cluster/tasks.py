"""Decoding on a Ray cluster: each block of images is one task on any node."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import ray

from consilia.cluster.connection import connect
from consilia.config.reading import Reading
from consilia.config.study import ClusterProfile
from consilia.data.decode.block import Block, Decoded, decode_block
from consilia.data.decode.process import IMAGE_SECONDS, DecodeProcess, end_after
from consilia.data.decode.workers import DecodeWorkers, LocalWorkers, decode_in
from consilia.data.store.key import decoder_versions
from consilia.errors import ClusterError

_Versions = tuple[tuple[str, str], ...]


@contextmanager
def ray_tasks(profile: ClusterProfile, data: Path, noted: Callable[[str], None]) -> Iterator[DecodeWorkers]:
    """Connect to a cluster and yield workers that decode on all its CPUs, or on this machine's.

    They decode on the cluster where every node sees the images at the same path as this one, on a shared disk. Every
    node must also have the same versions of the packages that decode. Both are checked again with each block: another
    pixel, or an image lost on one node alone, would go unseen.

    Args:
        profile: Names the cluster.
        data: Folder or file of the images.
        noted: Told why this machine decodes alone.

    Raises:
        ClusterError: The cluster cannot be used.
    """
    with connect(profile):
        if blind := _nodes_without(data):
            noted(f"this machine decodes the images, since {', '.join(blind)} does not see {data}")
            with LocalWorkers(joblib.cpu_count()) as workers:
                yield workers
            return
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call] # Ray's
        tasks = TaskWorkers(max(1, int(resources.get("CPU", 1))))
        try:
            yield tasks
        finally:
            tasks.close()


def _nodes_without(data: Path) -> list[str]:
    """Return the addresses of living nodes that do not see a path."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call] # Ray's
    look = ray.remote(num_cpus=0)(_sees)
    answers = [look.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote(data) for node in nodes]
    return [str(node["NodeManagerAddress"]) for node, sees in zip(nodes, ray.get(answers), strict=True) if not sees]


def _sees(data: Path) -> bool:
    return data.exists()


class TaskWorkers:
    """DecodeWorkers: Ray tasks, each on one CPU; Ray must be connected.

    Args:
        n_workers: How many run at a time; Ray queues the others.
        seconds: What one image may take.
    """

    def __init__(self, n_workers: int, *, seconds: float = IMAGE_SECONDS) -> None:
        self.n_workers = n_workers
        self._seconds = seconds
        self._here = DecodeProcess(seconds=seconds)  # started only when a task gives reason to look closer

    def submit(self, block: Block, reading: Reading) -> "_Pending":
        """Start a task; a block whose task dies is decoded on this machine."""
        # A repeated task would only die of the same image; here that image is found.
        task = _decode_on_node.options(max_retries=0, scheduling_strategy="SPREAD", name=f"decode {len(block)} images")
        return _Pending(task.remote(block, reading, self._seconds, decoder_versions()), block, reading, self._here)

    def close(self) -> None:
        """End the process on this machine."""
        self._here.close()


class _Pending:
    """A block in a task."""

    def __init__(
        self, reference: "ray.ObjectRef[Decoded | str]", block: Block, reading: Reading, here: DecodeProcess
    ) -> None:
        self._reference, self._block, self._reading, self._here = reference, block, reading, here

    def result(self) -> Decoded:
        """Wait for the block.

        Raises:
            ClusterError: The task's node decodes otherwise than this one, or does not see the files.
        """
        try:
            decoded = ray.get(self._reference)
        except ray.exceptions.RayTaskError:
            raise  # a fault of ours, not of a file
        except ray.exceptions.RayError:  # its process or node died
            return decode_in(self._here, self._block, self._reading)
        if isinstance(decoded, str):
            raise ClusterError(decoded)
        self._check_failures(decoded)
        return decoded

    def _check_failures(self, decoded: Decoded) -> None:
        """What a node could not read must be unreadable here too; else the node would have lost images silently."""
        for position, reason in decoded.failures:
            if decode_in(self._here, self._block[position : position + 1], self._reading).facts:
                raise ClusterError(
                    f"A node of the cluster cannot read what this machine can: {reason}\nEvery node must see the data "
                    "at the same path, on a shared disk. Mount it there, or prepare first on one machine: "
                    "`consilia data prepare CARD`."
                )


@ray.remote(num_cpus=1)
def _decode_on_node(block: Block, reading: Reading, seconds: float, versions: _Versions) -> Decoded | str:
    """Decode a block, or say why this node must not."""
    unlike = [
        f"{name} {mine or 'missing'} (there {theirs or 'missing'})"
        for (name, theirs), (_, mine) in zip(versions, decoder_versions(), strict=True)
        if mine != theirs
    ]
    if unlike:
        node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call] # Ray's
        return (
            f"Node {node} would decode images with other packages than the machine that "
            f"started the prepare: {', '.join(unlike)}. Install the same versions, or prepare first on one machine: "
            "`consilia data prepare CARD`."
        )
    try:
        return decode_block(block, reading, before=lambda position: end_after(seconds))
    finally:
        end_after(0)
