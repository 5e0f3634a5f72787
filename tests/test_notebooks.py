"""Every notebook runs from top to bottom on what `make demo` leaves, by the public API alone; none holds output."""

import re
import tempfile
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

import consilia
from consilia.study.folder import claim_folder
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan
from consilia.study.run import make_missing_folds
from whole_study import search_here

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PLAN = {
    "name": "phantoms",
    "data": {"card": "phantoms", "size": 32},
    "folds": {"k": 2},
    "spaces": ["tiny"],
    "search": {"trials": 3, "stopping": {"kind": "none"}},
    "training": {"epochs": 2, "batch_size": 16},
}


def stem(path: Path) -> str:
    return path.stem


def slow(path: Path):
    return pytest.param(path, marks=pytest.mark.slow("one kernel that imports torch is enough"))


def code_of(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.fixture(scope="module")
def demo(phantoms, tmp_path_factory, one_thread) -> Path:
    """A small one: a search of three trials without Ray, and its ensemble."""
    root = tmp_path_factory.mktemp("demo")
    (root / "phantoms").symlink_to(phantoms)
    file = root / "phantoms.yaml"
    file.write_text(yaml.safe_dump({**PLAN, "data": {**PLAN["data"], "path": str(root / "phantoms")}}))
    plan = read_plan(file, networks=False)
    study = OpenStudy.of(plan, studies=root / "studies", stores=root / "stores")
    with claim_folder(plan, study.studies):
        make_missing_folds(study)
        search_here(study)
    consilia.open_study(study.folder.root).build()
    return root


@pytest.mark.parametrize("notebook", [path if path.stem == "predict" else slow(path) for path in NOTEBOOKS], ids=stem)
def test_the_cells_run_from_top_to_bottom(notebook, demo, monkeypatch):
    monkeypatch.setenv("CONSILIA_DEMO", str(demo))
    with tempfile.TemporaryDirectory(prefix="nb-", dir="/tmp") as folder:  # a socket's path may have 107 characters
        client = NotebookClient(nbformat.read(notebook, as_version=4), timeout=200)
        client.create_kernel_manager().transport = "ipc"  # no port is opened
        client.km.ip = f"{folder}/kernel"
        client.execute(cwd=str(FOLDER))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=stem)
def test_no_output_is_committed(notebook):
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    for cell in content.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=stem)
def test_only_the_public_interface_is_used(notebook):
    code = code_of(notebook)
    assert "from consilia" not in code
    used = set(re.findall(r"\bconsilia\.(\w+)", code))
    assert used <= set(consilia.__all__)
    assert used


def test_the_readme_names_every_notebook(root):
    text = (root / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"`{path.name}`" not in text] == []
