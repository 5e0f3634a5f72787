"""Commands that run or read a study: search, train, trials, report, suspects."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from consilia.cli.options import STUDIES, Settings, Stores, Studies, StudyFile, StudyName, limit_threads, share_cores


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(search)
    app.command()(train)
    app.command()(trials)
    app.command()(report)
    app.command()(suspects)


def search(
    study: StudyFile,
    settings: Settings = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="A running Ray cluster: auto or HOST:PORT. Without it, a Ray of our own."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the configurations of failed trials again, under new numbers.")
    ] = False,
    studies: Studies = STUDIES,
    stores: Stores = None,
) -> None:
    """Search, cross-validate, combine and evaluate. Started again, it goes on where it stopped.

    Example: consilia search examples/pneumonia.yaml --set data.path=pneumoniamnist_28.npz
    """
    import consilia
    from consilia.cli.show import show_result, watch

    more = [f"cluster.address={address}"] if address else []
    plan = consilia.read_plan(study, settings=[*(settings or ()), *more], networks=False)
    with watch(plan) as view:
        done = consilia.search(plan, studies=studies, stores=stores, retry_failed=retry_failed, view=view)
    show_result(done.result())


def train(
    study: StudyFile,
    architecture: Annotated[
        str | None, typer.Option(help="One of the study's architectures; by default the first.")
    ] = None,
    settings: Settings = None,
    studies: Studies = STUDIES,
    stores: Stores = None,
) -> None:
    """Cross-validate one configuration in this process, with no search and no Ray.

    It starts from the architecture's defaults; `--set lr=1e-3` changes a hyperparameter, a dotted key the study.
    The result is a study of its own, named STUDY-train.

    Example: consilia train examples/pneumonia.yaml --architecture test_resnet --set lr=3e-3
    """
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia
        from consilia.cli.show import show_result, watch

        plan = consilia.read_single_plan(study, architecture=architecture, settings=settings or ())
        steps("loading torch")
        limit_threads()
    with watch(plan) as view:
        done = consilia.search(plan, studies=studies, stores=stores, view=view)
    show_result(done.result())


def trials(
    study: StudyName,
    studies: Studies = STUDIES,
    output: Annotated[
        Literal["table", "json", "csv"],
        typer.Option("--format", help="json and csv hold every number in full precision, for scripts."),
    ] = "table",
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow a running study until nothing is left to run.")
    ] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Time between two looks of --watch.")] = 2.0,
) -> None:
    """Show a study's trials, the best first.

    A trial is running, finished, stopped (by the racing), failed, paused (left at its checkpoint when the search
    ended), or interrupted (its process is gone). `consilia search` goes on with the last two.

    Example: consilia trials pneumonia --watch
    """
    import consilia
    from consilia.cli.show_trials import follow_trials, show_trials
    from consilia.report.trials import board_to_csv, board_to_json

    if watch and output != "table":
        raise consilia.UserError(
            f"--watch shows trials to people; --format {output} is printed once. Leave one of them out."
        )
    found = consilia.open_study(study, studies=studies)
    if watch:
        follow_trials(found.board, every=every)
    elif output == "table":
        show_trials(found.board())
    else:
        print((board_to_json if output == "json" else board_to_csv)(found.board()), end="")


def report(
    study: StudyName,
    show: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Leave images, files and patients out: such a page may travel.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page; default: report.html in the study's folder.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again and again while a search is running.")] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Time between two pages of --watch.")] = 30.0,
    studies: Studies = STUDIES,
    stores: Stores = None,
) -> None:
    """Write a study's report: one HTML page with its result, figures, search and worst errors.

    Every search ends with it. It needs no network and can be mailed; with pictures, only where the images may go.

    Example: consilia report pneumonia --open
    """
    share_cores()
    import consilia
    from consilia.cli.show_report import follow_report, open_page

    found = consilia.open_study(study, studies=studies, stores=stores)
    if watch:
        page = follow_report(found, out, pictures=not no_pictures, every=every, show=show)
    else:
        page = found.report(out, pictures=not no_pictures)
        if show:
            open_page(page)
    print(f"report    {page}")


def suspects(
    study: StudyName,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder; default: the study's own.")] = None,
    studies: Studies = STUDIES,
    stores: Stores = None,
) -> None:
    """List the images whose label a finished study doubts: suspects.csv, and a sheet of pictures.

    Nothing is dropped or relabelled: a doubted label may be a rare finding that is right. Let somebody look.

    Example: consilia suspects pneumonia --out suspects
    """
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia
        from consilia.study.view import StepsView

        opened = consilia.open_study(study, studies=studies, stores=stores, view=StepsView(steps))
        found = opened.suspects(out, steps=steps)
    print(f"{found.n_suspects} of {found.n_images} labels are doubted\ntable     {found.table}")
    if found.sheet is not None:
        print(f"pictures  {found.sheet}")
