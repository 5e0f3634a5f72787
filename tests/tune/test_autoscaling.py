"""Missing slots are asked for where Ray's autoscaler sees it, and what is asked for keeps no worker group waiting."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played_trials import Place, PlayedStudy, always
from search_records import Diary

from consilia.cluster.connection import connect
from consilia.config.study import ClusterProfile
from consilia.config.study_folder import StudyFolder
from consilia.tune.autoscaling import Bundles, MissingSlots
from consilia.tune.capacity import first_demand, plan_capacity
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import living_nodes, wait_for_gpus
from consilia.tune.stored import read_trials
from ray_cluster import HEAD, Cluster

SLOT = ({"CPU": 1.0, "GPU": 1.0},)
QUIET = 10.0


@dataclass(eq=False)
class Group:
    """A placement group."""

    bundles: Bundles
    avoid: Collection[str]
    is_placed: bool = False


@dataclass
class FakeRay:
    """Holds placement groups, finds room for some when a test says so, and has a clock."""

    groups: list[Group] = field(default_factory=list)
    now: float = 0.0

    def missing(self) -> MissingSlots:
        return MissingSlots(
            make=self._make, is_placed=lambda group: group.is_placed, remove=self.groups.remove, clock=lambda: self.now
        )

    def find_room(self, n: int) -> None:
        for group in self.groups[-n:]:
            group.is_placed = True

    def _make(self, bundles: Bundles, avoid: Collection[str]) -> Group:
        self.groups.append(group := Group(bundles, avoid))
        return group


def test_as_many_slots_wait_as_are_missing():
    ray = FakeRay()
    missing = ray.missing()
    for n in (3, 5, 5, 2, 0, 1):
        missing.ask(n, SLOT)
        assert [group.bundles for group in ray.groups] == [SLOT] * n


def test_once_ray_has_found_room_all_of_it_is_left_to_worker_groups_for_a_while():
    ray = FakeRay()
    missing = ray.missing()
    missing.ask(4, SLOT)
    ray.find_room(2)
    missing.ask(4, SLOT)
    assert ray.groups == []  # else the two that wait would take the room that the others give back
    ray.now += QUIET - 0.1
    missing.ask(2, SLOT)
    assert ray.groups == []
    ray.now += 0.1
    missing.ask(2, SLOT)
    assert len(ray.groups) == 2


def test_what_was_asked_for_with_another_size_or_other_nodes_is_asked_for_anew():
    ray = FakeRay()
    missing = ray.missing()
    missing.ask(2, SLOT)
    for slot, avoid in ((SLOT * 2, ()), (SLOT * 2, {"bad"})):
        missing.ask(2, slot, avoid=avoid)
        assert [(group.bundles, group.avoid) for group in ray.groups] == [(slot, avoid)] * 2


def test_nothing_is_asked_for_after_a_drop_until_a_while_has_passed():
    ray = FakeRay()
    missing = ray.missing()
    missing.ask(2, SLOT)
    missing.drop()
    assert ray.groups == []
    missing.ask(2, SLOT)
    assert ray.groups == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 20)), max_size=20))
def test_no_room_is_held_beyond_the_next_look(steps: list[tuple[int, int, float]]):
    ray = FakeRay()
    missing = ray.missing()
    for n_missing, n_rooms, seconds in steps:
        missing.ask(n_missing, SLOT)
        assert len(ray.groups) <= n_missing
        assert not any(group.is_placed for group in ray.groups)
        if n_rooms:
            ray.find_room(n_rooms)
        ray.now += seconds


HEAD_TYPE = "ray.head.default"  # the fake provider knows no other name for it
N_TRIALS = 4


class Autoscaling(Cluster):
    """A head without GPUs, and an autoscaler that starts up to two nodes with a GPU that exists on paper.

    As `ray.cluster_utils.AutoscalingCluster`, which would stop every other Ray here.
    """

    @property
    def environment(self) -> dict[str, str]:
        fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # for nodes that the autoscaler starts
        return {**super().environment, **fake, **loopback}

    def head_options(self) -> list[str]:
        file = self.folder.parent / "autoscaling.json"
        file.write_text(json.dumps(self._config()))
        return ["--num-gpus=0", f"--autoscaling-config={file}"]

    def _config(self) -> dict[str, object]:
        resources = {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000}
        none: list[str] = []
        return {
            "cluster_name": "fake",
            "max_workers": 2,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {
                HEAD_TYPE: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
                "gpu": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2},
            },
            "head_node_type": HEAD_TYPE,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "idle_timeout_minutes": 10,
            "upscaling_speed": 1.0,
            **dict.fromkeys(("initialization_commands", "setup_commands", "head_setup_commands"), none),
            **dict.fromkeys(("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"), none),
            **dict.fromkeys(("cluster_synced_files", "rsync_exclude", "rsync_filter"), none),
            "file_mounts_sync_continuously": False,
        }


@pytest.fixture
def cluster(short_tmp: Path) -> Iterator[Cluster]:
    with Autoscaling.at(short_tmp) as cluster:
        yield cluster


def drive(address: str, root: Path) -> None:
    """Search on GPUs that are not there yet; two trials wait for each other, so that two nodes must come."""
    from ray.util import placement_group_table

    profile = ClusterProfile(address=address, gpus="required", gpus_per_slot=1, memory_per_slot=0)
    diary = Diary(root / "diary")
    study = study_in(root)
    with connect(profile):
        while not living_nodes():  # the head has not said what it has
            time.sleep(0.1)
        begins = [time.monotonic() - 60]  # the first word is due at once, however fast the autoscaler is
        wait_for_gpus(profile, diary.noted, clock=lambda: begins.pop() if begins else time.monotonic())
        nodes = living_nodes()
        capacity = plan_capacity(nodes, profile, demand=first_demand(profile, nodes), n_trials=2)
        live = LiveSlots(capacity, living_nodes, limit=2, seen=nodes)
        study.search(diary, slots=2, live=live, capacity=capacity, asks_for_more=True)
        left = [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
        (root / "left").write_text(
            json.dumps({"groups": left, "gpus": sorted(n.total.get("GPU", 0) for n in nodes.values())})
        )


def study_in(root: Path) -> PlayedStudy:
    meet: Callable[[Place], None] = always(meet_another_node, fold=0, epoch=1)
    faults = dict.fromkeys(range(N_TRIALS), meet)
    return PlayedStudy(folder=StudyFolder(root / "study"), marks=root, faults=faults, n_trials=N_TRIALS)


def meet_another_node(place: Place) -> None:
    """Write down the node and its GPUs, and return once another node has done so."""
    import ray

    context = ray.get_runtime_context()
    (place.marks / f"node-{context.get_node_id()}").write_text(json.dumps(context.get_accelerator_ids()["GPU"]))
    while len(list(place.marks.glob("node-*"))) < 2:
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.timeout(400)
@pytest.mark.slow("an autoscaler and three nodes; the tests above ask for slots without Ray")
def test_a_search_that_requires_gpus_waits_until_the_autoscaler_has_brought_them(cluster: Cluster, tmp_path: Path):
    code = f"import test_autoscaling as t; t.drive({cluster.address!r}, t.Path({str(tmp_path)!r}))"
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", code]
        deadline = time.monotonic() + 300
        while True:  # the head takes a moment
            driver = subprocess.run(command, env=cluster.environment, stdout=log, stderr=log, timeout=300)
            said = (tmp_path / "log").read_text()
            if driver.returncode == 0 or "cannot be used" not in said or time.monotonic() > deadline:
                break
            time.sleep(1)
    assert driver.returncode == 0, said
    assert [record.state for record in read_trials(StudyFolder(tmp_path / "study")).values()] == ["finished"] * N_TRIALS
    notes = (tmp_path / "diary").read_text().splitlines()
    assert "waiting for a GPU, since cluster.gpus is required" in notes[0]
    assert f"{HEAD} 0 of 0" in notes[0]
    nodes = [json.loads(file.read_text()) for file in tmp_path.glob("node-*")]
    assert nodes == [["0"], ["0"]]  # two nodes have trained, each on its GPU; the head has none
    assert json.loads((tmp_path / "left").read_text()) == {"groups": [], "gpus": [0, 1]}
