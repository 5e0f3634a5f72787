"""YAML with a comment beside each key that has one, and with nothing that a reader would read otherwise."""

from collections.abc import Mapping
from typing import Any

import yaml

_MOST_COMMENT = 110  # columns; a longer one stands above its key


def commented_yaml(content: Mapping[str, Any], why: Mapping[str, str], *, title: str) -> str:
    """Return `content` as YAML that reads back equal.

    Args:
        content: Texts, numbers, lists, and mappings of them.
        why: Comments by dotted key.
        title: The first line, without its "#".
    """
    text = "\n".join([*(f"# {line}" for line in title.splitlines()), *_lines(content, why, ()), ""])
    assert yaml.safe_load(text) == content
    return text


def _lines(content: Mapping[str, Any], why: Mapping[str, str], above: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    indent = "  " * len(above)
    for key, value in content.items():
        nested = isinstance(value, Mapping) and bool(value)
        line = f"{indent}{_flow(key)}:" + ("" if nested else f" {_flow(value)}")
        comment = " ".join(why.get(".".join((*above, key)), "").split())
        if comment and len(line) + len(comment) > _MOST_COMMENT:
            lines.append(f"{indent}# {comment}")
        elif comment:
            line = f"{line}  # {comment}"
        lines.append(line)
        if nested:
            lines += _lines(value, why, (*above, key))
    return lines


def _flow(value: Any) -> str:
    """Return a value in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
