"""What a job is given beside its study."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consilia.errors import UserError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a job is given beside its study: files, packages, variables, and what its driver takes.

    Attributes:
        working_dir: Folder that travels with the job. Paths of the study that lie in it are read from the copy.
        pip: Packages that the job's processes need beside those of the cluster, such as "pydicom==3.0.2".
        env: Environment variables of all the job's processes. Their values are neither printed nor logged, since they
            may be secrets; Ray itself notes them in the logs of its nodes.
        cpus: CPUs that the job's driver reserves; 0 leaves all to the slots.
        memory: Main memory that the job's driver reserves, GB.
        retries: How often a search that was killed or crashed is started again; it goes on from its files.

    Raises:
        UserError: The folder does not exist, or a number is negative.
    """

    working_dir: Path | None = None
    pip: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cpus: float = 0
    memory: float = 0
    retries: int = 0

    def __post_init__(self) -> None:
        for name in ("cpus", "memory", "retries"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} of a job must be at least 0, but is {getattr(self, name)}.")
        if self.working_dir is not None and not self.working_dir.is_dir():
            what = "is no folder" if self.working_dir.exists() else "does not exist"
            raise UserError(f"--working-dir must be a folder on this machine, but {self.working_dir} {what}.")


def parse_env(texts: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE texts as a mapping.

    Raises:
        UserError: One is not of this form. It is named by its place: it may be a secret without its name.
    """
    variables = {}
    for place, text in enumerate(texts, start=1):
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise UserError(
                f"--env must be NAME=VALUE, such as --env TIMM_CACHE=/data/timm, but number {place} of {len(texts)} "
                f"{'has a name of other characters than letters, digits and _' if equals else 'has no ='}."
            )
        variables[name] = value
    return variables
