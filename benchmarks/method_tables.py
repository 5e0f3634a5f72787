"""The tables of `methods.py`: a row a side, with what is measured on the held-out images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
Table = tuple[list[str], list[list[str]]]


def _calibration_table(rows: Rows) -> Table:
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
    return "no threshold" if figure[0] is None else "{:.3f} ({:.3f} to {:.3f})".format(*figure)


RATES = ("sensitivity", "specificity")
TABLES: Mapping[str, Callable[[Rows], Table]] = {
    "calibration": _calibration_table,
    "sets": _set_table,
    "thresholds": _threshold_table,
    "selection": _selection_table,
}
