"""A study gives what it gave: the facts of `tests/whole_study.py`, recorded once, before anything was moved.

On the machine that recorded them they are equal to the last bit. Elsewhere floats differ in their last digits, which
TPE and the racing turn into other decisions, so only what no float decides is compared there: folds and the random
trials' hyperparameters.
"""

import json
from pathlib import Path

import pytest

from whole_study import facts_as_json

RECORDED = Path(__file__).parent / "equality.json"
N_RANDOM = 10  # trials that TPE draws before it looks at scores


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return json.loads(facts_as_json(tmp_path_factory.mktemp("equal")))


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def test_folds_and_random_suggestions_are_those_recorded(facts, recorded):
    assert facts["folds"] == recorded["folds"]
    for new, old in zip(facts["trials"][:N_RANDOM], recorded["trials"][:N_RANDOM], strict=True):
        assert new["record"]["hyperparameters"] == old["record"]["hyperparameters"]


def test_everything_is_as_recorded_bit_for_bit_on_the_machine_that_recorded_it(facts, recorded):
    if facts["machine"] != recorded["machine"]:
        pytest.skip(f"recorded on {recorded['machine']}, this is {facts['machine']}")
    assert set(facts) == set(recorded)
    for part in recorded:
        assert facts[part] == recorded[part], part
