"""YAML in which nothing is lost: no key twice, no setting that another one hides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from consilia.errors import PlanError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        PlanError: The file is missing, is not UTF-8 YAML, is not a mapping, or names a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise PlanError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise PlanError(f"{path}{_explain_yaml(error)}") from None
    if not isinstance(content, dict):
        raise PlanError(f"{path} must hold keys and values, but holds {type(content).__name__}.")
    return content


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Turn `--set` arguments such as "training.epochs=5" into a nested mapping; values are YAML.

    Raises:
        PlanError: A setting has no "=", or its value is not YAML.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise PlanError(f"--set needs key=value, but got {setting!r}.")
        try:
            value: Any = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError as error:
            raise PlanError(f"--set {key}: the value is not YAML{_explain_yaml(error)}") from None
        _put(parsed, key, value)
    return parsed


def merge(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with `overrides` on top; mappings are merged, everything else is replaced."""
    merged = dict(content)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error: the first value would be lost in silence."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
        if (key_node.tag, key_node.value) in seen:
            problem = f"the key {key_node.value!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add((key_node.tag, key_node.value))
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _explain_yaml(error: yaml.YAMLError) -> str:
    """Return ", line 3: what is wrong there" in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f", line {error.problem_mark.line + 1}: {error.problem}."
    return f": {' '.join(str(error).split())}."


def _put(parsed: dict[str, Any], key: str, value: Any) -> None:
    """Store `value` under a dotted key; a later setting of the same key counts.

    Raises:
        PlanError: One setting gives a value to what another one gives keys.
    """
    *sections, last = key.split(".")
    for number, section in enumerate(sections):
        parsed = parsed.setdefault(section, {})
        if not isinstance(parsed, dict):
            whole = ".".join(sections[: number + 1])
            raise PlanError(f"--set {key}: another --set gives {whole} a value of its own; use one of the two.")
    below = parsed.get(last)
    if isinstance(below, dict) and not isinstance(value, dict):
        raise PlanError(f"--set {key}: another --set gives keys below {key}; use one of the two.")
    parsed[last] = merge(below, value) if isinstance(below, dict) else value
