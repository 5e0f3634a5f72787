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

import numpy as np
from figures import print_figures, print_table
from half_draws import HalfDraw, Sides, compare, half_draws
from method_sides import ON_LOSS, PLUS, TEMPERATURE, Chooser, calibrations, selections, sets
from trials_file import RecordedTrials, keep_trials, read_trials

from consilia.ensemble.selection import select
from consilia.plan.ensemble import BestSingle, Greedy

TRIALS = Path(__file__).parent / "trials_pneumonia.parquet"
ALPHAS = (0.1, 0.05)
CHOOSERS: dict[str, Chooser] = {
    "greedy of 5": lambda draw: select(Greedy(), draw.candidates, draw.truth, seed=draw.seed),
    "best single": lambda draw: select(BestSingle(), draw.candidates, draw.truth, seed=draw.seed),
}

Rows = list[dict[str, Any]]


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
    calibrated, covered, selected = measure_all(recorded, pools, n_draws)
    many = f"{len(recorded.trials)} trials, {n_draws} draws"
    print_table(f"Calibration on held-out images ({many}; 95 % over draws)", *_calibration_table(calibrated))
    print_table(f"Prediction sets ({many})", *_set_table(covered))
    print_figures(
        f"Selection ({many})",
        *_selection_table(selected),
        {
            "n_trials": len(recorded.trials),
            "n_draws": n_draws,
            "recorded": dict(recorded.notes),
            "calibration": calibrated,
            "sets": covered,
            "selection": selected,
        },
    )


def only_of(recorded: RecordedTrials, spaces: Sequence[str] | None) -> RecordedTrials:
    """Return the trials of some spaces; None: all."""
    rows = [row for row, trial in enumerate(recorded.trials) if spaces is None or trial["space"] in spaces]
    if len(rows) < 2:
        raise SystemExit(f"At least two trials are needed, but there are {len(rows)} of {spaces or 'all spaces'}.")
    return keep_trials(recorded, rows)


def measure_all(recorded: RecordedTrials, pools: Sequence[int | None], n_draws: int) -> tuple[Rows, Rows, Rows]:
    """Return the rows of the three tables; a pool is a number of images, or None for half of them."""
    calibrated, covered, selected = [], [], []
    for images in pools:
        rows_of = partial(_rows_of, recorded, n_draws, images)
        for predictor, choose in CHOOSERS.items():
            measure = partial(calibrations, choose=choose)
            calibrated += rows_of(measure, TEMPERATURE, predictor=predictor)
            for alpha in ALPHAS:
                measure = partial(sets, choose=choose, alpha=alpha)
                covered += rows_of(measure, PLUS, predictor=predictor, alpha=alpha)
        selected += rows_of(selections, ON_LOSS)
    return calibrated, covered, selected


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


def _calibration_table(rows: Rows) -> tuple[list[str], list[list[str]]]:
    header = ["pool", "predictor", "side", "log loss", "less temperature's", "ECE", "debiased", "signed gap"]
    return header, [
        [
            *(str(row["pool"]), row["predictor"], row["side"]),
            f"{row['figures']['log_loss'][0]:.4f}",
            _signed(row["difference"]["log_loss"]),
            f"{row['figures']['ece'][0]:.4f}",
            f"{_root(row['figures']['debiased_square'][0]):.4f}",
            _signed(row["figures"]["signed_gap"]),
        ]
        for row in rows
    ]


def _set_table(rows: Rows) -> tuple[list[str], list[list[str]]]:
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


def _selection_table(rows: Rows) -> tuple[list[str], list[list[str]]]:
    header = [
        "pool",
        "side",
        "members",
        "log loss of the average",
        "less greedy's",
        "AUC of the average",
        "less greedy's",
    ]
    header += ["log loss, AUC of single networks", "optimism in log loss", "in AUC"]
    return header, [
        [
            *(str(row["pool"]), row["side"], f"{row['figures']['members'][0]:.1f}"),
            f"{row['figures']['average_log_loss'][0]:.4f}",
            _signed(row["difference"]["average_log_loss"]),
            f"{row['figures']['average_macro_auc'][0]:.4f}",
            _signed(row["difference"]["average_macro_auc"]),
            f"{row['figures']['single_log_loss'][0]:.4f}",
            _signed(row["figures"]["optimism_log_loss"]),
            _signed(row["figures"]["optimism_macro_auc"]),
        ]
        for row in rows
    ]


def _signed(figure: Sequence[float]) -> str:
    return "{:+.4f} ({:+.4f} to {:+.4f})".format(*figure)


def _root(square: float) -> float:
    """Return the root with the square's sign: chance may be deducted from less than it added."""
    return float(np.sign(square) * np.sqrt(abs(square)))


if __name__ == "__main__":
    main()
