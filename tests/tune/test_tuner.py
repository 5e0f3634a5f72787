"""What Ray Tune is told before it starts; its part is played."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consilia.tune.tuner import run_in_slots

PENDING = "TUNE_MAX_PENDING_TRIALS_PG"


def test_as_many_slots_start_at_once_as_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Tuner:
        def __init__(self, *_: Any, **__: Any) -> None:
            """Take whatever it is given."""

        def fit(self) -> None:
            told.append(os.environ[PENDING])

    told: list[str] = []
    monkeypatch.setattr("ray.tune.Tuner", Tuner)
    monkeypatch.delenv(PENDING, raising=False)
    controller: Any = SimpleNamespace(must_leave=lambda: "")
    groups: Any = SimpleNamespace(count=lambda: 7, broker=None, wait_until_idle=lambda: None)
    monkeypatch.setattr("ray.put", lambda value: value)
    monkeypatch.setattr("ray.tune.with_parameters", lambda trainable, **_: SimpleNamespace(__qualname__=""))
    run_in_slots(controller, groups=groups, run_trial=print, n_folds=1, storage=tmp_path)
    assert told == ["7"]
    assert PENDING not in os.environ
