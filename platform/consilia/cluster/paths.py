"""The files and folders that a study names: whether a node has them, and which of them travel with a job."""

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from consilia.errors import UserError

_SHIPPED = ("data.path", "training.weights", "search.warm_start")  # `read_plan` lets these start from the study file


def study_paths(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of everything that a resolved study reads from a disk."""
    if path := plan["data"].get("path"):
        yield "data.path", path
    weights = plan["training"]["weights"]
    if "/" in weights or weights.endswith(".safetensors"):
        yield "training.weights", weights
    if folder := plan["cluster"].get("weights"):
        yield "cluster.weights", folder
    for earlier in plan["search"]["warm_start"]:
        if "/" in earlier:  # else the name of a study, which the search looks up
            yield "search.warm_start", earlier


def describe_missing(plan: Mapping[str, Any], base: Path, *, node: str) -> str:
    """Say which path of a study a node does not have, and what to do; nothing if it has all of them.

    Args:
        plan: The study as `plan_to_yaml` gives it.
        base: Where relative paths start from.
        node: Name of this node.
    """
    missing = [(key, path) for key, path in study_paths(plan) if not (base / Path(path).expanduser()).exists()]
    if not missing:
        return ""
    ship = ", or send a small folder with the job: --working-dir DIR" if missing[0][0] in _SHIPPED else ""
    what = " and ".join(f"{path} ({key})" for key, path in missing)
    return f"{node}, where the job runs, does not have {what}. Put it on a disk that all nodes share{ship}."


def with_shipped_paths(plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the study with every path inside a shipped folder relative to it.

    Raises:
        UserError: None of the study's paths lies in the folder, or one that does is not there.
    """
    shipped = {path: relative for key, path in study_paths(plan) if key in _SHIPPED and (relative := _in(folder, path))}
    if not shipped:
        named = ", ".join(f"{key} {path}" for key, path in study_paths(plan)) or "it has none"
        raise UserError(f"--working-dir {folder} must hold one of the study's paths, but they are: {named}.")
    for path in shipped:
        if not Path(path).exists():
            raise UserError(f"{path} lies in --working-dir {folder}, but does not exist.")
    changed = copy.deepcopy(dict(plan))
    for section, key in (each.split(".") for each in _SHIPPED):
        value = changed[section].get(key)
        changed[section][key] = (
            [shipped.get(each, each) for each in value] if isinstance(value, list) else shipped.get(value, value)
        )
    return changed


def _in(folder: Path, path: str) -> str | None:
    """Return a path as seen from a folder, such as "./images"; None if it lies elsewhere."""
    inside, outside = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    # With its slash, a folder of weights is a path and not a word such as "imagenet".
    return f"./{inside.relative_to(outside)}" if inside.is_relative_to(outside) else None
