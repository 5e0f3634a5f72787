"""What a job does on its node: files first, then the search, again if it was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from consilia.cluster.entrypoint import FOUND, main, run_attempts

PROGRAM = """
import os, signal, sys, time
from pathlib import Path

log = Path("log")
n = len(log.read_text().splitlines()) if log.exists() else 0
with log.open("a") as file:
    file.write(" ".join(sys.argv[1:]) + chr(10))
{body}
"""


def play(*codes: int, retries: int, stop_after: int = 99):
    """Return the exit code of attempts that end with these codes, the number run, and the seconds waited."""
    run, waited = [], []

    def attempt() -> int:
        run.append(codes[len(run)])
        return run[-1]

    code = run_attempts(attempt, retries=retries, stopped=lambda: len(run) >= stop_after, pause=waited.append)
    return code, len(run), sum(waited)


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_search_that_says_why_it_ends_is_not_run_again(code):
    assert play(code, retries=3) == (code, 1, 0)


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGTERM, 3, 137])
def test_a_search_that_was_killed_or_crashed_is_run_again(code, capsys):
    assert play(code, 0, retries=3) == (0, 2, 15)
    assert "attempt 2 of 4" in capsys.readouterr().out


def test_there_are_no_more_attempts_than_allowed(capsys):
    assert play(-9, -9, -11, retries=2) == (-11, 3, 30)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["attempt 2 of 3", "attempt 3 of 3"]
    assert "ended by SIGKILL" in said[0]
    assert play(-9, retries=0) == (-9, 1, 0)


def test_a_job_that_is_asked_to_stop_does_not_try_again():
    assert play(-15, retries=3, stop_after=1) == (-15, 1, 0)


def test_a_job_stops_while_it_waits_for_the_next_attempt():
    seconds = []
    code = run_attempts(lambda: -9, retries=1, stopped=lambda: len(seconds) >= 4, pause=seconds.append)
    assert (code, len(seconds)) == (-9, 4)


def write_study(folder: Path, path: Path) -> None:
    plan = {
        "data": {"path": str(path)},
        "training": {"weights": "none"},
        "search": {"warm_start": []},
        "cluster": {"weights": None},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(plan))


def start(folder: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the real program of a job, with a stand-in for the package's command line."""
    package = folder / "stand_in" / "consilia"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(PROGRAM.format(body=body))
    import consilia

    real = Path(consilia.__file__).parent
    (package / "__init__.py").write_text(f"__path__.append({str(real)!r})\n")
    return subprocess.Popen(
        [sys.executable, "-m", "consilia.cluster.entrypoint", "study.yaml", "--retries", "1", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "stand_in")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_search_gets_the_job_s_arguments_and_is_run_again_after_a_kill(tmp_path):
    write_study(tmp_path, tmp_path)
    job = start(tmp_path, "if n == 0: os.kill(os.getpid(), signal.SIGKILL)", "--studies", "a b", "--stores", "s")
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 0, said
    assert said.startswith(FOUND)
    assert "attempt 2 of 2" in said
    assert (tmp_path / "log").read_text().splitlines() == ["search study.yaml --studies a b --stores s"] * 2


def test_a_job_waits_for_a_search_that_ends_in_order_and_gives_its_exit_code(tmp_path):
    write_study(tmp_path, tmp_path)
    body = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), print('stored'), sys.exit(130)))\ntime.sleep(60)"
    job = start(tmp_path, body)
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    os.killpg(job.pid, signal.SIGTERM)  # Ray signals every process of the job
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 130, said
    assert "stored" in said
    assert "attempt" not in said


def test_a_missing_folder_ends_the_job_with_one_line_before_the_search(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the handlers are the job's, not the tests'
    write_study(tmp_path, tmp_path / "gone")
    assert main([str(tmp_path / "study.yaml"), "--retries", "3", "--studies", "s"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("consilia: ")
    assert f"{tmp_path / 'gone'} (data.path)" in line
