"""What mkdocs is told of the site that it cannot read from docs/: pages from other folders, tables of keys, the API.

Pages such as the README stand where people look for them in the checkout and are taken from there. A link of theirs to
a file that is a page becomes a link to that page; one to any other file of the checkout becomes its name, since the
site has no copy of it; and one to nothing fails the build.
"""

import importlib
import inspect
import logging
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from keys import KEYS, tables_of

logger = logging.getLogger("mkdocs.hooks.pages")

ROOT = Path(__file__).parents[2]
TAKEN = {  # page of the site: file of the checkout
    "index.md": "README.md",
    "cards.md": "data/README.md",
    "search-spaces.md": "search_spaces/README.md",
    "recipes.md": "ensembles/README.md",
    "profiles.md": "cluster/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|^(?: {4}[^\n]*\n)+|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose text lies outside of docs/."""
    for page, source in TAKEN.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the checkout into links of the site, and append what is generated."""
    name = page.file.src_uri
    text = _with_site_links(markdown, name)
    if name in KEYS:
        text = "\n\n".join([text, *tables_of(name)])
    if name == "api.md":
        text = "\n\n".join([text, *_public_names()])
    return text


def _public_names() -> list[str]:
    """Return an entry for each function, class and error that `consilia` exports, whichever module defines it."""
    package = importlib.import_module("consilia")
    exported = [getattr(package, name) for name in package.__all__]
    classes = [each for each in exported if inspect.isclass(each)]
    groups: dict[str, list[type | Callable[..., object]]] = {
        "Functions": [each for each in exported if inspect.isfunction(each)],
        "Types": [each for each in classes if not issubclass(each, Exception)],
        "Errors": [each for each in classes if issubclass(each, Exception)],
    }
    return [
        line
        for title, group in groups.items()
        if group
        for line in (f"## {title}", *(f"::: {each.__module__}.{each.__qualname__}" for each in group))
    ]


def _with_site_links(markdown: str, page: str) -> str:
    source = TAKEN.get(page, f"docs/{page}")
    pages = {file: name for name, file in TAKEN.items()}
    pieces, end = [], 0
    for code in _CODE.finditer(markdown):  # what looks like a link in code is not one
        pieces += [_replace_links(markdown[end : code.start()], source, pages), code.group()]
        end = code.end()
    return "".join([*pieces, _replace_links(markdown[end:], source, pages)])


def _replace_links(text: str, source: str, pages: dict[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path, _, anchor = target.partition("#")
        if ":" in path or not path:
            return match.group()
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        found = pages.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if found:
            return f"{image}[{label}]({found}{'#' * bool(anchor)}{anchor})"
        if not (ROOT / file).exists():
            logger.warning("%s links to %s, which does not exist", source, target)
        return label if label.startswith("`") else f"{label} (`{file}`)" if label != file else f"`{file}`"

    return _LINK.sub(replace, text)
