"""What a wheel holds is what the checkout holds: the package, and the content that people pick from."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CONTENT = ["search_spaces", "ensembles", "cluster", "data/cards", "data/samples"]
BUILT_FROM = ["pyproject.toml", "LICENSE", "README.md", "data/README.md", "platform", *CONTENT]


def files_below(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> set[str]:
    """Names of the files in a wheel that is built from a copy of the checkout, without network."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in BUILT_FROM:
        source = root / name
        (copy / name).parent.mkdir(exist_ok=True)
        copier = shutil.copytree if source.is_dir() else shutil.copy
        copier(source, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist")]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_and_its_type_marker(wheel, root):
    package = {f"consilia/{name}" for name in files_below(root / "platform" / "consilia")}
    assert "consilia/py.typed" in package
    assert package <= wheel


def test_the_wheel_ships_the_content_of_the_checkout(wheel, root):
    expected = {f"consilia/shipped/{name}/{file}" for name in CONTENT for file in files_below(root / name)}
    expected.add("consilia/shipped/data/README.md")
    assert {name for name in wheel if name.startswith("consilia/shipped/")} == expected


def test_the_wheel_holds_nothing_else(wheel, root):
    package = {f"consilia/{name}" for name in files_below(root / "platform" / "consilia")}
    others = {name for name in wheel - package if not name.startswith("consilia/shipped/")}
    assert all(".dist-info/" in name for name in others), sorted(others)
    assert not any(name.startswith(("platform/", "tests/")) for name in wheel)


def test_the_wheel_installs_the_command(wheel):
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)


def test_the_wheel_holds_the_licence(wheel):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
