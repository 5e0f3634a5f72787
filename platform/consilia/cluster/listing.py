"""How far a job's search has come, from the lines that it has printed: those of `report.progress` and `study.end`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consilia.metrics.scores import METRICS

_STORED = re.compile(r"(\d+) trials are stored already and are not repeated\.(.*)")
_BEST = re.compile(r" Best so far: trial \d+, \S+ (-?[\d.]+)\.")
_ENDED = re.compile(r"trial +(\d+)  (finished|stopped|failed) ")
_STOPPED = re.compile(r"consilia: (Stopped with .*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """A job that searches. What its log does not say is None."""

    job: str
    study: str
    state: str  # as Ray names it: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    metric: str  # of the study
    best: float | None = None  # objective of the best finished trial
    n_done: int | None = None  # trials that have ended, those of earlier jobs of the study too
    n_trials: int | None = None  # that the study asks for


def describe_study(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return what a job keeps in its metadata, which Ray takes as texts, for `summarise`."""
    search = plan["search"]
    return {
        "job_name": f"consilia search {plan['name']}",
        "consilia_study": str(plan["name"]),
        "consilia_metric": str(search["metric"]),
        "consilia_trials": str(search["trials"]),
    }


def summarise(job: str, state: str, metadata: Mapping[str, str], log: str) -> JobSummary:
    """Return how far a job has come, from its metadata and everything that it has printed."""
    metric, trials = metadata.get("consilia_metric", ""), metadata.get("consilia_trials", "")
    n_before, known = 0, False
    ended: set[str] = set()
    scores: list[float] = []
    score = re.compile(rf" {re.escape(metric)} (-?[\d.]+) ")
    for line in log.splitlines():
        if match := _STORED.match(line):  # the search begins, or begins again
            n_before, known, ended = int(match[1]), True, set()
            scores += [float(best[1]) for best in [_BEST.match(match[2])] if best]
        elif match := _ENDED.match(line):
            ended.add(match[1])
            found = score.search(line)
            scores += [float(found[1])] if found and match[2] == "finished" else []
    return JobSummary(
        job=job,
        study=metadata["consilia_study"],
        state=state,
        metric=metric,
        best=None if not scores else max(scores) if METRICS[metric].higher_is_better else min(scores),
        n_done=n_before + len(ended) if known or ended else None,
        n_trials=int(trials) if trials.isdecimal() else None,
    )


def find_farewell(log: str) -> str:
    """Return what a search said when it was stopped in order; nothing if it did not get that far."""
    said = [match[1] for match in map(_STOPPED.match, log.splitlines()) if match]
    return said[-1] if said else ""
