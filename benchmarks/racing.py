"""Racing over folds: what it saves and what it costs, on simulated trials and on recorded ones.

consilia's own `tune.racing` decides, made from a plan with its defaults and told of every epoch; full
cross-validation, "worse than the incumbent" and Optuna's WilcoxonPruner run over the same trials in the same orders.

    python benchmarks/racing.py [--quick] [--searches 200] [--orders 200] [--settings]
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.config.study import FoldPruning, Halving, Metric, Racing, Stopping
from consilia.tune.fold_pruner import residual_sd
from consilia.tune.racing import Racing as Decides
from shared.figures import print_figures, print_table
from shared.race import FULL, METHODS, RIVALS, Curves, make, make_ours, race

CURVES = Path(__file__).parent / "recorded" / "curves_pneumonia.parquet"
K = 5
TOP = 5  # trials that must not be stopped
SIZES = (24, 50, 100)
NOISE = (1.0, 2.0)  # times that of the recorded trials
SLOTS = (1, 8)
METRICS: tuple[Metric, ...] = ("log_loss", "macro_auc")
SETTINGS: dict[str, Stopping] = {
    "defaults": Racing(),
    "keep: 12": Racing(fold_pruning=FoldPruning(keep=12)),  # a quarter of all trials, or of the largest pool
    "keep: 5": Racing(fold_pruning=FoldPruning(keep=5)),
    "eps: 0.1": Racing(fold_pruning=FoldPruning(eps=0.1)),
    "min_scores: 4": Racing(halving=Halving(min_scores=4)),
    "min_scores: 4, keep: 5": Racing(halving=Halving(min_scores=4), fold_pruning=FoldPruning(keep=5)),
    "reduction: 2": Racing(halving=Halving(reduction=2)),
    "reduction: 4": Racing(halving=Halving(reduction=4)),
    "halving alone": Halving(),
    "fold pruning alone": FoldPruning(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 searches and 20 orders")
    parser.add_argument("--searches", type=int, help="synthetic searches of each size")
    parser.add_argument("--orders", type=int, help="random orders of the recorded trials")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="trials of a synthetic search")
    parser.add_argument("--settings", action="store_true", help="replay other settings of the racing as well")
    parser.add_argument("--curves", type=Path, default=CURVES)
    arguments = parser.parse_args()
    usual = 20 if arguments.quick else 200
    recorded = pd.read_parquet(arguments.curves)
    model = fit_model(curves_of(recorded, "log_loss"))
    n_searches, n_orders = arguments.searches or usual, arguments.orders or usual
    n_slow = max(1, n_searches // 4)  # Optuna's pruner takes most of the time
    drawn = [
        synthetic(model, method, n=n, noise=noise, n_searches=n_slow if method == "WilcoxonPruner" else n_searches)
        for noise in NOISE
        for n in arguments.sizes
        for method in METHODS
    ]
    n_recorded = recorded["trial"].nunique()
    replayed = [
        replay(recorded, method, metric=metric, n=n, n_slots=n_slots, n_orders=n_orders)
        for metric in METRICS
        for n in sorted({min(n, n_recorded) for n in (24, 48, n_recorded)})
        for method in METHODS
        for n_slots in (SLOTS if method not in (*RIVALS, FULL) else (1,))
    ]
    settings = [
        replay(recorded, name, metric="log_loss", n=n, n_slots=1, n_orders=n_orders, stopping=stopping)
        for name, stopping in (SETTINGS if arguments.settings else {}).items()
        for n in sorted({min(48, n_recorded), n_recorded})
    ]
    print_table(f"{n_searches} synthetic searches of each size, {K} folds", *_synthetic_table(drawn))
    if settings:
        print_table("Other settings on the recorded trials (log loss, one slot)", *_replay_table(settings))
    print_figures(
        f"{n_recorded} recorded trials, {n_orders} random orders",
        *_replay_table(replayed),
        {"model": model.figures(), "synthetic": drawn, "replay": replayed, "settings": settings},
    )


def curves_of(recorded: pd.DataFrame, metric: Metric) -> Curves:
    """Return the recorded scores, (n_trials, k, epochs), in recorded order."""
    table = recorded.pivot(index="trial", columns=["fold", "epoch"], values=metric).sort_index(axis=1)
    curves: Curves = table.to_numpy().reshape(len(table), recorded["fold"].nunique(), -1)
    return curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Trial + fold + noise, as the recorded losses have them; of a trial's loss, the logarithm is normal."""

    log_mean: float
    log_sd: float
    fold_sd: float
    noise_sd: float  # of the better half, as racing estimates it
    rung_slope: float  # log loss at the rung against log loss at the end of the first fold
    rung_sd: float

    def figures(self) -> dict[str, float]:
        """Return the fields by name."""
        return {name: float(getattr(self, name)) for name in self.__slots__}

    def draw(self, seed: int, *, n: int, noise: float) -> tuple[npt.NDArray[np.float64], Curves]:
        """Return true losses (n,) and curves (n, K, 3), whose rung is the first epoch; only the first fold has one."""
        rng = np.random.default_rng(seed)
        true = np.exp(rng.normal(self.log_mean, self.log_sd, n))
        folds = rng.normal(0.0, self.fold_sd, K)
        last = true[:, None] + folds + rng.normal(0.0, noise * self.noise_sd, (n, K))
        curves = np.repeat(last[:, :, None], 3, axis=2)
        curves[:, 0, 0] = self.rung_slope * np.log(np.maximum(last[:, 0], 1e-3)) + rng.normal(0.0, self.rung_sd, n)
        return true, curves


