"""A search on a real Ray whose study lies on S3: to its bundle, and from a machine that is lost to another one."""

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import consilia
import driver_process
from consilia.data.phantoms import write_phantoms
from consilia.study.remote import Remote, open_place
from driver_process import wait_for
from processes import wait_until_gone
from s3_server import S3, serve_s3

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

K, TRIALS = 2, 3


@pytest.fixture
def s3() -> Iterator[S3]:
    with serve_s3() as server:
        yield server


@pytest.fixture
def uri(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the studies lie; the study file lies in `tmp_path`."""
    monkeypatch.setenv("CONSILIA_CACHE", str(tmp_path / "reader"))
    write_phantoms(tmp_path / "phantoms", patients=60, size=32, seed=1)
    plan = {
        "name": "moving",
        "data": {"card": "phantoms", "path": "phantoms", "size": 32},
        "folds": {"k": K},
        "spaces": ["tiny"],
        "search": {"trials": TRIALS},
        "training": {"epochs": 60, "batch_size": 16},  # two folds outlast the second driver's attempt and a push
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan))
    return s3.uri(f"ours/{tmp_path.name}/studies")  # servers of one process share their buckets


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, short_tmp: Path, uri: str) -> Iterator[Start]:
    """Start `consilia search` on a machine; what still runs after the test is killed."""
    started = []

    def start(machine: str, *settings: str) -> subprocess.Popen[str]:
        started.append(search(tmp_path, short_tmp, uri, machine, *settings))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def search(root: Path, ray_folder: Path, uri: str, machine: str, *settings: str) -> subprocess.Popen[str]:
    """Search with a cache that is the machine's own."""
    arguments = ["-m", "consilia", "search", "study.yaml", "--studies", uri, "--set", "cluster.max_slots=1", *settings]
    return driver_process.start(root, *arguments, RAY_TMPDIR=str(ray_folder), CONSILIA_CACHE=str(root / machine))


def results(remote: Remote) -> dict[str, bytes]:
    """Return the content of every finished fold's files but its history, which is no result."""
    names = remote.list()
    folds = [name.removesuffix("result.json") for name in names if name.endswith("/result.json")]
    return {name: remote.read(name) for name in names for fold in folds if name.startswith(fold)}


@pytest.mark.slow("test_uri does the same without Ray, and test_on_ray without a URI")
def test_a_study_on_s3_is_searched_to_its_bundle(start, uri):
    process = start("one", "--set", "training.epochs=1", "--set", "search.trials=2")
    output = "".join(process.communicate(timeout=300))
    assert process.returncode == 0, output
    study = consilia.open_study("moving", studies=uri)
    assert list(study.trials()["state"]) == ["finished"] * 2
    assert study.predictor(device="cpu").classes == study.store.classes
    found = open_place(uri).remote.child("moving").list()
    assert {"search.json", "optuna.journal", "ledger.parquet", "report.json"} <= found.keys()
    assert not [name for name in found if name.endswith("checkpoint.pt") or name.startswith("ray/")]


@pytest.mark.slow("two searches; test_mirror kills drivers before every upload without Ray")
def test_a_search_whose_machine_is_lost_goes_on_elsewhere_and_repeats_no_finished_fold(start, tmp_path, short_tmp, uri):
    remote = open_place(uri).remote.child("moving")
    first = start("one")
    wait_for(lambda: len([name for name in remote.list() if name.endswith("/result.json")]) >= 1, first)

    second = start("two")
    output = "".join(second.communicate(timeout=120))
    assert second.returncode == 2, output
    assert f"Another driver works on s3://ours/{tmp_path.name}/studies/moving: process {first.pid} on" in output

    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert wait_until_gone(short_tmp) == []
    shutil.rmtree(tmp_path / "one")
    before = results(remote)
    assert len([name for name in before if name.endswith("/result.json")]) < K * TRIALS, "nothing is left to be done"

    third = start("three")
    output = "".join(third.communicate(timeout=600))
    assert third.returncode == 0, output
    assert "waiting for a sign of life" in output
    after = results(remote)
    kept = {name for name in before if name.endswith(("result.json", "oof.parquet"))}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    records = [json.loads(remote.read(f"trials/{number}/trial.json")) for number in range(TRIALS)]
    assert [record["state"] for record in records] == ["finished"] * TRIALS
    assert remote.read("ensembles/greedy_calibrated/ensemble.json") is not None
