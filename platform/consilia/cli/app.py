"""The commands and how they fail."""

import sys
import traceback
from collections.abc import Sequence

import typer

from consilia.cli import cluster, data, ensemble, export, init, serve, study, weights
from consilia.errors import ConsiliaError

app = typer.Typer(
    name="consilia",
    help="Search, cross-validate and combine networks for medical images, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.add_typer(export.app, name="export")
for module in (init, study, ensemble, serve, cluster):
    module.register(app)


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the whole traceback of an error; goes anywhere."),
) -> None:
    """Hold what concerns every command; `run` has taken --debug out by now."""


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit code: 0 on success, 2 for a user's error, 1 for a failed run, 130 after Ctrl-C.
    """
    debug = "--debug" in arguments
    try:
        result = app([each for each in arguments if each != "--debug"], standalone_mode=False, prog_name="consilia")
    except ConsiliaError as error:
        return _fail(error, str(error), code=error.exit_code, debug=debug)
    except typer.TyperException as error:
        return _fail(error, _explain_usage(error), code=error.exit_code, debug=debug)
    except typer.Abort:  # Ctrl-C where a command asks something
        result = _INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(error, f"{place}{error.strerror or error}", code=1, debug=debug)
    except Exception as error:
        message = f"{type(error).__name__}: {error}\nThis is a defect of consilia; --debug shows where it happened."
        return _fail(error, message, code=1, debug=debug)
    if result == _INTERRUPTED:  # what typer makes of KeyboardInterrupt; no command returns it
        print("consilia: Stopped by Ctrl-C.", file=sys.stderr)
    return result if isinstance(result, int) else 0


_INTERRUPTED = 130


def _explain_usage(error: typer.TyperException) -> str:
    """Say what is wrong with the arguments, and where help is."""
    context: typer.Context | None = getattr(error, "ctx", None)
    hint = f"\nTry '{context.command_path} --help' for help." if context else ""
    return f"{error.format_message() or 'A command must be named.'}{hint}"


def _fail(error: Exception, message: str, *, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    else:
        print(f"consilia: {message}", file=sys.stderr)
    return code
