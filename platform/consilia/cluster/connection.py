"""Connect to Ray: one of our own on this machine, or a running cluster."""

import atexit
import functools
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from consilia.cluster.environment import PACKAGE, RAY_ENVIRONMENT
from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError

_STARTUP_CONCURRENCY = 16
_OBJECT_STORE_BYTES = 256 * 2**20  # plans, reports, and files in parts of 16 MiB


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a connected cluster can be watched."""

    dashboard: str  # such as "http://127.0.0.1:8265"; "" if it does not run
    token_file: str  # holds the token that the dashboard asks for; "" if none is known here


@contextmanager
def connect(profile: ClusterProfile) -> Iterator[Connection]:
    """Connect to Ray for the length of a block.

    Without an address, Ray is started on this machine alone, bound to loopback, with a token of its own, and ends
    with the block. Inside a Ray job the job's cluster is used.

    Args:
        profile: Names the cluster.

    Yields:
        Where to watch.

    Raises:
        ClusterError: The cluster does not answer, or refuses our token.
    """
    address = _address(profile)
    if address and address.startswith("ray://"):
        raise ClusterError(
            f"{address}: a search must run on a node of the cluster. Run `consilia search --address auto` there, "
            "or send it there: `consilia submit STUDY.yaml --address http://HEAD:8265`."
        )
    os.environ.update(RAY_ENVIRONMENT)
    try:
        context = _join(address) if address else _start()
    except Exception as error:
        raise ClusterError(f"Ray at {address or 'this machine'} cannot be used: {_first_line(error)}") from error
    try:
        url = context.dashboard_url
        yield Connection(dashboard=f"http://{url}" if url else "", token_file=os.environ.get("RAY_AUTH_TOKEN_PATH", ""))
    finally:
        ray.shutdown()


def joins_cluster(profile: ClusterProfile) -> bool:
    """Say whether `connect` joins a running cluster, and starts no Ray of its own."""
    return bool(_address(profile))


def _address(profile: ClusterProfile) -> str | None:
    return profile.address or os.environ.get("RAY_ADDRESS")


def _start() -> Any:
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        # Without RAY_AUTH_MODE, ray.init() turns token authentication on itself; set here it would come too late,
        # because Ray reads that variable when it is imported.
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_own_token())
    loopback: dict[str, Any] = {"_node_ip_address": "127.0.0.2"} if sys.platform == "linux" else {}
    return ray.init(
        address="local",
        dashboard_host="127.0.0.1",
        include_dashboard=True,
        object_store_memory=_OBJECT_STORE_BYTES,
        # Workers, relays and their helpers start together; on a small machine Ray would warn of so many at once.
        _system_config={"worker_maximum_startup_concurrency": _STARTUP_CONCURRENCY},
        log_to_driver=False,
        logging_level=logging.ERROR,
        **loopback,
    )


@functools.cache  # Ray keeps the first token it reads for the life of the process
def _own_token() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="consilia-"))  # readable by this user alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.write_text(secrets.token_hex(32), encoding="ascii")
    return token


def _join(address: str) -> Any:
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # the job has shipped the package and its environment
    runtime_env = None if inside_job else {"py_modules": [str(PACKAGE)], "env_vars": RAY_ENVIRONMENT}
    return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
