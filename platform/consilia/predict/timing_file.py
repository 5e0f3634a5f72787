"""Timings that are remembered between processes, so that a machine measures once and then always computes alike.

The file is a convenience: one that is missing, damaged or cannot be written is passed over, and it may be deleted.
"""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from consilia.files import write_json
from consilia.predict.timing import Timing

MOST_TIMINGS = 500  # the oldest are dropped
_MAX_BYTES = 2**20
_SCHEMA = 1


def timings_file() -> Path:
    """Return where this user's timings lie: `$XDG_CACHE_HOME/consilia/execution.json`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "consilia" / "execution.json"


def recall(path: Path, key: str) -> Timing | None:
    """Return the timing that is remembered under `key`; None where there is none."""
    return _timing(_read(path).get(key))


def remember(path: Path, key: str, timing: Timing) -> None:
    """Add a timing; others that are written at the same moment may be lost, and are then measured again."""
    entries = {name: value for name, value in _read(path).items() if name != key}
    entries[key] = {"in_turn": timing.in_turn, "together": timing.together}
    newest = dict(list(entries.items())[-MOST_TIMINGS:])
    with contextlib.suppress(OSError):
        write_json(path, {"schema": _SCHEMA, "seconds": newest})


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        return {}
    seconds = content.get("seconds")
    if not isinstance(seconds, dict):
        return {}
    return {name: value for name, value in seconds.items() if _timing(value) is not None}


def _timing(value: object) -> Timing | None:
    if not isinstance(value, dict) or not _is_seconds(value.get("in_turn")):
        return None
    together = value.get("together")
    if together is not None and not _is_seconds(together):
        return None
    return Timing(in_turn=value["in_turn"], together=together)


def _is_seconds(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0
