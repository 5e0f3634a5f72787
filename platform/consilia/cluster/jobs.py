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

from consilia.cluster.environment import PACKAGE, RAY_ENVIRONMENT
from consilia.errors import ClusterError, UserError

_STUDY_FILE = "study.yaml"
_AGENT_SECONDS = 60.0  # a new head answers requests before it can start jobs


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
        logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of every upload
        token = _find_token()
        headers = {"Authorization": f"Bearer {token}"} if token else None
        with self._asking():
            self._client = JobSubmissionClient(address, headers=headers)

    def submit(self, plan: dict[str, Any], *, root: str) -> str:
        """Send a resolved study with the package itself, and start it.

        Args:
            plan: The study as `plan_to_yaml` gives it.
            root: Folder on the cluster for studies and image stores; "~" is the cluster's user.

        Returns:
            The job's id.
        """
        name = str(plan["name"])
        with tempfile.TemporaryDirectory() as working_dir, self._asking():
            Path(working_dir, _STUDY_FILE).write_text(
                yaml.safe_dump(plan, sort_keys=False, allow_unicode=True), encoding="utf-8"
            )
            return self._submit(
                entrypoint=_entrypoint(root),
                submission_id=f"{name}-{secrets.token_hex(4)}",
                metadata={"job_name": f"consilia search {name}"},
                runtime_env={
                    "working_dir": working_dir,
                    "py_modules": [str(PACKAGE)],
                    "env_vars": RAY_ENVIRONMENT,
                },
            )

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
        except ClusterError:
            raise
        except Exception as error:  # the client raises RuntimeError, ConnectionError and errors of requests and aiohttp
            raise ClusterError(_explain(self._address, error)) from error


def succeeded(details: JobDetails) -> bool:
    """Say whether a job has ended well."""
    return bool(details.status == JobStatus.SUCCEEDED)


def _entrypoint(root: str) -> str:
    # Quoting would keep the cluster's shell from expanding a leading ~.
    home, rest = ("~/", root[2:]) if root == "~" or root.startswith("~/") else ("", root)
    studies, stores = (home + shlex.quote(f"{rest}/{name}") for name in ("studies", "stores"))
    return f"python -m consilia search {_STUDY_FILE} --studies {studies} --stores {stores}"


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
