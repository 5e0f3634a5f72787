"""A study as a job of a running Ray cluster. Source: Ray 2.60, Jobs API and token authentication."""

import asyncio
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from consilia.cluster.entrypoint import FOUND
from consilia.cluster.environment import PACKAGE, RAY_ENVIRONMENT
from consilia.cluster.listing import JobSummary, describe_study, find_farewell, summarise
from consilia.cluster.options import JobOptions
from consilia.cluster.packing import STUDY_FILE, pack
from consilia.cluster.paths import with_shipped_paths
from consilia.errors import ClusterError, ConsiliaError, UserError

_AGENT_SECONDS = 60.0  # a new head answers requests before it can start jobs
_START_SECONDS = 120.0  # the driver may have to wait for packages or for free CPUs
_LOOK_SECONDS = 0.5
# Ray kills a job 3 s after it is asked to stop, unless its environment says otherwise. A trial stops after the epoch
# under way, and a long epoch takes minutes. Source: Ray 2.60, JobSupervisor.run.
_STOPPING = {"RAY_JOB_STOP_WAIT_TIME_S": "1800"}
_DEFAULTS = JobOptions()


class ClusterJobs:
    """The jobs of one cluster, at its dashboard's address.

    Args:
        address: Such as "http://head:8265".

    The token is taken from RAY_AUTH_TOKEN, from the file that RAY_AUTH_TOKEN_PATH names, or from ~/.ray/auth_token.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        if not address.startswith(("http://", "https://")):
            raise UserError(
                f"--address must be the dashboard's, such as http://{address.split(':')[0]}:8265, but got {address!r}."
            )
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every upload
        token = _find_token()
        headers = {"Authorization": f"Bearer {token}"} if token else None
        with self._asking():
            self._client = JobSubmissionClient(address, headers=headers)

    def submit(self, plan: dict[str, Any], *, root: str, options: JobOptions = _DEFAULTS) -> str:
        """Send a resolved study with the package itself, and start it.

        Args:
            plan: The study as `plan_to_yaml` gives it.
            root: Folder on the cluster for studies and image stores, or their URI; "~" is the cluster's user.
            options: What the job is given besides.

        Returns:
            The job's id.

        Raises:
            UserError: The working folder holds none of the study's paths, or more than a job can carry.
            ClusterError: The cluster does not answer, or refuses the job.
        """
        if options.working_dir is not None:
            plan = with_shipped_paths(plan, options.working_dir)
        name = str(plan["name"])
        with tempfile.TemporaryDirectory() as folder, self._asking():
            archive = Path(folder, "job.zip")
            pack(archive, yaml.safe_dump(plan, sort_keys=False, allow_unicode=True), options.working_dir)
            return self._submit(
                entrypoint=_entrypoint(root, retries=options.retries),
                submission_id=f"{name}-{secrets.token_hex(4)}",
                metadata=describe_study(plan),
                runtime_env={
                    "working_dir": str(archive),
                    "py_modules": [str(PACKAGE)],
                    "env_vars": {**RAY_ENVIRONMENT, **_STOPPING, **options.env},
                    **({"pip": list(options.pip)} if options.pip else {}),
                },
                entrypoint_num_cpus=options.cpus or None,
                entrypoint_memory=round(options.memory * 1e9) or None,
            )

    def await_start(self, job: str, *, seconds: float = _START_SECONDS) -> bool:
        """Wait until a job has found the study's files on its node.

        Returns:
            False if it has not begun after so many seconds; it may have to wait for others.

        Raises:
            UserError: A file or folder is missing there; names it, its key and the node.
            ClusterError: The job could not be started.
        """
        deadline = time.monotonic() + seconds
        while True:
            details = self.status(job)
            log = "" if details.status == JobStatus.PENDING else self.logs(job)
            if FOUND in log or details.status in (JobStatus.SUCCEEDED, JobStatus.STOPPED):
                return True
            if details.status == JobStatus.FAILED:
                raise _explain_start(job, log, details.message or "")
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)

    def status(self, job: str) -> JobDetails:
        """Return what the cluster knows of a job."""
        with self._asking():
            return self._client.get_job_info(job)

    def logs(self, job: str) -> str:
        """Return everything that a job has printed so far."""
        with self._asking():
            return str(self._client.get_job_logs(job))

    def follow(self, job: str) -> Iterator[str]:
        """Yield what a job prints until it ends."""
        with self._asking(), asyncio.Runner() as runner:
            lines = self._client.tail_job_logs(job)
            while True:
                try:
                    yield runner.run(anext(lines))  # type: ignore[arg-type] # an async generator's anext is a coroutine
                except StopAsyncIteration:
                    return

    def stop(self, job: str) -> bool:
        """Ask a job to end; what it has finished is stored. False if it had ended before."""
        with self._asking():
            return bool(self._client.stop_job(job))

    def await_end(self, job: str) -> tuple[JobDetails, str]:
        """Wait until a job has ended.

        Returns:
            What the cluster knows of it, and what its search said when it was stopped in order: how much is left, and
            that everything else is stored. The latter is empty if the search was killed, or did not begin.
        """
        while not (details := self.status(job)).status.is_terminal():
            time.sleep(_LOOK_SECONDS)
        return details, find_farewell(self.logs(job))

    def searches(self) -> list[JobSummary]:
        """Return the cluster's jobs that `submit` has sent, the newest first, and how far they have come."""
        with self._asking():
            known = self._client.list_jobs()
        known.sort(key=lambda each: each.start_time or 0, reverse=True)
        return [
            summarise(each.submission_id, each.status.value, each.metadata, self._log_or_nothing(each.submission_id))
            for each in known
            if each.submission_id and each.metadata and "consilia_study" in each.metadata
        ]

    def _log_or_nothing(self, job: str) -> str:
        """Return a job's log; nothing where it is not to be had, such as of a node that is gone."""
        try:
            return self.logs(job)
        except ClusterError:
            return ""

    def _submit(self, **job: Any) -> str:
        """Submit, and wait for a head that has only just started; the fixed id keeps a job from starting twice."""
        deadline = time.monotonic() + _AGENT_SECONDS
        while True:
            try:
                return str(self._client.submit_job(**job))
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what Ray's client raises into one clear line."""
        try:
            yield
        except ConsiliaError:
            raise
        except Exception as error:  # the client raises RuntimeError, ConnectionError and errors of requests and aiohttp
            raise ClusterError(_explain(self._address, error)) from error


