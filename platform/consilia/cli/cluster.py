"""Commands for a running Ray cluster: submit, jobs, status, logs, stop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consilia.cli.options import Address, Job, Settings, StudyFile

if TYPE_CHECKING:
    from consilia.cluster.jobs import ClusterJobs


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(submit)
    app.command()(jobs)
    app.command()(status)
    app.command()(logs)
    app.command()(stop)


def submit(
    study: StudyFile,
    address: Address,
    settings: Settings = None,
    root: Annotated[
        str, typer.Option(metavar="DIR", help="Folder on the cluster for studies and image stores, or a URI.")
    ] = "~/consilia",
    working_dir: Annotated[
        Path | None,
        typer.Option("--working-dir", metavar="DIR", help="Small folder here, below 100 MiB, that travels along."),
    ] = None,
    pip: Annotated[
        list[str] | None,
        typer.Option("--pip", metavar="REQUIREMENT", help="A package that the job needs besides; may be repeated."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="A variable of the job's processes; may be repeated."),
    ] = None,
    cpus: Annotated[float, typer.Option("--entrypoint-cpus", min=0, help="CPUs that the driver reserves.")] = 0,
    memory: Annotated[
        float, typer.Option("--entrypoint-memory", metavar="GB", min=0, help="Memory that the driver reserves, GB.")
    ] = 0,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", min=0, help="Go on so often where a search was killed or crashed.")
    ] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's output until it ends.")] = False,
) -> int:
    """Send a study to a Ray cluster, with consilia itself, and run it there as a job.

    The data must lie on the cluster, where the study says, or in the folder of --working-dir. The job looks for them
    first, and what is missing is said here. The token is read from the file that RAY_AUTH_TOKEN_PATH names.

    Example: consilia submit examples/pneumonia.yaml --address http://head:8265 --retries 2 --follow
    """
    import consilia
    from consilia.cluster.options import parse_env
    from consilia.study.plan import plan_to_yaml

    options = consilia.JobOptions(
        working_dir=working_dir,
        pip=pip or (),
        env=parse_env(env or ()),
        cpus=cpus,
        memory=memory,
        retries=retries,
    )
    plan = consilia.read_plan(study, settings=settings or ())
    cluster = consilia.ClusterJobs(address)
    job = cluster.submit(plan_to_yaml(plan), root=root, options=options)
    print(f"job {job}", flush=True)
    if not cluster.await_start(job):
        print("It has not begun yet: it may wait for packages or for free CPUs. Its log will say what it misses.")
    print(f"consilia logs {job} --address {address}   shows its output; results will lie in {root}/studies/{plan.name}")
    return _follow(cluster, job) if follow else 0


def jobs(address: Address) -> None:
    """List the jobs that were submitted, the newest first, with the best score and the number of trials done.

    Both are taken from what a job has printed, and are left out where it has not printed them.

    Example: consilia jobs --address http://head:8265
    """
    import consilia
    from consilia.cli.show import show_jobs

    show_jobs(consilia.ClusterJobs(address).searches())


def status(job: Job, address: Address) -> None:
    """Show the state of a job.

    Example: consilia status pneumonia-1a2b3c4d --address http://head:8265
    """
    from consilia.cluster.jobs import ClusterJobs

    details = ClusterJobs(address).status(job)
    print(f"{job}  {details.status.value}  {details.message or ''}".rstrip())


def logs(
    job: Job,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> int:
    """Show what a job has printed.

    Example: consilia logs pneumonia-1a2b3c4d --address http://head:8265 --follow
    """
    from consilia.cluster.jobs import ClusterJobs

    cluster = ClusterJobs(address)
    if follow:
        return _follow(cluster, job)
    print(cluster.logs(job), end="")
    return 0


def stop(job: Job, address: Address) -> None:
    """Stop a job in order, and say whether everything was stored; submitting the study again goes on from there.

    Trials end after the epoch under way, for which a job is given half an hour. Ctrl-C ends the waiting alone.

    Example: consilia stop pneumonia-1a2b3c4d --address http://head:8265
    """
    from consilia.cluster.jobs import ClusterJobs

    cluster = ClusterJobs(address)
    if not cluster.stop(job):
        print(f"{job}  had ended already")
        return
    print(f"{job}  asked to stop; trials end after the epoch under way", flush=True)
    details, said = cluster.await_end(job)
    unsaid = (
        "It ended before its search could say what is stored; submitting the study again goes on from its files, and "
        "repeats at most the epochs under way."
    )
    print(f"{job}  {details.status.value}  {said or unsaid}")


def _follow(cluster: "ClusterJobs", job: str) -> int:
    from consilia.cluster.jobs import succeeded

    for lines in cluster.follow(job):
        print(lines, end="", flush=True)
    return 0 if succeeded(cluster.status(job)) else 1
