"""The console that everything is printed on."""

import os
import sys

from rich.console import Console

_WIDTH_OF_FILES = 160  # characters; a pipe or a file has no width, and rich would cut tables at 80


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: names of files and classes may hold rich's brackets.

    Args:
        stderr: Print to standard error instead of standard output.
    """
    stream = sys.stderr if stderr else sys.stdout
    has_width = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, markup=False, highlight=False, width=None if has_width else _WIDTH_OF_FILES)
