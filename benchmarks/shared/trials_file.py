"""Real trials in one file: logits of the pool's images out of fold, and of images that were held out from all.

A table with one row per image: part ("pool" or "held_out"), label, group, fold (-1 where held out), and for every trial
a column of logits: for a pool image those of the one network that never saw it, for a held-out image those of each
fold's network in turn. Only differences to the first class's logit are stored, since a softmax depends on no more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from consilia.config.records import Labels
from consilia.files import write_atomically

_KEY = b"consilia.trials"
_POOL, _HELD_OUT = "pool", "held_out"

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedTrials:
    """Trials that ran to their end, in the order of their numbers."""

    trials: tuple[Mapping[str, Any], ...]  # of each its number, space and hyperparameters
    notes: Mapping[str, Any]  # of the recording: epochs, device, digests of data and folds
    labels: Labels  # (n_pool,)
    groups: npt.NDArray[np.int64]  # (n_pool,) images of one group are of one patient, or alike
    folds: npt.NDArray[np.int64]  # (n_pool,) the fold that held each image out
    oof: Numbers  # (n_trials, n_pool, n_classes) logits
    held_out_labels: Labels  # (n_held_out,)
    held_out_groups: npt.NDArray[np.int64]  # (n_held_out,)
    held_out: Numbers  # (n_trials, n_folds, n_held_out, n_classes) logits

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return int(self.held_out.shape[1])


def write_trials(path: Path, recorded: RecordedTrials) -> None:
    """Write the table, with trials and notes beside it, as Parquet."""
    n_pool, n_held_out = len(recorded.labels), len(recorded.held_out_labels)
    columns: dict[str, Any] = {
        "part": [_POOL] * n_pool + [_HELD_OUT] * n_held_out,
        "label": np.concatenate([recorded.labels, recorded.held_out_labels]),
        "group": np.concatenate([recorded.groups, recorded.held_out_groups]),
        "fold": np.concatenate([recorded.folds, np.full(n_held_out, -1)]),
    }
    n_others = recorded.oof.shape[-1] - 1  # classes beside the first
    lengths = np.repeat([n_others, recorded.n_folds * n_others], [n_pool, n_held_out])
    starts = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    for trial, oof, held_out in zip(recorded.trials, recorded.oof, recorded.held_out, strict=True):
        values = np.concatenate([_to_differences(oof).ravel(), _to_differences(held_out).swapaxes(0, 1).ravel()])
        columns[f"trial_{trial['number']}"] = pa.ListArray.from_arrays(starts, pa.array(values))
    content = json.dumps({"notes": dict(recorded.notes), "trials": [dict(trial) for trial in recorded.trials]})
    table = pa.table(columns).replace_schema_metadata({_KEY: content.encode()})
    write_atomically(
        path, lambda temporary: pq.write_table(table, temporary, compression="zstd", use_dictionary=["part"])
    )


def read_trials(path: Path) -> RecordedTrials:
    """Read what `write_trials` wrote."""
    table = pq.read_table(path)
    content = json.loads(table.schema.metadata[_KEY])
    is_pool = table["part"].to_numpy() == _POOL
    label, group, fold = (table[name].to_numpy() for name in ("label", "group", "fold"))
    n_pool, n_folds = int(is_pool.sum()), int(fold.max()) + 1
    columns = [table[f"trial_{trial['number']}"].combine_chunks().flatten().to_numpy() for trial in content["trials"]]
    n_others = len(columns[0]) // (n_pool + n_folds * (len(label) - n_pool))
    values = np.stack(columns)
    n_oof = n_pool * n_others
    oof = values[:, :n_oof].reshape(len(values), n_pool, n_others)
    held_out = values[:, n_oof:].reshape(len(values), -1, n_folds, n_others).swapaxes(1, 2)
    return RecordedTrials(
        trials=tuple(content["trials"]),
        notes=content["notes"],
        labels=label[is_pool],
        groups=group[is_pool],
        folds=fold[is_pool],
        oof=_from_differences(oof),
        held_out_labels=label[~is_pool],
        held_out_groups=group[~is_pool],
        held_out=_from_differences(held_out),
    )


def keep_trials(recorded: RecordedTrials, rows: Sequence[int]) -> RecordedTrials:
    """Return the recording with some of its trials only, by their place in it."""
    return replace(
        recorded,
        trials=tuple(recorded.trials[row] for row in rows),
        oof=recorded.oof[list(rows)],
        held_out=recorded.held_out[list(rows)],
    )


def _to_differences(logits: Numbers) -> Numbers:
    """Return (..., n_classes - 1)."""
    result: Numbers = logits[..., 1:] - logits[..., :1]
    return result


def _from_differences(differences: Numbers) -> Numbers:
    """Return logits (..., n_classes), the first class's being 0."""
    return np.concatenate([np.zeros_like(differences[..., :1]), differences], axis=-1)