def succeeded(details: JobDetails) -> bool:
    """Say whether a job has ended well."""
    return bool(details.status == JobStatus.SUCCEEDED)


def _entrypoint(root: str, *, retries: int = 0) -> str:
    # Quoting would keep the cluster's shell from expanding a leading ~.
    home, rest = ("~/", root[2:]) if root == "~" or root.startswith("~/") else ("", root)
    place, mark, query = rest.partition("?")  # of a URI
    studies, stores = (home + shlex.quote(f"{place}/{name}{mark}{query}") for name in ("studies", "stores"))
    program = f"python -m consilia.cluster.entrypoint {STUDY_FILE} --retries {retries}"
    return f"{program} --studies {studies} --stores {stores}"


def _explain_start(job: str, log: str, message: str) -> ConsiliaError:
    """Return why a job failed before its search, in one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line.removeprefix("consilia: ") for line in lines if line.startswith("consilia: ")]
    if said:
        return UserError(said[-1])
    reason = (lines or message.strip().splitlines() or ["Ray does not say why."])[-1]
    return ClusterError(f"Job {job} could not be started: {reason}")


def _find_token() -> str | None:
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text(encoding="ascii").strip() if path.is_file() else None


def _explain(address: str, error: Exception) -> str:
    text = str(error)
    if "Authentication failed" in text or "403" in text:
        return f"{address} refuses the token: set RAY_AUTH_TOKEN_PATH to the file with the cluster's token."
    if "Authentication required" in text or "401" in text:
        return f"{address} asks for a token: set RAY_AUTH_TOKEN_PATH to the file with the cluster's token."
    if isinstance(error, ConnectionError):
        return f"No Ray dashboard answers at {address}: check the address, or start one with `ray start --head`."
    return f"{address}: {(text.strip() or type(error).__name__).splitlines()[0]}"
