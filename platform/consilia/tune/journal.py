"""Reads Optuna's journal line by line, without Optuna: what may be told to others of it, and when."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

# Of Optuna's JournalOperation and TrialState; `tests/tune/test_journal.py` compares.
SET_PARAM, SET_STATE = 5, 6
ENDED = (1, 2, 3)  # complete, pruned, failed


@dataclass(frozen=True, slots=True)
class Extent:
    """The beginning of a journal."""

    content: bytes
    drawn: frozenset[int]  # numbers of the trials whose configurations it holds; empty where no trial was asked for


def cut_journal(content: bytes, *, before_end_of: Collection[int]) -> Extent:
    """Return the journal up to the first line that ends one of these trials: a state that it was once in.

    A configuration is drawn without a pause, so that no trial ends within it: the beginning holds it whole or not at
    all.

    Args:
        content: Whole lines.
        before_end_of: Numbers of trials.
    """
    if not before_end_of:
        return Extent(content, frozenset())
    drawn: set[int] = set()
    length = 0
    for line in content.splitlines(keepends=True):
        entry = json.loads(line)
        if entry["op_code"] == SET_STATE and entry["state"] in ENDED and entry["trial_id"] in before_end_of:
            break
        if entry["op_code"] == SET_PARAM:
            drawn.add(entry["trial_id"])
        length += len(line)
    return Extent(content[:length], frozenset(drawn))


def whole_lines(content: bytes) -> bytes:
    """Return the content without a last line that is still being written."""
    return content[: content.rfind(b"\n") + 1]


def hours_to_end(content: bytes) -> dict[int, float]:
    """Return by trial the hours from the first trial's start to its end; its last one, if it was taken up again.

    Args:
        content: Whole lines.
    """
    starts: list[datetime] = []
    ends: dict[int, datetime] = {}
    for entry in map(json.loads, content.splitlines()):
        if entry.get("datetime_start"):
            starts.append(datetime.fromisoformat(entry["datetime_start"]))
        if entry["op_code"] == SET_STATE and entry.get("datetime_complete"):
            ends[int(entry["trial_id"])] = datetime.fromisoformat(entry["datetime_complete"])
    if not starts:
        return {}
    return {number: (end - min(starts)).total_seconds() / 3600 for number, end in ends.items()}
