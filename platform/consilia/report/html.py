"""What every page shares: one environment of templates that escapes all values, and pictures inside the page."""

import base64
import io
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image as Pillow

Rows = list[list[str]]  # (n_rows, n_columns) cells of a table


def page_environment() -> Environment:
    """Return the environment of `report/templates`: values are escaped, and a name that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("consilia.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = set_code
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment


def set_code(text: str) -> Markup:
    """Escape, and set what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def embed_png(picture: Pillow.Image) -> str:
    """Return a picture as a data URI that shows every pixel as it is."""
    return _embed(picture, "png")


def embed_jpeg(picture: Pillow.Image) -> str:
    """Return a picture as a data URI of about a tenth of the size, for looking at."""
    return _embed(picture, "jpeg")


def _embed(picture: Pillow.Image, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, format=kind, **({"quality": 82} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode("ascii")
