"""Do the methods of docs/methods.md hold on real trials? Calibration, prediction sets and selection, side by side.

It uses the predictions that `record_trials.py` stored. Each draw takes half of the trials, images of the pool to choose
and calibrate on (half of them, or as few as a small study has), and half of the held-out images to score on; all sides
see the same draws, and what consilia ships is computed by its own functions.

    python benchmarks/methods.py [--quick] [--trials FILE] [--draws 100] [--small 300 100]
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from consilia.config.recipe import BestSingle, Greedy
from consilia.ensemble.selection import select
from shared.figures import print_figures, print_table
from shared.half_draws import HalfDraw, Sides, compare, half_draws
from shared.method_sides import (
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
from shared.trials_file import RecordedTrials, keep_trials, read_trials

TRIALS = Path(__file__).parent / "recorded" / "trials_pneumonia.parquet"
ALPHAS = (0.1, 0.05)
RATES = ("sensitivity", "specificity")
CHOOSERS: dict[str, Chooser] = {
    "greedy of 5": lambda draw: select(Greedy(), draw.candidates, draw.truth, seed=draw.seed),
    "best single": lambda draw: select(BestSingle(), draw.candidates, draw.truth, seed=draw.seed),
}

Rows = list[dict[str, Any]]
Table = tuple[list[str], list[list[str]]]  # header, and a row a side


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
    """Return the trials of the given spaces; None: of all."""
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


def _calibration_table(rows: Rows) -> Table:
    header = ["pool", "predictor", "side", "log loss", "less temperature's", "ECE (RMS, debiased)", "signed gap"]
    return header, [
        [
            *(str(row["pool"]), row["predictor"], row["side"]),
            f"{row['figures']['log_loss'][0]:.4f}",
            _signed(row["difference"]["log_loss"]),
            f"{_root(row['figures']['debiased_square'][0]):.4f}",
            _signed(row["figures"]["signed_gap"]),
        ]
        for row in rows
    ]


def _set_table(rows: Rows) -> Table:
    header = [
        "pool",
        "predictor",
        "aim",
        "side",
        "conforms",
        "by class",
        "empty",
        "shipped: covers",
        "size",
        "one",
        "right",
    ]
    return header, [
        [
            *(str(row["pool"]), row["predictor"], f"{1 - row['alpha']:.2f}", row["side"]),
            "{:.3f} ({:.3f} to {:.3f})".format(*row["figures"]["coverage"]),
            ", ".join(f"{value[0]:.3f}" for name, value in row["figures"].items() if name.startswith("coverage_")),
            f"{row['figures']['empty'][0]:.1%}",
            f"{row['figures']['shipped_coverage'][0]:.3f}",
            "{:.3f} ({:.3f} to {:.3f})".format(*row["figures"]["size"]),
            f"{row['figures']['alone'][0]:.1%}",
            f"{row['figures']['alone_right'][0]:.1%}",
        ]
        for row in rows
    ]


def _selection_table(rows: Rows) -> Table:
    header = ["pool", "side", "members", "log loss", "less greedy's", "AUC", "less greedy's", "one network"]
    header += ["optimism: log loss, less greedy's", "AUC, less greedy's"]
    return header, [
        [
            *(str(row["pool"]), row["side"], f"{row['figures']['members'][0]:.1f}"),
            f"{row['figures']['average_log_loss'][0]:.4f}",
            _signed(row["difference"]["average_log_loss"]),
            f"{row['figures']['average_macro_auc'][0]:.4f}",
            f"{row['difference']['average_macro_auc'][0]:+.4f}",
            f"{row['figures']['single_log_loss'][0]:.4f}",
            f"{row['figures']['optimism_log_loss'][0]:+.4f}, {row['difference']['optimism_log_loss'][0]:+.4f}",
            f"{row['figures']['optimism_macro_auc'][0]:+.4f}, {row['difference']['optimism_macro_auc'][0]:+.4f}",
        ]
        for row in rows
    ]


def _signed(figure: Sequence[float]) -> str:
    return "{:+.4f} ({:+.4f} to {:+.4f})".format(*figure)


def _root(square: float) -> float:
    """Return the root with the square's sign: chance may be deducted from less than it added."""
    return float(np.sign(square) * np.sqrt(abs(square)))


def _threshold_table(rows: Rows) -> Table:
    header = ["pool", "predictor", "side", *(f"{rate} of class {number}" for number in (0, 1) for rate in RATES)]
    return header, [
        [
            *(str(row["pool"]), row["predictor"], row["side"]),
            *(_share(row["figures"][f"{rate}_{number}"]) for number in (0, 1) for rate in RATES),
        ]
        for row in rows
    ]


def _share(figure: Sequence[float | None]) -> str:
    mean, low, high = figure
    return "no threshold" if mean is None else f"{mean:.3f} ({low:.3f} to {high:.3f})"


TABLES: Mapping[str, Callable[[Rows], Table]] = {
    "calibration": _calibration_table,
    "sets": _set_table,
    "thresholds": _threshold_table,
    "selection": _selection_table,
}


if __name__ == "__main__":
    main()
