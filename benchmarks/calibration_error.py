"""Is the calibration error that tables show the true one? Simulated patients, one image each, two classes.

    OMP_NUM_THREADS=1 python benchmarks/calibration_error.py [--quick] [--repeats 1000] [--draws 500]

Confidences are distorted by a temperature; the truth is the root mean squared error of those of two million images.
Beside the shipped estimator stands what it replaced: 15 bins, mean absolute gap, not debiased.
"""

import argparse
from itertools import product

import numpy as np
import numpy.typing as npt

from consilia.config.records import Labels, Probabilities
from consilia.metrics.bootstrap import draw_patients, patient_bootstrap
from shared.figures import print_figures

SIZES = (100, 300, 1000)
TEMPERATURES = (1.0, 0.8, 0.5)  # calibrated, over-confident, very
Numbers = npt.NDArray[np.float64]


HEADER = ("temperature", "images", "truth", "mean estimate", "intervals with the truth", "with their estimate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 repeats")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--draws", type=int, default=500)
    arguments = parser.parse_args()
    repeats = arguments.repeats or (3 if arguments.quick else 1000)
    figures, rows = {}, []
    for temperature, n in product(TEMPERATURES, SIZES):
        sides = measure(n, temperature, _true_errors(temperature), repeats=repeats, draws=arguments.draws)
        figures[f"temperature {temperature:g}, {n} images"] = dict(
            zip(("debiased", "plain"), sides.tolist(), strict=True)
        )
        for name, side in zip(("", " (plain)"), sides, strict=True):
            cells = (f"{side[0]:.3f}", f"{side[1]:.3f}", f"{side[2]:.1%}", f"{side[3]:.1%}")
            rows.append((f"{temperature:g}{name}", f"{n:,}", *cells))
    print_figures(f"{repeats} repeats", HEADER, rows, figures)


def measure(n: int, temperature: float, truth: tuple[float, float], *, repeats: int, draws: int) -> Numbers:
    """Return truth, mean estimate, shares of intervals with the truth and the estimate: shipped, not debiased, (2, 4).

    Args:
        n: Images.
        temperature: Below 1 is over-confident.
        truth: Root mean squared, and mean absolute error.
        repeats: Simulated data sets.
        draws: Of each bootstrap.
    """
    generator = np.random.default_rng(n)
    patients = np.arange(n).astype(str)
    found = []
    for seed in range(repeats):
        probabilities, labels, _ = _simulate(n, temperature, generator)
        new = patient_bootstrap(["ece"], probabilities, labels, patients, draws=draws, seed=seed)["ece"]
        weightings = np.concatenate(list(draw_patients(n, n, draws=draws, seed=seed)))
        value, *plain = _plain(probabilities, labels, np.concatenate([np.ones((1, n)), weightings]))
        sides = (truth[0], new.value, new.low, new.high), (truth[1], value, *np.percentile(plain, [2.5, 97.5]))
        found.append([(true, value, low <= true <= high, low <= value <= high) for true, value, low, high in sides])
    result: Numbers = np.mean(found, axis=0)
    return result


def _simulate(n: int, temperature: float, generator: np.random.Generator) -> tuple[Probabilities, Labels, Numbers]:
    """Return probabilities, (n, 2), labels, and the error of each probability, (n,)."""
    logits = generator.normal(0, 2, n)
    truth, said = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-logits / temperature))
    labels = (generator.random(n) < truth).astype(np.int64)
    return np.column_stack([1 - said, said]), labels, np.abs(said - truth)


def _true_errors(temperature: float) -> tuple[float, float]:
    errors = _simulate(2_000_000, temperature, np.random.default_rng(0))[2]
    return float(np.sqrt((errors**2).mean())), float(errors.mean())


def _plain(probabilities: Probabilities, labels: Labels, weightings: Numbers) -> Numbers:
    """Return the mean absolute gap of 15 bins under each weighting, (n_weightings,)."""
    order = np.argsort(probabilities.max(axis=1), kind="stable")
    gaps = (probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels))[order]
    weightings = weightings[:, order]
    total = weightings.sum(axis=1, keepdims=True)
    bins = np.minimum(((np.cumsum(weightings, axis=1) - weightings / 2) / total * 15).astype(np.int64), 14)
    sums = [np.abs((weightings * gaps * (bins == each)).sum(axis=1)) for each in range(15)]
    result: Numbers = np.sum(sums, axis=0) / total[:, 0]
    return result


if __name__ == "__main__":
    main()
