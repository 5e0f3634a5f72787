"""What the documentation shows is so: links lead somewhere, files that it tells people to write are read."""

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from consilia.config.strict_yaml import read_yaml
from consilia.study.plan import read_card, read_plan

ROOT = Path(__file__).parents[2]
PAGES = [path for path in sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("*/*.md")) if path.parent.name != "site"]
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
