"""How much each hyperparameter mattered in a search. Source: docs/methods.md section 2.5."""

import warnings
from collections.abc import Iterable

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from consilia.config.records import TrialRecord
from consilia.config.space import Choice, IntRange
from consilia.metrics.scores import METRICS
from consilia.tune.space import JointSpace, Range

FEWEST_FINISHED = 12  # so that the best quarter is three trials at least
_BEST = 0.25  # share of the finished trials that "good" means


def importances(records: Iterable[TrialRecord], space: JointSpace, *, metric: str) -> dict[str, float] | None:
    """Return each searched hyperparameter's share of the importance, the largest first; shares sum to 1.

    Of the finished trials, PED-ANOVA asks how differently the values of the best quarter are spread from those of all.

    Args:
        records: The study's trials; those that did not finish have no score that could be compared, and are left out.
        space: What was searched.
        metric: The study's.

    Returns:
        None of fewer than 12 finished trials, or where no hyperparameter was searched.
    """
    finished = [record for record in records if record.state == "finished" and record.objective is not None]
    if len(finished) < FEWEST_FINISHED:
        return None
    higher = METRICS[metric].higher_is_better
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if higher else "minimize")
    with warnings.catch_warnings():
        # The evaluator is marked experimental, and warns of a hyperparameter that only few trials had drawn.
        warnings.simplefilter("ignore")
        study.add_trials([_frozen(record, space) for record in finished])
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST))
    return {name: share for name, share in found.items() if share > 0} or None


def _frozen(record: TrialRecord, space: JointSpace) -> optuna.trial.FrozenTrial:
    """Return a finished trial as Optuna knows it, with the hyperparameters that were drawn for it."""
    values = record.hyperparameters.model_dump()
    ranges: dict[str, Range] = {}

    def choose(name: str, parameter: Range) -> object:
        ranges[name] = parameter
        return values[name]

    params = space.draw(choose)  # type: ignore[arg-type] # what a record holds was drawn from this space
    return optuna.trial.create_trial(
        params=params,
        distributions={name: _distribution(parameter) for name, parameter in ranges.items()},
        value=record.objective,
    )


def _distribution(parameter: Range) -> optuna.distributions.BaseDistribution:
    if isinstance(parameter, Choice):
        return optuna.distributions.CategoricalDistribution(parameter.values)
    if isinstance(parameter, IntRange):
        return optuna.distributions.IntDistribution(parameter.low, parameter.high, log=parameter.log)
    return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
