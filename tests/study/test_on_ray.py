"""One search through a real Ray: started at a terminal, interrupted, taken up again from Python, to a prediction.

What Ray trained, in slots, across an interruption and the death of its workers, must be what one process trains alone,
bit for bit.
"""

import contextlib
import json
import os
import re
import signal
import urllib.request
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
from driver_process import start, wait_for
from processes import actors_of
from whole_study import facts_of_search, search_here

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PLAN = {
    "name": "honest",
    "data": {"card": "phantoms", "path": "phantoms", "size": 32},
    "folds": {"k": 2},
    "spaces": ["tiny"],
    "search": {"trials": 4, "keep_weights": 4},  # the defaults of three architectures, and one that is drawn
    "training": {"epochs": 12, "batch_size": 16},  # a fold outlasts the time that Ctrl-C takes to reach its worker
    "ensemble": {"name": "votes", "selection": {"kind": "soft_vote", "members": 2}},
}

ONE_SLOT = re.compile(r'ray_consilia_slots\{[^}]*state="wanted"[^}]*study="honest"[^}]*\} 1')
SEARCH = ("-m", "consilia", "search", "study.yaml", "--set", "cluster.max_slots=1")

GO_ON = """
import consilia
study = consilia.search("study.yaml", **{"cluster.max_slots": 1, "search.confirm": 1})
(confirmed,) = study.result().confirmations
assert confirmed.number == study.result().trials[0].number and len(confirmed.folds) == 2, confirmed
assert sorted(study.trials()["trial"]) == [0, 1, 2, 3], study.trials()
assert study.predictor(device="cpu").classes == study.store.classes
"""


def served_metrics(folder: Path) -> str:
    """What the nodes of the Ray in `folder` serve to Prometheus; nothing of one that has ended."""
    (listed,) = json.loads((folder / "ray" / "prom_metrics_service_discovery.json").read_text())
    found = []
    for target in listed["targets"]:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer:
            found.append(answer.read().decode())
    return "".join(found)


def test_an_interrupted_search_whose_workers_die_goes_on_to_the_bundle_and_gives_what_one_process_gives(
    tmp_path: Path, short_tmp: Path, one_thread: None
):
    write_phantoms(tmp_path / "phantoms", patients=60, size=32, seed=1)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(PLAN))
    folder = StudyFolder(tmp_path / "studies" / "honest")

    first = start(tmp_path, *SEARCH, RAY_TMPDIR=str(short_tmp), TMPDIR=str(short_tmp))
    wait_for(lambda: bool(list(short_tmp.glob(f"{SCRATCH}-*/*/*/fold-*/checkpoint.pt"))), first)
    first.send_signal(signal.SIGINT)
    output, errors = first.communicate(timeout=120)
    assert first.returncode == 130, output + errors
    assert "the same command goes on" in output + errors
    assert "Traceback" not in output + errors
    assert list(folder.trials.glob("*/fold-*/checkpoint.pt")), "the checkpoint to go on from was not sent"

    finished = set(folder.trials.glob("*/fold-*/result.json"))
    often = {"RAY_metrics_report_interval_ms": "1000"}
    second = start(tmp_path, "-W", "ignore", "-c", GO_ON, RAY_TMPDIR=str(short_tmp), **often)
    wait_for(
        lambda: bool(set(folder.trials.glob("*/fold-0/result.json")) - finished), second
    )  # of a trial that goes on
    for pid in actors_of(short_tmp, {"RayTrainWorker"}):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: ONE_SLOT.search(served_metrics(short_tmp)) is not None, second)
    output, errors = second.communicate(timeout=400)
    assert second.returncode == 0, errors
    assert [line for line in output.splitlines() if "(raylet)" not in line] == []  # Ray says that a worker has died
    assert "worker was lost" in folder.log.read_text()
    bundle = folder.bundle("votes")
    image = next((tmp_path / "phantoms" / "images").iterdir())
    (prediction,) = consilia.load(bundle, device="cpu").predict([image])
    assert prediction.label in ("clear", "consolidation", "nodule")

    plan = read_plan(tmp_path / "study.yaml")
    study = OpenStudy.of(plan, studies=tmp_path / "here", stores=tmp_path / "stores")
    with claim_folder(plan, study.studies) as here:
        here.folds.write_bytes(folder.folds.read_bytes())
        search_here(study)
    assert facts_of_search(folder, plan) == facts_of_search(here, plan)
