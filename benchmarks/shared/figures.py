"""How every benchmark prints: a table for people, and one JSON object as the last line."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_figures(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], figures: Mapping[str, Any]) -> None:
    """Print the table and, last, `figures` with the machine they were measured on."""
    print_table(title, header, rows)
    print(json.dumps({**figures, "machine": machine()}))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people."""
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has room for every column
    console.print(table)


def machine() -> dict[str, Any]:
    """Return what a reader must know about this machine."""
    return {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
