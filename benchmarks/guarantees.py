"""Simulations behind docs/methods.md, sections 6 and 7: what is promised, on patients drawn where the truth is known.

    OMP_NUM_THREADS=1 python benchmarks/guarantees.py [--quick] [--draws 200] [--pools 2000]

`--draws` is the number of cross-validation pools for prediction sets, `--pools` that of each setting for thresholds.
"""

import argparse
from collections.abc import Mapping

import numpy as np
from figures import print_figures
from simulated_sets import SET_SIMULATIONS
from simulated_thresholds import disagreement_flags, least_answered, least_positive, share_below_target

PATIENTS, CORRELATIONS = (80, 300, 1000), (0.0, 0.5, 0.9)
TARGETS = (0.8, 0.9, 0.95, 0.99)
FOLDS = (1, 3, 5)
RISK = 0.05
TITLES = {
    "sets": "share covered by prediction sets, aim 0.9",
    "thresholds": "share of pools with a true sensitivity below 0.95",
    "disagreement_flags": "share of usual images flagged for disagreement",
    "least_positive_patients": "least patients, all found",
    "least_answered_patients": "least answered patients, all rightly",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 draws and 20 pools")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--pools", type=int)
    arguments = parser.parse_args()
    n_draws = arguments.draws or (5 if arguments.quick else 200)
    n_pools = arguments.pools or (20 if arguments.quick else 2000)
    figures: dict[str, Mapping[str, tuple[float, float | None]]] = {
        "sets": {name: measure(n_draws) for name, measure in SET_SIMULATIONS.items()},
        "thresholds": measure_thresholds(n_pools),
        "disagreement_flags": {f"folds: {n}": (disagreement_flags(n), None) for n in FOLDS},
        "least_positive_patients": {f"sensitivity {target:g}": (least_positive(target), None) for target in TARGETS},
        "least_answered_patients": {f"risk {RISK:g}": (least_answered(RISK), None)},
    }
    print_figures(
        f"{n_draws} draws for sets, {n_pools} pools a setting for thresholds",
        ["what", "setting", "found", "standard error"],
        [(TITLES[kind], name, *_words(*found)) for kind, part in figures.items() for name, found in part.items()],
        {"n_draws": n_draws, "n_pools": n_pools, **figures},
    )


def measure_thresholds(n_pools: int) -> dict[str, tuple[float, float]]:
    """Return of each setting the share of broken promises, and its standard error."""
    found = {}
    for patients in PATIENTS:
        for correlation in CORRELATIONS:
            share = share_below_target(n_pools, patients=patients, correlation=correlation)
            error = float(np.sqrt(share * (1 - share) / n_pools))
            found[f"{patients} patients, correlation {correlation:g}"] = share, error
    return found


def _words(value: float, error: float | None) -> tuple[str, str]:
    if isinstance(value, int):
        return str(value), ""
    return f"{value:.3f}", "" if error is None else f"{error:.3f}"


if __name__ == "__main__":
    main()
