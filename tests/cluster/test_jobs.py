"""Submitting a study to a real cluster with a token, as a user would from another machine."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobSubmissionClient

import consilia
from consilia.data.phantoms import write_phantoms
from processes import command_line, processes_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

TOKEN = secrets.token_hex(16)


@dataclass(frozen=True)
class Cluster:
    address: str
    token_file: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head node on loopback that demands a token; it ends with the module."""
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(TOKEN)
    port, dashboard = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp", ignore_cleanup_errors=True) as short:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # a job runs the head's python
            "OMP_NUM_THREADS": "1",
        }
        command = ["ray", "start", "--head", "--block", f"--port={port}", f"--temp-dir={short}", "--num-cpus=2"]
        command += ["--node-ip-address=127.0.0.2", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        command += ["--disable-usage-stats", "--object-store-memory=200000000"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]  # the usual one may be another cluster's
        head = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for_dashboard(address, head)
            yield Cluster(address, token_file)
        finally:
            head.terminate()
            try:
                head.wait(timeout=60)
            except subprocess.TimeoutExpired:
                head.kill()
                head.wait()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_phantoms(tmp_path / "phantoms", patients=60, size=32, seed=1)
    plan = {
        "name": "submitted",
        "data": {"card": "phantoms", "path": "phantoms", "size": 32},
        "folds": {"k": 2},
        "spaces": ["tiny"],
        "search": {"trials": 2},
        "training": {"epochs": 2},
        "ensemble": "soft_vote",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan))
    return tmp_path / "study.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_dashboard(address: str, head: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert head.poll() is None, "ray start ended"
            time.sleep(0.5)
    pytest.fail("the dashboard did not answer")


