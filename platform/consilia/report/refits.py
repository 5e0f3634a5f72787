"""Refits under way, as a live table."""

from rich.console import Group
from rich.table import Table

from consilia.config.records import RefitProgress


def refits_picture(progress: RefitProgress, *, epochs: int) -> Group:
    """Return a line of counts, and one row a refit that is in a slot.

    Args:
        progress: How far they are.
        epochs: Of each.
    """
    table = Table()
    for column in ("refit of trial", "architecture", "lr", "epoch", "training loss"):
        table.add_column(column, justify="left" if column == "architecture" else "right")
    for task, report in progress.running:
        at = ("", "starting") if report is None else (f"{report.epoch}/{epochs}", f"{report.train_loss:.4f}")
        options = task.hyperparameters
        table.add_row(str(task.number), options.architecture, f"{options.lr:.1e}", *at)
    summary = (
        f"{progress.n_finished}/{progress.n_all} refits finished  ·  "
        f"{len(progress.running)} running in {progress.n_slots} slots"
    )
    return Group(summary, table)
