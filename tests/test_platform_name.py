"""The source root is called platform, and must never shadow Python's module of that name."""

import os
import subprocess
import sys

import pytest


def test_the_source_root_is_no_package(root):
    assert (root / "platform" / "consilia" / "__init__.py").is_file()
    assert not (root / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("python_path", [False, True])
@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_importing_platform_gives_the_standard_library_s(root, tmp_path, python_path, place):
    environment = {**os.environ, "PYTHONPATH": str(root)} if python_path else dict(os.environ)
    run = subprocess.run(
        [sys.executable, "-c", "import platform; print(platform.__file__)"],
        cwd=root if place == "root" else tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == os.path.join(os.path.dirname(os.__file__), "platform.py")
