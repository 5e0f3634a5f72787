"""A search on two nodes of which one sees no file of the driver's: it ends as on one machine, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import consilia
from consilia.config.study_folder import StudyFolder
from consilia.data.phantoms import write_phantoms
from consilia.study.folder import claim_folder
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan
from consilia.tune.scratch import SCRATCH
from ray_cluster import HEAD, Cluster, can_hide_folders
from whole_study import facts_of_search, search_here

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.slow("two nodes; test_far_training trains on files of another place without Ray"),
    pytest.mark.skipif(not can_hide_folders(), reason="no process may have mounts of its own here"),
]

SECOND = "127.0.0.3"
PLAN = {
    "name": "far",
    "data": {"card": "phantoms", "path": "phantoms", "size": 32},
    "folds": {"k": 2},
    "spaces": ["tiny"],
    "search": {
        "trials": 6,
        "keep_weights": 6,
        "stopping": {"kind": "none"},
    },  # who is stopped depends on who was faster
    "training": {"epochs": 4, "batch_size": 16},
    "ensemble": {"name": "fast", "selection": {"kind": "soft_vote", "members": 2}, "build": "fast"},
    "cluster": {"max_slots": 2, "gpus_per_slot": 0},
}


def test_a_search_needs_no_shared_disk(tmp_path: Path, short_tmp: Path, one_thread: None):
    driver, far = tmp_path / "driver", tmp_path / "far"
    driver.mkdir()
    far.mkdir()
    write_phantoms(driver / "phantoms", patients=60, size=32, seed=1)
    (driver / "study.yaml").write_text(yaml.safe_dump(PLAN))
    with Cluster.at(short_tmp) as cluster:
        cluster.add(SECOND, hidden=driver, tmpdir=far)
        cluster.wait_for(HEAD, SECOND)
        command = [sys.executable, "-m", "consilia", "search", "study.yaml", "--address", cluster.address]
        done = subprocess.run(
            command, cwd=driver, env=cluster.environment, capture_output=True, text=True, check=False, timeout=600
        )
    folder = StudyFolder(driver / "studies" / "far")
    assert done.returncode == 0, done.stdout + done.stderr
    said = folder.log.read_text()
    assert f"this machine decodes the images, since {SECOND} does not see {driver / 'phantoms'}" in said
    assert "2 of 2 workers started" in said

    study = OpenStudy.of(read_plan(driver / "study.yaml"), studies=tmp_path / "here", stores=driver / "stores")
    (scratch,) = far.glob(f"{SCRATCH}-*")
    (copy,) = scratch.glob("copy-*/pixels.npy")
    assert copy.read_bytes() == (study.store.folder / "pixels.npy").read_bytes()
    assert not [path for path in scratch.rglob("fold-*")], "files of a trial were left on the node"
    image = next((driver / "phantoms" / "images").iterdir())
    (prediction,) = consilia.load(folder.bundle("fast"), device="cpu").predict([image])
    assert prediction.label in ("clear", "consolidation", "nodule")
    with claim_folder(study.plan, study.studies) as here:
        here.folds.write_bytes(folder.folds.read_bytes())
        search_here(study)
    assert facts_of_search(folder, study.plan) == facts_of_search(here, study.plan)
