"""Decoding by Ray tasks: the store is that of one machine, and a node that sees other things is refused."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray

from consilia.cluster import tasks
from consilia.cluster.tasks import TaskWorkers, _decode_on_node
from consilia.config.reading import Reading
from consilia.data.decode.block import decode_block
from consilia.data.decode.reader import read_image
from consilia.data.store.prepare import prepare
from consilia.errors import ClusterError
from data_tables import balanced, card_of, write_table

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_on_loopback")]

READING = Reading(size=8, channels=1)


@pytest.fixture
def workers() -> Iterator[TaskWorkers]:
    workers = TaskWorkers(2)
    yield workers
    workers.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_table(tmp_path / "made", balanced())
    (folder / "003.png").write_bytes(b"")
    return folder


def files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def test_a_store_by_ray_tasks_equals_the_local_one_byte_for_byte(folder, workers, tmp_path, monkeypatch):
    monkeypatch.setattr("consilia.data.decode.workers.BLOCK_BYTES", 64 * 5)
    card = card_of(folder, max_bad=0.5)
    here = prepare(card, root=tmp_path / "here")
    there = prepare(card, root=tmp_path / "there", workers=lambda: nullcontext(workers))
    assert len(there) == 23
    assert there.folder.name == here.folder.name
    assert files(there.folder) == files(here.folder)


def test_a_block_whose_task_dies_is_decoded_here_without_the_image_that_killed_it(folder, workers, monkeypatch):
    block = tuple((folder / f"{number:03d}.png", None) for number in range(3))

    @ray.remote(num_cpus=1)
    def die(*_args: object) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(tasks, "_decode_on_node", die)
    decoded = workers.submit(block, READING).result()
    assert decoded.facts == decode_block(block, READING).facts


def test_files_that_only_this_machine_sees_are_an_error_and_no_quarantine(folder, workers, monkeypatch):
    @ray.remote(num_cpus=1)
    def see_nothing(block, reading, *_args):
        return decode_block(tuple((Path("/nowhere") / path.name, frame) for path, frame in block), reading)

    monkeypatch.setattr(tasks, "_decode_on_node", see_nothing)
    with pytest.raises(ClusterError, match=r"cannot read what this machine can: .*does not exist.*\n.*shared disk"):
        workers.submit(((folder / "000.png", None),), READING).result()


def test_a_node_with_other_decoders_is_refused(folder):
    unlike = (("numpy", "0.1"), *tasks.decoder_versions()[1:])
    answer = ray.get(_decode_on_node.remote(((folder / "000.png", None),), READING, 60.0, unlike))
    assert "would decode images with other packages" in answer
    assert "(there 0.1)" in answer


def test_an_image_that_takes_too_long_ends_its_task_and_is_quarantined(folder):
    workers = TaskWorkers(1, seconds=1e-5)
    decoded = workers.submit(((folder / "000.png", None),), READING).result()
    workers.close()
    ((_, reason),) = decoded.failures
    assert "000.png: decoding it was ended twice" in reason
    assert read_image(folder / "000.png", READING).pixels.shape == (8, 8, 1)
