"""Commands that run or read a study: search, train, trials."""

from typing import Annotated

import typer

from consilia.cli.options import STORES, STUDIES, Settings, Stores, Studies, StudyFile, StudyName


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(search)
    app.command()(train)
    app.command()(trials)


def search(
    study: StudyFile,
    settings: Settings = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="A running Ray cluster: auto or HOST:PORT. Without it, a Ray of our own."),
    ] = None,
    studies: Studies = STUDIES,
    stores: Stores = STORES,
) -> None:
    """Search, cross-validate, combine and evaluate. Started again, it goes on where it stopped.

    Example: consilia search examples/pneumonia.yaml --set data.path=pneumoniamnist_28.npz
    """
    from consilia.cli.show import show_result, watch
    from consilia.study.plan import read_plan
    from consilia.study.run import run_study

    more = [f"cluster.address={address}"] if address else []
    plan = read_plan(study, settings=[*(settings or ()), *more])
    with watch(plan) as view:
        result = run_study(plan, studies=studies, stores=stores, view=view)
    show_result(result)


def train(
    study: StudyFile,
    architecture: Annotated[
        str | None, typer.Option(help="One of the study's architectures; by default the first.")
    ] = None,
    settings: Settings = None,
    studies: Studies = STUDIES,
    stores: Stores = STORES,
) -> None:
    """Cross-validate one configuration in this process, with no search and no Ray.

    It starts from the architecture's defaults; `--set lr=1e-3` changes a hyperparameter, a dotted key the study.
    The result is a study of its own, named STUDY-train.

    Example: consilia train examples/pneumonia.yaml --architecture test_resnet --set lr=3e-3
    """
    from consilia.cli.show import show_result, watch
    from consilia.study.run import run_study
    from consilia.study.single import read_single_plan

    plan = read_single_plan(study, architecture=architecture, settings=settings or ())
    with watch(plan) as view:
        result = run_study(plan, studies=studies, stores=stores, view=view)
    show_result(result)


def trials(
    study: StudyName,
    studies: Studies = STUDIES,
) -> None:
    """Show a study's trials, the best first.

    Example: consilia trials pneumonia
    """
    from consilia.report.console import make_console
    from consilia.report.tables import leaderboard_table
    from consilia.search.stored import leaderboard, read_trials
    from consilia.study.folder import find_study

    plan, folder = find_study(study, studies)
    records = read_trials(folder)
    board = leaderboard(records, metric=plan.search.metric)
    rest = [record for record in records.values() if record not in board]
    make_console().print(leaderboard_table([*board, *rest], metric=plan.search.metric))
