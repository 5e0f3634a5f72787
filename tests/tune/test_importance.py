"""Which hyperparameter mattered: the one that the score depends on."""

import numpy as np
import pytest

from consilia.config.records import TrialRecord
from consilia.config.space import Architecture, FloatRange, Hyperparameters, SearchSpace
from consilia.tune.importance import FEWEST_FINISHED, importances
from consilia.tune.space import JointSpace, join_spaces


@pytest.fixture
def space() -> JointSpace:
    family = SearchSpace(
        family="toy",
        architectures={"one": Architecture(timm="one"), "two": Architecture(timm="two")},
        start_with=("one",),
        parameters={
            "lr": FloatRange(low=1e-4, high=1e-1, log=True, default=1e-3),
            "mixup": FloatRange(low=0.0, high=1.0, default=0.5),
            "drop_path": FloatRange(low=0.0, high=0.2, default=0.1, when={"architecture": ("two",)}),
            "warmup": FloatRange(low=0.05, high=0.05, default=0.05),
        },
    )
    return join_spaces([family], weights="none")


def played(n: int, *, sign: float = 1.0, state: str = "finished") -> list[TrialRecord]:
    """Trials whose score is the learning rate's distance from 0.01 in decades; of far ones, mixup decides how bad."""
    generator = np.random.default_rng(0)
    records = []
    for number in range(n):
        lr, mixup = float(10 ** generator.uniform(-4, -1)), float(generator.random())
        options = Hyperparameters(architecture=("one", "two")[number % 2], lr=lr, mixup=mixup, drop_path=0.1)
        distance = abs(np.log10(lr) + 2)
        score = sign * (distance if distance < 0.7 else 1 + mixup)
        records.append(TrialRecord(number=number, state=state, hyperparameters=options, objective=score))
    return records


@pytest.mark.parametrize(("metric", "sign"), [("log_loss", 1.0), ("macro_auc", -1.0)])
def test_what_the_score_depends_on_has_the_largest_share(space, metric, sign):
    shares = importances(played(60, sign=sign), space, metric=metric)
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert "warmup" not in shares  # it is the same in all trials


def test_too_few_finished_trials_tell_nothing(space):
    assert importances(played(FEWEST_FINISHED - 1), space, metric="log_loss") is None
    assert importances(played(60, state="stopped"), space, metric="log_loss") is None
