"""Which models timm knows, read from its source: importing it takes seconds."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_MODEL = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)


def is_surely_known(names: Iterable[str]) -> bool:
    """Say whether timm defines all of these models; where not, only timm itself can tell, and say what is meant.

    Args:
        names: Of timm, without the tag that names weights: tags stand in another place.
    """
    return all(name in _models() for name in names)


@cache
def _models() -> frozenset[str]:
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    files = Path(spec.origin).with_name("models").rglob("*.py")
    return frozenset(name for file in files for name in _MODEL.findall(file.read_text(encoding="utf-8")))
