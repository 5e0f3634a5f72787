"""Do the methods of docs/methods.md hold on real trials? Calibration, prediction sets and selection, side by side.

On the predictions that `record_trials.py` stored. Each draw takes half of the trials, images of the pool to choose and
calibrate on (half of them, or as few as a small study has), and half of the held-out images to score on; all sides see
the same draws, and what consilia ships is computed by its own functions.

    python benchmarks/methods.py [--quick] [--trials FILE] [--draws 100] [--small 300 100]
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from figures import print_figures, print_table
from half_draws import HalfDraw, Sides, compare, half_draws
from method_sides import (
    AVERAGE,
    ON_LOSS,
    PLUS,
    TEMPERATURE,
    Chooser,
    calibrations,
    selections,
    sets,
    thresholds,
)
from method_tables import TABLES, Rows
from trials_file import RecordedTrials, keep_trials, read_trials

from consilia.config.recipe import BestSingle, Greedy
from consilia.ensemble.selection import select

TRIALS = Path(__file__).parent / "trials_pneumonia.parquet"
ALPHAS = (0.1, 0.05)
CHOOSERS: dict[str, Chooser] = {
    "greedy of 5": lambda draw: select(Greedy(), draw.candidates, draw.truth, seed=draw.seed),
    "best single": lambda draw: select(BestSingle(), draw.candidates, draw.truth, seed=draw.seed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 draws")
    parser.add_argument("--trials", type=Path, default=TRIALS, help="a file that record_trials.py wrote")
    parser.add_argument("--space", action="append", help="only trials of this space; may be given again")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--small", type=int, nargs="+", default=[300, 100], help="images of small pools")
    arguments = parser.parse_args()
    recorded = only_of(read_trials(arguments.trials), arguments.space)
    n_draws = arguments.draws or (4 if arguments.quick else 100)
    pools: list[int | None] = [None, *arguments.small]
    found = measure_all(recorded, pools, n_draws)
    many = f"{len(recorded.trials)} trials, {n_draws} draws, means and 95 % over draws"
    *before, last = TABLES
    for kind in before:
        print_table(f"{kind.capitalize()} ({many})", *TABLES[kind](found[kind]))
    figures = {"n_trials": len(recorded.trials), "n_draws": n_draws, "recorded": dict(recorded.notes), **found}
    print_figures(f"{last.capitalize()} ({many})", *TABLES[last](found[last]), figures)


def only_of(recorded: RecordedTrials, spaces: Sequence[str] | None) -> RecordedTrials:
    """Return the trials of some spaces; None: all."""
    rows = [row for row, trial in enumerate(recorded.trials) if spaces is None or trial["space"] in spaces]
    if len(rows) < 2:
        raise SystemExit(f"At least two trials are needed, but there are {len(rows)} of {spaces or 'all spaces'}.")
    return keep_trials(recorded, rows)


def measure_all(recorded: RecordedTrials, pools: Sequence[int | None], n_draws: int) -> dict[str, Rows]:
    """Return the rows of each table; a pool is a number of images, or None for half of them."""
    found: dict[str, Rows] = {kind: [] for kind in TABLES}
    for images in pools:
        rows_of = partial(_rows_of, recorded, n_draws, images)
        for predictor, choose in CHOOSERS.items():
            measure = partial(calibrations, choose=choose)
            found["calibration"] += rows_of(measure, TEMPERATURE, predictor=predictor)
            for alpha in ALPHAS:
                measure = partial(sets, choose=choose, alpha=alpha)
                found["sets"] += rows_of(measure, PLUS, predictor=predictor, alpha=alpha)
            measure = partial(thresholds, choose=choose)
            found["thresholds"] += rows_of(measure, AVERAGE, predictor=predictor)
        found["selection"] += rows_of(selections, ON_LOSS)
    return found


def _rows_of(
    recorded: RecordedTrials,
    n_draws: int,
    images: int | None,
    measure: Callable[[HalfDraw], Sides],
    reference: str,
    **place: Any,
) -> Rows:
    draws = half_draws(recorded, draws=n_draws, pool_images=images)
    return [{"pool": images or "half", **place, **row} for row in compare(draws, measure, reference=reference)]


if __name__ == "__main__":
    main()
