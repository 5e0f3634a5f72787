"""What the documentation shows is so: links lead somewhere, files that it tells people to write are read."""

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import BaseModel

from consilia.config.strict_yaml import read_yaml
from consilia.config.study import StudyPlan
from consilia.study.plan import read_card, read_plan

ROOT = Path(__file__).parents[2]
PAGES = [path for path in sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("*/*.md")) if path.parent.name != "site"]
PACKAGE = ROOT / "platform" / "consilia"
FILES = (".json", ".ipynb", ".yaml", ".parquet", ".html", ".csv")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs and hosting sites make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_relative_link_leads_to_a_file_and_its_heading(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def names_of_modules(page: Path) -> list[str]:
    """Return what a page calls by a dotted name that begins with a room, or with `consilia`."""
    rooms = "|".join(path.name for path in PACKAGE.iterdir() if path.is_dir())
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"`(?:consilia\.)?((?:{rooms})\.[a-z_]\w*(?:\.\w+)*)(?:\([^`]*\))?`", text)


def is_in_the_package(name: str) -> bool:
    """Say whether a dotted name is a module, or a name at the top of one."""
    path, parts = PACKAGE, name.split(".")
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    module = path / f"{parts.pop(0)}.py" if parts and (path / f"{parts[0]}.py").is_file() else path / "__init__.py"
    defined = rf"^(?:def|class) {parts[0]}\b|^{parts[0]}\b.* = " if parts else ""
    return module.is_file() and re.search(defined, module.read_text(encoding="utf-8"), re.MULTILINE) is not None


def is_a_key(name: str) -> bool:
    """Say whether a dotted name is a key of a study file, such as `search.budget`."""
    model, found = StudyPlan, False
    for part in name.split("."):
        if model is None or part not in model.model_fields:
            return False
        found, annotation = True, model.model_fields[part].annotation
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_that_a_page_names_exists(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("it also names what has gone")
    unknown = [name for name in names_of_modules(page) if not name.endswith(FILES)]
    assert [name for name in unknown if not is_in_the_package(name) and not is_a_key(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_of_the_checkout_that_a_page_names_exists(page):
    files = re.findall(
        r"`((?:tests|benchmarks|docs|examples|platform)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")
    )
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md", "docs/api.md"])
def test_python_that_a_page_shows_is_python(page):
    shown = [block for block in blocks(ROOT / page, "") if "import consilia" in block]
    assert shown
    for block in shown:
        compile(block, page, "exec")


def blocks(page: Path, first_line: str) -> list[str]:
    """Return the indented or fenced blocks that begin with a line."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^((?: {4}.*\n|\n)+)", text, flags=re.MULTILINE)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for block in map(textwrap.dedent, indented + fenced) if block.strip().startswith(first_line)]


def test_the_files_of_getting_started_are_read(tmp_path):
    page = ROOT / "docs" / "getting-started.md"
    for name in ("my_card.yaml", "my_study.yaml"):
        (block,) = blocks(page, f"# {name}")
        (tmp_path / name).write_text(block)
    assert read_card(str(tmp_path / "my_card.yaml")).name == "my-chest"
    assert read_plan(tmp_path / "my_study.yaml").data.name == "my-chest"


@pytest.mark.parametrize("page", ["README.md", "docs/study-file.md"])
def test_the_study_that_a_page_shows_is_read(page, tmp_path):
    (block,) = blocks(ROOT / page, "name: pneumonia")
    (tmp_path / "study.yaml").write_text(block)
    assert set(read_yaml(tmp_path / "study.yaml")) <= set(read_plan(tmp_path / "study.yaml").model_dump())


@pytest.mark.slow("builds the whole site, in half a minute")
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: make docs")
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    reference = (tmp_path / "site" / "study-file.html").read_text(encoding="utf-8")
    assert 'id="keys-budget"' in reference
    assert "consilia.load" in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