def fit_model(curves: Curves) -> Model:
    """Take the constants of `Model` from recorded losses, (n_trials, k, epochs)."""
    last = curves[:, :, -1]
    rung = np.log(curves[:, 0, -(-curves.shape[2] // 3) - 1])
    end, logs = np.log(last[:, 0]), np.log(last.mean(axis=1))
    slope, intercept = np.polyfit(end, rung, 1)
    return Model(
        log_mean=float(logs.mean()),
        log_sd=float(logs.std(ddof=1)),
        fold_sd=float(last.mean(axis=0).std(ddof=1)),
        noise_sd=residual_sd(-last)[0],
        rung_slope=float(slope),
        rung_sd=float((rung - slope * end - intercept).std(ddof=2)),
    )


def synthetic(model: Model, method: str, *, n: int, noise: float, n_searches: int) -> dict[str, Any]:
    """Search drawn trials; each search has others, and every method the same."""
    rows = []
    for seed in range(n_searches):
        true, curves = model.draw(seed, n=n, noise=noise)
        done = race(curves, make(method, curves), range(n))
        means = curves[:, :, -1].mean(axis=1)
        chosen = min(done.finished, key=lambda row: means[row])
        kills = [1 - np.isin(np.argsort(values, kind="stable")[:TOP], done.finished).mean() for values in (true, means)]
        rows.append((*kills, true[chosen] - true.min(), done.epochs / curves.size))
    truth, of_cv, regret, compute = np.mean(rows, axis=0)
    return {
        "method": method,
        "n": n,
        "noise": noise,
        "n_searches": n_searches,
        "killed_true_top5": float(truth),
        "killed_cv_top5": float(of_cv),
        "regret": float(regret),
        "compute": float(compute),
    }


def replay(
    recorded: pd.DataFrame,
    method: str,
    *,
    metric: Metric,
    n: int,
    n_slots: int,
    n_orders: int,
    stopping: Stopping | None = None,
) -> dict[str, Any]:
    """Search the recorded trials: `n` of them as they were recorded, and `n_orders` times as many at random."""
    curves = curves_of(recorded, metric)
    decides: Callable[[Curves], Decides] = (
        (lambda part: make(method, part, metric=metric))
        if stopping is None
        else (lambda part: make_ours(stopping, part, metric=metric))
    )
    rng = np.random.default_rng(0)
    orders = [np.arange(n), *(rng.permutation(len(curves))[:n] for _ in range(n_orders))]
    outcomes = [_outcome(curves[order], decides, metric=metric, n_slots=n_slots) for order in orders]
    saved, rank, regret, kills, finished, halved = np.array(outcomes[1:]).T
    return {
        "method": method,
        "metric": metric,
        "n": n,
        "n_slots": n_slots,
        "saved_quantiles": np.quantile(saved, [0.05, 0.5, 0.95]).tolist(),
        "orders_saving_3": float((saved >= 3).mean()),
        "rank_1": float((rank == 1).mean()),
        "rank_3": float((rank <= 3).mean()),
        "rank_worst": int(rank.max()),
        "regret_mean": float(regret.mean()),
        "killed_cv_top5": float(kills.mean()),
        "epochs_full": int(curves[:n].size),
        "epochs_of_finished": float(finished.mean()),
        "epochs_of_halved": float(halved.mean()),
        "epochs_of_pruned": float((curves[:n].size / saved - finished - halved).mean()),
        "recorded_order": {"saved": outcomes[0][0], "rank": int(outcomes[0][1])},
    }


def _outcome(
    curves: Curves, decides: Callable[[Curves], Decides], *, metric: Metric, n_slots: int
) -> tuple[float, ...]:
    """Return compute saved, the rank of the choice by full cross-validation, its regret, the kills of the best.

    And the epochs of the finished trials, and of those that were stopped within the first fold.
    """
    done = race(curves, decides(curves), range(len(curves)), n_slots=n_slots)
    losses = (-1 if metric == "macro_auc" else 1) * curves[:, :, -1].mean(axis=1)
    chosen = min(losses[row] for row in done.finished)
    kills = 1 - np.isin(np.argsort(losses, kind="stable")[:TOP], done.finished).mean()
    rank, regret = int((losses < chosen).sum()) + 1, float(chosen - losses.min())
    halved = sum(epochs for epochs in done.trained.values() if epochs < curves.shape[2])
    return curves.size / done.epochs, rank, regret, float(kills), len(done.finished) * curves[0].size, halved


def _synthetic_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["noise", "trials", "method", "true top 5 stopped", "CV's top 5 stopped", "regret", "compute"]
    return header, [
        [
            f"x {row['noise']:g}",
            str(row["n"]),
            row["method"],
            f"{row['killed_true_top5']:.1%}",
            f"{row['killed_cv_top5']:.1%}",
            f"{row['regret']:.4f}",
            f"{row['compute']:.1%}",
        ]
        for row in rows
    ]


def _replay_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["metric", "trials", "method", "slots", "saved (5-95 %)", ">= 3x", "rank 1", "top 3", "worst rank"]
    header += ["top 5 stopped", "epochs: finished, pruned, halved", "recorded order"]
    return header, [
        [
            row["metric"],
            str(row["n"]),
            row["method"],
            str(row["n_slots"]),
            "{1:.2f} ({0:.2f}-{2:.2f})".format(*row["saved_quantiles"]),
            f"{row['orders_saving_3']:.0%}",
            f"{row['rank_1']:.1%}",
            f"{row['rank_3']:.1%}",
            str(row["rank_worst"]),
            f"{row['killed_cv_top5']:.1%}",
            "{epochs_of_finished:.0f}, {epochs_of_pruned:.0f}, {epochs_of_halved:.0f}".format(**row),
            f"{row['recorded_order']['saved']:.2f}, rank {row['recorded_order']['rank']}",
        ]
        for row in rows
    ]


if __name__ == "__main__":
    main()
