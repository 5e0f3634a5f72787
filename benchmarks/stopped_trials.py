"""What TPE is told of trials that racing stopped: COMPLETE with their adjusted mean, or PRUNED with it.

TPE searches recorded trials: a suggestion runs as the nearest recorded configuration that has not run yet, and TPE
hears of that one. Defaults are left out: a search tries them first, whatever TPE is told. Each replay has its own seed,
and all ways of telling share it, so that they differ in pairs. Random suggestions show what a replay can tell apart.

    python benchmarks/stopped_trials.py [--quick] [--replays 100] [--trials 36] [--slots 1 4]
"""

import argparse
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from consilia.config.catalog import load
from consilia.config.records import EpochReport
from consilia.config.space import Hyperparameters, SearchSpace, Value
from consilia.tune.optuna_internals import report_value, reseed
from consilia.tune.space import JointSpace, join_spaces
from consilia.tune.suggester import make_sampler
from racing import CURVES, curves_of
from shared.figures import print_figures
from shared.race import OURS, Curves, make_ours, reports
from shared.recording import draw_tasks

WAYS = ("COMPLETE", "PRUNED", "random")
TOP = 5  # configurations that are worth finding
FOUND = ("regret", "regret of the best 5", "hours to one of the best 5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 replays")
    parser.add_argument("--replays", type=int)
    parser.add_argument("--trials", type=int, default=36, help="of each search, of those that were recorded")
    parser.add_argument("--slots", type=int, nargs="+", default=(1, 4))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded = Recorded.read(CURVES)
    n_replays = arguments.replays or (3 if arguments.quick else 100)
    rows = [
        compare(recorded, n_replays=n_replays, n_trials=arguments.trials, n_slots=n_slots)
        for n_slots in arguments.slots
    ]
    header = ["slots", "told as", "searches that differ", *(f"{name} (less COMPLETE's, 95 %)" for name in FOUND)]
    print_figures(
        f"{n_replays} searches of {arguments.trials} of {len(recorded.curves)} recorded trials",
        header,
        [_cells(row["n_slots"], way, row["ways"][way]) for row in rows for way in WAYS],
        {"comparisons": rows},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Trials that were run to the end, by row."""

    space: JointSpace
    curves: Curves  # (n_trials, k, epochs), log loss
    seconds: npt.NDArray[np.float64]  # (n_trials,) of an epoch
    params: Sequence[Mapping[str, Value]]  # by parameter, as the space draws them

    @classmethod
    def read(cls, path: Path) -> "Recorded":
        """Read recorded curves, and draw their configurations again."""
        table = pd.read_parquet(path)
        space = join_spaces([load("search_spaces", "tiny", SearchSpace, base=Path.cwd())], weights="none")
        curves = curves_of(table, "log_loss")
        n_defaults = len(space.start_with)
        return cls(
            space=space,
            curves=curves[n_defaults:],
            seconds=table.groupby("trial")["seconds"].median().to_numpy()[n_defaults:],
            params=[_params(space, task.hyperparameters) for task in draw_tasks(space, len(curves))[n_defaults:]],
        )


def compare(recorded: Recorded, *, n_replays: int, n_trials: int, n_slots: int) -> dict[str, Any]:
    """Replay each way of telling with the same seeds; differences are to COMPLETE."""
    found = {
        way: np.array(
            [replay(recorded, way, seed=seed, n_trials=n_trials, n_slots=n_slots) for seed in range(n_replays)]
        )
        for way in WAYS
    }
    ways = {way: _figures(values, found["COMPLETE"]) for way, values in found.items()}
    return {"n_slots": n_slots, "n_trials": n_trials, "n_replays": n_replays, "ways": ways}


def _figures(values: npt.NDArray[np.float64], usual: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return what FOUND names, the mean over replays, and how it differs from the usual way; both (n_replays, 3)."""
    return {
        "n_differing": int((values != usual).any(axis=1).sum()),
        **{
            name: {"mean": float(values[:, column].mean()), "difference": _interval((values - usual)[:, column])}
            for column, name in enumerate(FOUND)
        },
    }


def replay(recorded: Recorded, way: str, *, seed: int, n_trials: int, n_slots: int) -> tuple[float, ...]:
    """Search the recorded trials in virtual time, and return what FOUND names.

    Regrets, in log loss, are of the best trials that ran all their folds against the best that were recorded. Where
    none of the best TOP is found, the hours are those of the whole search.
    """
    curves = recorded.curves
    means = curves[:, :, -1].mean(axis=1)
    tpe = make_sampler()
    chance = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study()
    racing = make_ours(OURS["halving + fold pruning"], curves[:n_trials])
    left = set(range(len(curves)))
    finished: dict[int, float] = {}  # seconds, by row
    running: list[tuple[float, int, int, Iterator[EpochReport]]] = []  # next epoch's end, number, row, epochs
    now, n_asked = 0.0, 0
    while running or n_asked < n_trials:
        while n_asked < n_trials and len(running) < n_slots:
            reseed(tpe, np.random.SeedSequence((seed, n_asked)).generate_state(2).tolist())
            study.sampler = chance if way == "random" else tpe
            row = nearest(study, recorded, left)
            left.remove(row)
            number = ask_for(study, recorded, row)
            heapq.heappush(running, (now + recorded.seconds[row], number, row, reports(number, curves[row])))
            n_asked += 1
        now, number, row, coming = heapq.heappop(running)
        report = next(coming)
        stops = racing.hear(report) is not None
        if stops:
            adjusted = racing.adjusted([*curves[row, : report.fold, -1], report.score])
            _tell_stopped(study, number, adjusted, way=way, n_folds=report.fold + (report.fold_result is not None))
        elif report.fold_result is not None and report.fold + 1 == curves.shape[1]:
            study.tell(number, float(means[row]))
            finished[row] = now
        else:
            heapq.heappush(running, (now + recorded.seconds[row], number, row, coming))
    best, found = np.sort(means)[:TOP], np.sort(means[list(finished)])[:TOP]
    at = min((seconds for row, seconds in finished.items() if means[row] <= best[-1]), default=now)
    return float(found[0] - best[0]), float(found.mean() - best.mean()), float(at) / 3600


def nearest(study: optuna.Study, recorded: Recorded, left: set[int]) -> int:
    """Return the row of the recorded trial that is nearest to a suggestion, which ends as FAIL: TPE takes no note."""
    suggested = study.ask()
    recorded.space.suggest(suggested)
    study.tell(suggested, state=TrialState.FAIL)
    params, ranges = suggested.params, suggested.distributions  # each makes a copy
    return min(left, key=lambda row: (_distance(params, recorded.params[row], ranges), row))


def ask_for(study: optuna.Study, recorded: Recorded, row: int) -> int:
    """Let a recorded trial run, and return its number in Optuna."""
    study.enqueue_trial(dict(recorded.params[row]))
    trial = study.ask()
    recorded.space.suggest(trial)
    return trial.number


def _params(space: JointSpace, hyperparameters: Hyperparameters) -> dict[str, Value]:
    values = hyperparameters.model_dump()
    return space.draw(lambda name, _: values[name])


def _distance(one: Mapping[str, Any], other: Mapping[str, Any], ranges: Mapping[str, BaseDistribution]) -> float:
    """Return the squared distance in units of each range; another choice, or a parameter that one lacks, is 1."""
    total = float(len(one.keys() ^ other.keys()))
    for name in one.keys() & other.keys():
        range_ = ranges[name]
        if isinstance(range_, CategoricalDistribution):
            total += one[name] != other[name]
        elif not range_.single():
            assert isinstance(range_, FloatDistribution)
            scale = np.log if range_.log else float
            width = scale(range_.high) - scale(range_.low)
            total += float((scale(one[name]) - scale(other[name])) / width) ** 2
    return total


def _tell_stopped(study: optuna.Study, number: int, adjusted: float, *, way: str, n_folds: int) -> None:
    if way == "PRUNED":
        report_value(study, number, step=n_folds, value=adjusted)
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, adjusted)


def _interval(differences: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean over replays and its 95 % interval."""
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    return float(mean), float(mean - 1.96 * error), float(mean + 1.96 * error)


def _cells(n_slots: int, way: str, found: Mapping[str, Any]) -> list[str]:
    numbers = []
    for name in FOUND:
        mean, low, high = found[name]["difference"]
        numbers.append(
            f"{found[name]['mean']:.4f}" + (f" ({mean:+.4f}, {low:+.4f} to {high:+.4f})" if way != WAYS[0] else "")
        )
    return [str(n_slots), way, str(found["n_differing"]), *numbers]


if __name__ == "__main__":
    main()
