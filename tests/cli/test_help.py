"""Help is there for every command, with an example, and at once."""

import os
import subprocess
import sys

import pytest

from consilia.cli.app import run

COMMANDS = [
    "init",
    *("search", "train", "trials", "report", "suspects"),
    *("ensemble", "evaluate", "compare", "predict", "explain", "figures", "serve"),
    *("submit", "jobs", "status", "logs", "stop"),
    *("data phantoms", "data prepare", "data audit", "data preview"),
    *("weights list", "weights fetch"),
    *("export onnx", "export dicom", "export mlflow"),
]
HEAVY = {"torch", "ray", "optuna", "pandas", "timm", "numpy", "sklearn", "PIL"}
CPU_SECONDS = """
import os, resource, subprocess, sys
subprocess.run([sys.executable, "-m", "consilia", "--help"], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself_with_an_example(command, capsys):
    assert run([*command.split(), "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: consilia {command} " in text


def test_the_help_names_every_command(capsys):
    assert run(["--help"]) == 0
    printed = capsys.readouterr().out
    for group in ("data", "weights", "export"):
        run([group, "-h"])
        printed += capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command.split()[-1]} " in printed


def test_no_command_is_missing_from_these_tests():
    from consilia.cli.app import app

    own = {command.name or command.callback.__name__ for command in app.registered_commands}
    below = {
        f"{group.name} {command.name or command.callback.__name__}"
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands
    }
    assert own | below == set(COMMANDS)


@pytest.mark.parametrize("arguments", ["--help", "search --help", "predict --help", "submit --help"])
def test_help_imports_nothing_heavy(arguments):
    program = f"""
import sys
from consilia.cli.app import run
code = run({arguments.split()!r})
print("heavy:", sorted({HEAVY!r} & sys.modules.keys()), code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: [] 0"


def test_help_takes_less_than_half_a_second_of_the_processor():
    def measure() -> float:
        done = subprocess.run([sys.executable, "-c", CPU_SECONDS], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert min(measure() for _ in range(5)) < 0.5


def test_the_module_and_the_installed_command_are_one():
    command = os.path.join(os.path.dirname(sys.executable), "consilia")
    outputs = [
        subprocess.run([*start, "serch"], capture_output=True, text=True)
        for start in ([command], [sys.executable, "-m", "consilia"])
    ]
    assert [each.returncode for each in outputs] == [2, 2]
    assert outputs[0].stderr == outputs[1].stderr != ""
