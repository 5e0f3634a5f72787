"""`consilia trials`: a table for people, JSON and CSV for scripts, and --watch beside a running search."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from consilia.cli.app import run
from consilia.config.record_files import read_trial, write_trial
from consilia.config.records import TrialRecord
from consilia.config.space import Hyperparameters
from consilia.config.study_folder import StudyFolder
from consilia.study.folder import claim_folder, hold_study
from consilia.study.plan import read_plan


@pytest.fixture
def folder(study_file: Path, tmp_path: Path) -> StudyFolder:
    """A study of two trials that has not begun."""
    with claim_folder(read_plan(study_file), tmp_path) as folder:
        return folder


def write(folder: StudyFolder, number: int, state: str, objective: float | None = None) -> None:
    configuration = Hyperparameters(architecture="test_resnet", lr=0.1 + 0.2)
    record = TrialRecord(number=number, state=state, hyperparameters=configuration, objective=objective)
    write_trial(folder.trial(number).record, record)


def trials(folder: StudyFolder, *arguments: str) -> int:
    return run(["trials", folder.root.name, "--studies", str(folder.root.parent), *arguments])


def start(folder: StudyFolder, *arguments: str, **streams: object) -> subprocess.Popen[str]:
    command = ("trials", folder.root.name, "--studies", str(folder.root.parent), *arguments)
    return subprocess.Popen([sys.executable, "-m", "consilia", *command], text=True, **streams)


def test_a_trained_study_is_printed_in_every_format(trained, capsys):
    stored = read_trial(trained.folder.trial(0).record)
    scores = [fold.metrics["log_loss"] for fold in stored.folds]
    assert trials(trained.folder) == 0
    table = capsys.readouterr().out
    assert "finished" in table
    assert f"{stored.objective:.4f}" in table

    assert trials(trained.folder, "--format", "json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["objective"], found["fold_scores"]) == (stored.objective, scores)
    assert found["hyperparameters"] == stored.hyperparameters.model_dump()

    assert trials(trained.folder, "--format", "csv") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [float(row[name]) for name in ("objective", "fold_0", "fold_1")] == [stored.objective, *scores]
    assert float(row["lr"]) == stored.hyperparameters.lr


def test_a_study_without_trials_prints_an_empty_table_list_and_header(folder, capsys):
    assert trials(folder) == 0
    assert "Trials by log_loss" in capsys.readouterr().out
    assert trials(folder, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert trials(folder, "--format", "csv") == 0
    header = capsys.readouterr().out
    assert header.startswith("trial,state,metric,objective,fold_0,fold_1,architecture,lr,")
    assert header.count("\n") == 1


def test_scripts_get_nothing_but_the_data_on_standard_output(folder):
    write(folder, 0, "running")
    done = start(folder, "--format", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = done.communicate()
    assert (done.returncode, errors) == (0, "")
    assert [row["state"] for row in json.loads(output)] == ["interrupted"]


def test_an_unknown_format_is_answered_with_the_known_ones(folder, capsys):
    assert trials(folder, "--format", "xml") == 2
    error = capsys.readouterr().err
    assert "'xml'" in error
    assert all(name in error for name in ("table", "json", "csv"))


def test_watching_in_a_format_for_scripts_is_refused(folder, capsys):
    assert trials(folder, "--format", "json", "--watch") == 2
    assert "--watch shows trials to people" in capsys.readouterr().err


def test_a_table_of_interrupted_trials_says_how_they_go_on(folder, capsys):
    write(folder, 0, "running")
    assert trials(folder) == 0
    output = capsys.readouterr().out
    assert "interrupted" in output
    assert "consilia search with the same study file resumes them" in output


def test_watching_a_study_that_nobody_works_on_ends_at_once(folder, capsys):
    write(folder, 0, "finished", 0.5)
    write(folder, 1, "paused")
    assert trials(folder, "--watch") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [["trial", "0", "finished"], ["trial", "1", "paused"]]
    assert lines[2].endswith("no search is running")


def test_watching_on_a_pipe_follows_a_search_to_its_end(folder):
    """Each change is made only once the one before it was printed: nothing depends on how fast that is."""
    with hold_study(folder):
        write(folder, 0, "running")
        with start(folder, "--watch", "--every", "0.1", stdout=subprocess.PIPE) as watcher:
            assert watcher.stdout.readline().split()[:3] == ["trial", "0", "running"]
            write(folder, 0, "finished", 0.25)
            assert "log_loss 0.2500" in watcher.stdout.readline()
            write(folder, 1, "running")
            assert watcher.stdout.readline().split()[:3] == ["trial", "1", "running"]
            write(folder, 1, "stopped", 0.75)
            assert watcher.stdout.readline().split()[:3] == ["trial", "1", "stopped"]
            rest = watcher.stdout.read()
    assert rest == "tiny  ·  2/2 trials  ·  1 finished, 1 stopped  ·  best log_loss 0.2500 (trial 0)\n"
    assert watcher.returncode == 0


def test_watching_on_a_terminal_ends_at_ctrl_c_with_the_exit_code_of_every_command(folder):
    write(folder, 0, "running")
    leader, follower = pty.openpty()
    with hold_study(folder), open(leader, "rb", buffering=0) as terminal:
        watcher = start(folder, "--watch", stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm"})
        os.close(follower)
        shown = b""
        while b"1 running" not in shown:
            shown += terminal.read(1024)
        watcher.send_signal(signal.SIGINT)
        with suppress(OSError):  # once nobody holds the other end; what is not read would make the watcher wait
            while terminal.read(1024):
                pass
        assert watcher.wait() == 130
        assert shown.count(b"test_resnet") >= 1


def test_a_watcher_sees_that_the_search_was_killed(folder):
    program = f"""
import sys
from pathlib import Path
from consilia.config.study_folder import StudyFolder
from consilia.study.folder import hold_study
with hold_study(StudyFolder(Path({str(folder.root)!r}))):
    print("held", flush=True)
    sys.stdin.read()
"""
    write(folder, 0, "running")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as search:
        assert search.stdout.readline() == "held\n"
        with start(folder, "--watch", "--every", "0.1", stdout=subprocess.PIPE) as watcher:
            assert watcher.stdout.readline().split()[:3] == ["trial", "0", "running"]
            search.kill()
            search.wait()
            assert watcher.stdout.readline().split()[:3] == ["trial", "0", "interrupted"]
            assert watcher.stdout.readline().endswith("no search is running\n")
            watcher.stdout.read()  # hints follow; a pipe closed before them would end the watcher with 1
    assert watcher.returncode == 0


def test_a_reader_that_leaves_early_ends_the_command_in_silence(folder):
    with start(folder, "--format", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.close()  # long before the command has anything to print
        complaint = command.stderr.read()
    assert (command.returncode, complaint) == (1, "")
