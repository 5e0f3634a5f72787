"""Commands for a running Ray cluster: submit, status, logs, stop."""

from typing import TYPE_CHECKING, Annotated

import typer

from consilia.cli.options import Address, Job, Settings, StudyFile

if TYPE_CHECKING:
    from consilia.cluster.jobs import ClusterJobs


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(submit)
    app.command()(status)
    app.command()(logs)
    app.command()(stop)


def submit(
    study: StudyFile,
    address: Address,
    settings: Settings = None,
    root: Annotated[
        str, typer.Option(metavar="DIR", help="Folder on the cluster for studies and image stores.")
    ] = "~/consilia",
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's output until it ends.")] = False,
) -> int:
    """Send a study to a Ray cluster, with consilia itself, and run it there as a job.

    The data must lie on the cluster, where the study says. The token is read from the file that RAY_AUTH_TOKEN_PATH
    names.

    Example: consilia submit examples/pneumonia.yaml --address http://head:8265 --follow
    """
    import consilia
    from consilia.study.plan import plan_to_yaml

    plan = consilia.read_plan(study, settings=settings or ())
    jobs = consilia.ClusterJobs(address)
    job = jobs.submit(plan_to_yaml(plan), root=root)
    print(f"job {job}")
    print(f"consilia logs {job} --address {address}   shows its output; results will lie in {root}/studies/{plan.name}")
    return _follow(jobs, job) if follow else 0


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

    jobs = ClusterJobs(address)
    if follow:
        return _follow(jobs, job)
    print(jobs.logs(job), end="")
    return 0


def stop(job: Job, address: Address) -> None:
    """Ask a job to end; what it has finished stays, and submitting the study again goes on from there.

    Example: consilia stop pneumonia-1a2b3c4d --address http://head:8265
    """
    from consilia.cluster.jobs import ClusterJobs

    print(f"{job}  {'asked to stop' if ClusterJobs(address).stop(job) else 'had ended already'}")


def _follow(jobs: "ClusterJobs", job: str) -> int:
    from consilia.cluster.jobs import succeeded

    for lines in jobs.follow(job):
        print(lines, end="", flush=True)
    return 0 if succeeded(jobs.status(job)) else 1
