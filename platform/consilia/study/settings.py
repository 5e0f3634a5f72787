"""Overrides of keys: from the command line or from Python, with paths that start from the working directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from consilia.config.catalog import is_file_reference, resolve_path
from consilia.errors import PlanError

BY_NAME = ("ensemble", "cluster")  # sections that a name or a file may stand for

Settings = Sequence[str] | Mapping[str, Any]
"""Overrides of keys: `key=value` texts as the command line takes them, or a mapping from dotted keys to values."""


def as_texts(settings: Settings) -> list[str]:
    """Return settings as `key=value` texts, whose values are YAML.

    Raises:
        PlanError: A value is nothing that YAML can hold.
    """
    if not isinstance(settings, Mapping):
        return list(settings)
    return [f"{key}={_as_yaml(key, value)}" for key, value in settings.items()]


def key_of(setting: str) -> str:
    """Return the key of a `key=value` text."""
    return setting.partition("=")[0]


def from_here(overrides: dict[str, Any]) -> dict[str, Any]:
    """Let the files that settings name start from the working directory, not from the study file's folder."""
    data = overrides.get("data")
    here = {key: _file_from_here(value) for key, value in overrides.items() if key in BY_NAME}
    if isinstance(overrides.get("spaces"), list):
        here["spaces"] = [_file_from_here(each) for each in overrides["spaces"]]
    if isinstance(data, dict):
        here["data"] = data | {"card": _file_from_here(data["card"])} if "card" in data else dict(data)
        if data.get("path") is not None:
            here["data"]["path"] = str(resolve_path(data["path"], Path.cwd()))
    training = overrides.get("training")
    if isinstance(training, dict) and "weights" in training:
        here["training"] = training | {"weights": weights_from(training["weights"], Path.cwd())}
    search = overrides.get("search")
    if isinstance(search, dict) and isinstance(search.get("warm_start"), list):
        here["search"] = search | {"warm_start": folders_from(search["warm_start"], Path.cwd())}
    return {**overrides, **here}


def folders_from(references: Sequence[Any], base: Path) -> tuple[Any, ...]:
    """Let folders of studies start from `base`; a reference without a slash is the name of a study."""
    return tuple(
        str(resolve_path(each, base)) if isinstance(each, str) and "/" in each else each for each in references
    )


def weights_from(weights: Any, base: Path) -> Any:
    """Let a folder or file of weights start from `base`; a word such as "imagenet" stays as it is."""
    is_path = isinstance(weights, str) and ("/" in weights or weights.endswith(".safetensors"))
    return str(resolve_path(weights, base)) if is_path else weights


def _as_yaml(key: str, value: Any) -> str:
    try:
        text = yaml.safe_dump(
            str(value) if isinstance(value, PurePath) else value, default_flow_style=True, width=10**6
        )
    except yaml.YAMLError:
        raise PlanError(f"{key} must be a plain value, such as a number, a text or a list, but is {value!r}.") from None
    return text.removesuffix("...\n")


def _file_from_here(reference: Any) -> Any:
    return str(resolve_path(reference, Path.cwd())) if is_file_reference(reference) else reference