def run_cli(*arguments: str, token_file: Path | None, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["HOME"] = str(cwd)  # no token of the user's own
    if token_file is not None:
        environment["RAY_AUTH_TOKEN_PATH"] = str(token_file)
    return subprocess.run(
        [sys.executable, "-m", "consilia", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow("a whole search as a job; the next test sends one that ends at its first step")
def test_a_submitted_study_runs_to_a_bundle_and_reads_well_in_the_dashboard(cluster: Cluster, study: Path):
    here = study.parent
    sent = run_cli(
        *("submit", "study.yaml", "--address", cluster.address, "--root", str(here / "remote"), "--follow"),
        token_file=cluster.token_file,
        cwd=here,
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr
    job = sent.stdout.splitlines()[0].removeprefix("job ")
    assert "trial   1" in sent.stdout.replace("trial 1", "trial   1")
    bundle = here / "remote" / "studies" / "submitted" / "ensembles" / "soft_vote"
    assert consilia.load(bundle).classes == ("clear", "consolidation", "nodule")

    known = JobSubmissionClient(cluster.address, headers={"Authorization": f"Bearer {TOKEN}"}).get_job_info(job)
    assert known.metadata["job_name"] == "consilia search submitted"
    status = run_cli("status", job, "--address", cluster.address, token_file=cluster.token_file, cwd=here)
    assert (status.returncode, status.stdout.split()[:2]) == (0, [job, "SUCCEEDED"])
    logs = run_cli("logs", job, "--address", cluster.address, token_file=cluster.token_file, cwd=here)
    assert "bundle" in logs.stdout
    stop = run_cli("stop", job, "--address", cluster.address, token_file=cluster.token_file, cwd=here)
    assert "had ended already" in stop.stdout
    for answer in (sent, status, logs, stop):
        assert TOKEN not in answer.stdout + answer.stderr


def test_a_path_that_the_cluster_does_not_have_is_said_in_one_line_at_once(cluster: Cluster, study: Path):
    here = study.parent
    shutil.rmtree(here / "phantoms")
    sent = run_cli(
        *("submit", "study.yaml", "--address", cluster.address, "--root", str(here / "remote"), "--follow"),
        *("--env", "PASSWORD=hush-hush", "--retries", "3"),
        token_file=cluster.token_file,
        cwd=here,
    )
    assert sent.returncode == 2, sent.stdout + sent.stderr
    (line,) = sent.stderr.splitlines()
    assert f"{socket.gethostname()}, where the job runs, does not have {here / 'phantoms'} (data.path)" in line
    assert "--working-dir" in line
    job = sent.stdout.splitlines()[0].removeprefix("job ")
    status = run_cli("status", job, "--address", cluster.address, token_file=cluster.token_file, cwd=here)
    assert status.stdout.split()[:2] == [job, "FAILED"]
    listed = run_cli("jobs", "--address", cluster.address, token_file=cluster.token_file, cwd=here)
    assert [job, "submitted", "FAILED"] in [line.split() for line in listed.stdout.splitlines()]
    for answer in (sent, status, listed):
        assert TOKEN not in answer.stdout + answer.stderr
        assert "hush-hush" not in answer.stdout + answer.stderr


@pytest.mark.slow("a search as a job that is killed and stopped; test_attempts plays both without Ray")
def test_a_search_on_shipped_data_survives_a_kill_and_stops_in_order(cluster: Cluster, study: Path):
    here = study.parent
    shipped = here / "shipped"
    shipped.mkdir()
    shutil.move(here / "phantoms", shipped / "phantoms")
    changes = ("--set", "data.path=shipped/phantoms", "--set", "training.epochs=400", "--set", "name=shipped")
    sent = run_cli(
        *("submit", "study.yaml", "--address", cluster.address, "--root", str(here / "remote")),
        *("--working-dir", "shipped", "--retries", "1", *changes),
        token_file=cluster.token_file,
        cwd=here,
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr
    job = sent.stdout.splitlines()[0].removeprefix("job ")
    checkpoints = here / "remote" / "studies" / "shipped" / "trials"
    wait_for(lambda: any(checkpoints.glob("*/fold-*/checkpoint.pt")), "no trial has begun")
    os.kill(search_of(here / "remote"), signal.SIGKILL)

    def logs() -> str:
        return run_cli("logs", job, "--address", cluster.address, token_file=cluster.token_file, cwd=here).stdout

    wait_for(lambda: logs().count("of 2 workers started") == 2, "no second attempt")
    assert "attempt 2 of 2: the search was ended by SIGKILL" in logs()
    stop = run_cli("stop", job, "--address", cluster.address, token_file=cluster.token_file, cwd=here)
    assert stop.returncode == 0
    assert f"{job}  STOPPED  Stopped with 2 of 2 trials unfinished." in stop.stdout
    assert any(checkpoints.glob("*/fold-*/checkpoint.pt"))


def wait_for(holds: Callable[[], bool], otherwise: str, *, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)


def search_of(root: Path) -> int:
    """Return the process of the search that writes to a folder."""
    (found,) = [pid for pid in processes_of(root / "studies") if "\0search\0" in command_line(pid)]
    return found


@pytest.mark.parametrize("kind", ["wrong", "none"])
def test_without_the_right_token_there_is_one_clear_line_and_exit_code_1(cluster: Cluster, study: Path, kind: str):
    token_file = None
    if kind == "wrong":
        token_file = study.parent / "wrong-token"
        token_file.write_text("0" * 32)
    sent = run_cli("submit", "study.yaml", "--address", cluster.address, token_file=token_file, cwd=study.parent)
    assert sent.returncode == 1
    assert sent.stdout == ""
    (line,) = sent.stderr.splitlines()
    assert cluster.address in line
    assert "RAY_AUTH_TOKEN_PATH" in line


def test_an_unknown_job_and_a_silent_address_are_said_in_one_line(cluster: Cluster, tmp_path: Path):
    unknown = run_cli("status", "nobody", "--address", cluster.address, token_file=cluster.token_file, cwd=tmp_path)
    assert unknown.returncode == 1
    assert len(unknown.stderr.splitlines()) == 1
    silent = f"http://127.0.0.1:{free_port()}"
    dead = run_cli("status", "nobody", "--address", silent, token_file=cluster.token_file, cwd=tmp_path)
    assert dead.returncode == 1
    (line,) = dead.stderr.splitlines()
    assert silent in line
