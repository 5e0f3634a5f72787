"""When the trials of a search that is running took their first batch."""

from pathlib import Path

import pandas as pd

from consilia.config.study_folder import StudyFolder

Batches = dict[int, float]  # seconds from the command to a trial's first batch, by trial


def first_batches(study: StudyFolder, started: float, *, known: Batches) -> Batches:
    """Return when trials that are not known yet took it: when their first epochs were written, less their seconds.

    Args:
        study: Its folder.
        started: As of time.time().
        known: What earlier calls have returned.
    """
    found = {}
    for file in study.trials.glob("*/fold-0/history.parquet"):
        number = _trial_of(file)
        if number not in known:
            written = file.stat().st_mtime - started
            found[number] = written - float(pd.read_parquet(file)["seconds"].sum())
    return found


def _trial_of(history: Path) -> int:
    return int(history.parts[-3])
