"""A matplotlib figure as SVG inside a page: text stays text, and its ink is the page's, light or dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

from consilia.report.figures import COLOURS

_INK = "#123457"  # stands for the page's ink until the drawing is done; no figure has this colour
_COLOURS = {_INK: "currentColor", COLOURS[0]: "var(--curve)", COLOURS[-1]: "currentColor"}  # dim or unseen in the dark
_STYLE: Any = {  # matplotlib types the keys one by one
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $x$
    "svg.hashsalt": "consilia",  # with no date either, equal figures give equal bytes
    "font.size": 10,
    "axes.linewidth": 0.7,
    "axes.grid": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}
_XMLNS = re.compile(r' xmlns(:\w+)?="[^"]*"')
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(xlink:href="#|url\(#)([^")]+)')


@contextmanager
def page_style() -> Iterator[None]:
    """Draw figures for a page for the length of a block."""
    with rc_context(_STYLE):
        yield


def inline_svg(figure: Figure, *, name: str, title: str, description: str) -> Markup:
    """Return the figure as an element of a page, of the width that it finds there.

    Args:
        figure: Drawn within `page_style`.
        name: Unlike that of any other figure of the page; the element's identifiers begin with it.
        title: What it shows, read to people who do not see it.
        description: What there is to see in it, likewise.
    """
    file = io.StringIO()
    with page_style():
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening, _, content = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None, "matplotlib writes one"
    head = (
        f'<svg {box[0]} role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    content = _own_ids(_XMLNS.sub("", content), name)
    for drawn, shown in _COLOURS.items():
        content = content.replace(drawn, shown)
    return Markup(head + content)


def _own_ids(svg: str, name: str) -> str:
    """Keep the identifiers that something refers to, and begin them with the figure's name."""
    used = {found[2] for found in _REFERENCE.finditer(svg)}
    kept = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    return _REFERENCE.sub(lambda found: f"{found[1]}{name}-{found[2]}", kept)
