"""Tables for the terminal: trials, and counts of images."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from consilia.plan.hyperparameters import Hyperparameters
from consilia.records import TrialRecord

_SHOWN = ("architecture", "lr", "weight_decay", "label_smoothing", "mixup", "augmentation", "imbalance")


def leaderboard_table(records: Sequence[TrialRecord], *, metric: str) -> Table:
    """Return one row a trial, in the given order, with the score of every fold."""
    table = Table(title=f"Trials by {metric} (mean over folds)", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column(metric, justify="right")
    table.add_column("folds", justify="right")
    for name in _SHOWN:
        table.add_column(name, justify="right" if name != "architecture" else "left")
    table.add_column("seconds", justify="right")
    table.add_column("reason", overflow="fold")
    for record in records:
        table.add_row(*_cells(record, metric))
    return table


def counts_table(counts: Mapping[str, Mapping[str, int]], *, title: str) -> Table:
    """Return one row a class and one column a split, with totals.

    Args:
        counts: Images by split and class.
        title: Above the table.
    """
    table = Table("class", title=title, title_justify="left")
    for split in counts:
        table.add_column(split, justify="right")
    for name in dict.fromkeys(name for by_class in counts.values() for name in by_class):
        table.add_row(name, *(str(by_class.get(name, 0)) for by_class in counts.values()))
    table.add_section()
    table.add_row("all", *(str(sum(by_class.values())) for by_class in counts.values()))
    return table


def _cells(record: TrialRecord, metric: str) -> list[str]:
    objective = "" if record.objective is None else f"{record.objective:.4f}"
    folds = " ".join(f"{fold.metrics[metric]:.3f}" for fold in record.folds)
    shown = [_cell(record.hyperparameters, name) for name in _SHOWN]
    return [str(record.number), record.state, objective, folds, *shown, f"{record.seconds:.0f}", record.reason]


def _cell(hyperparameters: Hyperparameters, name: str) -> str:
    value = getattr(hyperparameters, name)
    return f"{value:.2g}" if isinstance(value, float) else str(value)
