"""The command line: parse, call one function, print. Heavy imports wait inside the commands."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; errors are one to three lines, and a traceback only with --debug."""
    from consilia.cli.app import run

    sys.exit(run(sys.argv[1:]))
