"""What starts in a moment: the driver of a search, its relays and its broker import nothing that only workers need."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "sklearn", "captum"}


def heavy_modules(program: str) -> str:
    """Run a program in a fresh interpreter, and return which heavy modules it has imported."""
    asked = f"{program}\nimport sys\nprint(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", asked], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    [
        "consilia.study.run",
        "consilia.tune.broker",
        "consilia.tune.far_training",
        "consilia.tune.relay",
        "consilia.tune.train_internals",
        "consilia.tune.worker",
    ],
)
def test_a_module_is_imported_without_what_takes_seconds(module: str):
    assert heavy_modules(f"import {module}") == "[]"


def test_a_plan_is_read_for_a_search_without_what_takes_seconds(study_file):
    program = f"from consilia.study.plan import read_plan\nread_plan({str(study_file)!r}, networks=False)"
    assert heavy_modules(program) == "[]"
