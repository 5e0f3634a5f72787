"""The plan of `train`: a study whose search is one given configuration."""

from collections.abc import Sequence
from pathlib import Path

from consilia.config.frozen import near_match, validate
from consilia.config.space import Hyperparameters
from consilia.config.strict_yaml import parse_settings
from consilia.config.study import NoStopping, SearchPlan, StudyPlan
from consilia.errors import PlanError
from consilia.study.plan import read_plan
from consilia.study.spaces import check_spaces
from consilia.tune.space import join_spaces


def read_single_plan(path: Path, *, architecture: str | None = None, settings: Sequence[str] = ()) -> StudyPlan:
    """Read a study file and replace its search by one configuration.

    Args:
        path: The study's YAML.
        architecture: One of the study's; by default the first that the search would start with.
        settings: A plain key such as "lr=1e-3" is a hyperparameter, a dotted key such as "training.epochs=5" or a
            section's name belongs to the study.

    Returns:
        The plan, named `<study>-train` so that it stays apart from the search of the same file.

    Raises:
        PlanError: As `read_plan`, or an unknown architecture or hyperparameter.
    """
    ours = [each for each in settings if "." not in each.partition("=")[0] and not _is_section(each)]
    plan = read_plan(path, settings=[each for each in settings if each not in ours])
    joint = join_spaces(plan.spaces, weights=plan.training.weights)
    changes = parse_settings(ours)
    name = str(changes.pop("architecture", None) or architecture or joint.start_with[0])
    if name not in joint.architectures:
        known = list(joint.architectures)
        raise PlanError(f"--architecture {name}: not in {path}.{near_match(name, known)} Known: {', '.join(known)}.")
    configuration = validate(Hyperparameters, {**joint.defaults(name), **changes}, where="--set")
    search = SearchPlan(
        trials=1,
        metric=plan.search.metric,
        stopping=NoStopping(),
        keep_weights=1,
        configuration=configuration,
    )
    single = plan.model_copy(update={"name": f"{plan.name}-train", "search": search})
    check_spaces(single)
    return single


def _is_section(setting: str) -> bool:
    return setting.partition("=")[0] in StudyPlan.model_fields
