"""A study's folder: made or found, checked against the plan, and held so that no other process works in it."""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import ClusterError, StudyError, UserError
from consilia.files import write_text
from consilia.study.plan import changed_keys, plan_to_yaml, read_stored_plan, study_name

_ATTEMPTS, _ATTEMPT_SECONDS = 5, 0.05


@contextmanager
def claim_folder(
    plan: StudyPlan, studies: Path, *, work: AbstractContextManager[Any] | None = None
) -> Iterator[StudyFolder]:
    """Make `studies/<name>`, or check that it belongs to the plan, and hold it for the length of a block.

    A study that is refused before its first trial leaves no folder, so that the corrected one may have its name.

    Args:
        plan: The study.
        studies: Folder of all studies.
        work: As of `hold_study`.

    Raises:
        StudyError: The folder belongs to another plan (the keys that differ are named), holds something else, or
            another process works in it.
    """
    folder = StudyFolder(studies.absolute() / plan.name)
    if work is None:  # else the folder is what it finds at its URI
        _check_not_foreign(folder)
    folder.root.mkdir(parents=True, exist_ok=True)
    with hold_study(folder, work=work):
        is_new = not folder.plan.exists()
        if not is_new:
            _check_same_plan(plan, folder)
        if is_new or read_stored_plan(folder).search != plan.search:  # new, or more is to be searched
            write_text(folder.plan, yaml.safe_dump(plan_to_yaml(plan), sort_keys=False, allow_unicode=True))
        try:
            yield folder
        except (UserError, ClusterError):  # the plan does not fit the data, a network, the disk or the nodes
            if not folder.trials.exists():
                shutil.rmtree(folder.root, ignore_errors=True)
            raise


@contextmanager
def hold_study(
    folder: StudyFolder,
    *,
    work: AbstractContextManager[Any] | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[StudyFolder]:
    """Hold a study's folder alone; the kernel lets go when the process ends, however it ends.

    Args:
        folder: The study's; it exists.
        work: Entered once the folder is held, and left before it is let go: `Mirror.at_work`.
        wait: Waits so many seconds; tests pass their own.

    Raises:
        StudyError: Another process holds it.
    """
    descriptor = os.open(folder.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for attempt in range(_ATTEMPTS):  # `is_held` may hold it for an instant
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 == _ATTEMPTS:
                    raise StudyError(f"Another process is working in {folder.root}; wait for it or stop it.") from None
                wait(_ATTEMPT_SECONDS)
        with work or nullcontext():
            yield folder
    finally:
        os.close(descriptor)


def is_held(folder: StudyFolder) -> bool:
    """Say whether some process works in a study's folder."""
    try:
        descriptor = os.open(folder.root / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def find_study(reference: str, studies: Path) -> tuple[StudyPlan, StudyFolder]:
    """Return the plan and the folder of a stored study.

    Args:
        reference: Name of a study, its folder, or the study file it was started with.
        studies: Folder of the studies.

    Raises:
        StudyError: There is no such study; those that exist are named.
    """
    path = Path(reference)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        root = studies / study_name(path)
    else:
        root = path if (path / "study.yaml").is_file() else studies / reference
    folder = StudyFolder(root.absolute())
    if not folder.plan.is_file():
        known = sorted(each.parent.name for each in studies.glob("*/study.yaml"))
        raise StudyError(
            f"There is no study {reference!r} in {studies}. Studies there: {', '.join(known) or 'none'}. "
            "Give another folder with --studies, in Python studies=."
        )
    return read_stored_plan(folder), folder


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what consilia logs to the study's run.log for the length of a block."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("consilia")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def _check_not_foreign(folder: StudyFolder) -> None:
    """Refuse a folder with files in it but no study.yaml; a lock alone is left by a start that was killed."""
    if folder.plan.exists() or not folder.root.exists():
        return
    if not folder.root.is_dir() or any(not path.name.startswith(".") for path in folder.root.iterdir()):
        raise StudyError(
            f"{folder.root} exists but does not hold a study.yaml, so it is not a study of consilia.\n"
            "Choose another name in the study file, or another --studies folder."
        )


def _check_same_plan(plan: StudyPlan, folder: StudyFolder) -> None:
    changes = changed_keys(read_stored_plan(folder), plan)
    if changes:
        raise StudyError(
            f"{folder.root} was made by another plan. Keys that differ:\n  "
            + "\n  ".join(changes)
            + "\nGive the study another name (--set name=...), or set these keys back."
        )
