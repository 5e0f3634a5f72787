"""Tables for the terminal: trials, and counts of images."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from consilia.config.space import Hyperparameters
from consilia.report.trial_rows import TrialBoard, TrialRow

_SHOWN = ("architecture", "lr", "weight_decay", "label_smoothing", "mixup", "augmentation", "imbalance")
_WIDTH_OF_ALL = 140


def leaderboard_table(board: TrialBoard, *, width: int) -> Table:
    """Return one row a trial, in the board's order, with the score of every finished fold.

    Args:
        board: The study's trials.
        width: Characters in a line; where they are few, of the hyperparameters only architecture and lr are shown.
    """
    shown = _SHOWN if width >= _WIDTH_OF_ALL else _SHOWN[:2]
    table = Table(title=f"Trials by {board.metric} (mean over folds)", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column(board.metric, justify="right")
    table.add_column("folds", justify="right")
    for name in shown:
        table.add_column(name, justify="right" if name != "architecture" else "left")
    table.add_column("seconds", justify="right")
    table.add_column("reason", overflow="fold")
    for row in board.rows:
        table.add_row(*_cells(row, board, shown))
    return table


def hints(board: TrialBoard) -> tuple[str, ...]:
    """Return what to know of trials that nobody is training."""
    if board.is_held or not (waiting := board.count("paused", "interrupted")):
        return ()
    return (f"{waiting}: consilia search with the same study file goes on with them where they stopped.",)


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


def _cells(row: TrialRow, board: TrialBoard, shown: Sequence[str]) -> list[str]:
    record = row.record
    objective = "" if record.objective is None else f"{record.objective:.4f}"
    folds = " ".join(f"{fold.metrics[board.metric]:.3f}" for fold in record.folds)
    values = [_cell(record.hyperparameters, name) for name in shown]
    return [str(record.number), row.state, objective, folds, *values, f"{record.seconds:.0f}", _reason(row, board)]


def _reason(row: TrialRow, board: TrialBoard) -> str:
    """Return why a trial ended or waits, or how far it has come."""
    if row.place is None:
        return row.record.reason
    place = f"fold {row.place.fold + 1}/{board.n_folds}, epoch {row.place.epoch}/{board.epochs}"
    return f"{place}: {row.record.reason}" if row.record.reason else place


def _cell(hyperparameters: Hyperparameters, name: str) -> str:
    value = getattr(hyperparameters, name)
    return f"{value:.2g}" if isinstance(value, float) else str(value)
