"""Join recordings of the same images and folds, from several machines for instance; a configuration counts once.

python benchmarks/join_trials.py OUT.parquet FIRST.parquet SECOND.parquet ...
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.trials_file import RecordedTrials, read_trials, write_trials

SAME = ("data_digest", "folds_digest", "epochs", "image_size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", type=Path, nargs="+", help="files that record_trials.py wrote; the first one wins")
    arguments = parser.parse_args()
    joined = join_trials([read_trials(part) for part in arguments.parts])
    write_trials(arguments.out, joined)
    print(f"{len(joined.trials)} trials in {arguments.out}")


def join_trials(parts: Sequence[RecordedTrials]) -> RecordedTrials:
    """Return the trials of all parts under new numbers; of equal configurations, which share their seeds, the first."""
    first = parts[0]
    for part in parts[1:]:
        differing = [name for name in SAME if part.notes[name] != first.notes[name]]
        if differing:
            raise SystemExit(f"Recordings must have equal {', '.join(SAME)} to be joined, but {differing} differ.")
    chosen: dict[str, tuple[int, int]] = {}  # by configuration: part and place in it
    for number, part in enumerate(parts):
        for row, trial in enumerate(part.trials):
            chosen.setdefault(_configuration(trial), (number, row))
    places = list(chosen.values())
    trials = [
        {**parts[part].trials[row], "number": number, "device": _device(parts[part], row)}
        for number, (part, row) in enumerate(places)
    ]
    return RecordedTrials(
        trials=tuple(trials),
        notes={**first.notes, "device": ", ".join(sorted({trial["device"] for trial in trials}))},
        labels=first.labels,
        groups=first.groups,
        folds=first.folds,
        oof=np.stack([parts[part].oof[row] for part, row in places]),
        held_out_labels=first.held_out_labels,
        held_out_groups=first.held_out_groups,
        held_out=np.stack([parts[part].held_out[row] for part, row in places]),
    )


def _configuration(trial: Mapping[str, Any]) -> str:
    return repr(sorted((name, value) for name, value in trial.items() if name not in ("number", "device")))


def _device(part: RecordedTrials, row: int) -> str:
    return str(part.trials[row].get("device", part.notes["device"]))


if __name__ == "__main__":
    main()
