"""Check search spaces against the networks and hyperparameters that really exist; only checking imports timm."""

from pathlib import Path

from pydantic import ValidationError

from consilia.config.catalog import Reference, load
from consilia.config.frozen import near_match
from consilia.config.network import ModelSpec
from consilia.config.space import Architecture, Choice, Hyperparameters, Parameter, SearchSpace
from consilia.config.study import StudyPlan
from consilia.errors import PlanError
from consilia.train.networks.names import is_surely_known
from consilia.tune.space import JointSpace, join_spaces


def read_space(reference: Reference, base: Path) -> SearchSpace:
    """Read a search space and check the names of its architectures, and its parameters.

    Raises:
        PlanError: An unknown timm model, an unknown hyperparameter, or a range that leaves what the
            hyperparameter allows; names the file, the key and a near match.
    """
    space = load("search_spaces", reference, SearchSpace, base=base)
    where = reference if isinstance(reference, str) else space.family
    if not is_surely_known(architecture.timm for architecture in space.architectures.values()):
        _check_architectures(space, where)
    for section, parameters in (("parameters", space.parameters), ("from_scratch", space.from_scratch)):
        for name, parameter in parameters.items():
            _check_parameter(f"{where}: {section}.{name}", name, parameter)
    return space


def _check_architectures(space: SearchSpace, where: str) -> None:
    from consilia.train.networks.factory import check_architecture

    for name, architecture in space.architectures.items():
        try:
            check_architecture(architecture)
        except PlanError as error:
            raise PlanError(f"{where}: architectures.{name}.timm: {error}") from None


def join_plan_spaces(plan: StudyPlan) -> JointSpace:
    """Return the plan's families as one space.

    Raises:
        PlanError: Two families contradict each other.
    """
    return join_spaces(plan.spaces, weights=plan.training.weights)


def check_spaces(plan: StudyPlan) -> JointSpace:
    """Check that every network of the plan can be built and takes the plan's images.

    Raises:
        PlanError: Conflicting ranges, a model that timm does not know or builds otherwise, or a network that refuses an
            image size.
    """
    joint = join_plan_spaces(plan)
    for space in plan.spaces:
        _check_architectures(space, space.family)
    for name, architecture in joint.architectures.items():
        sizes = _image_sizes(plan, joint.families[name].get("image_size"))
        for size in sizes:
            _check_image_size(architecture, size, plan)
    if plan.search.configuration is not None:
        _check_configuration(plan.search.configuration, joint, plan)
    return joint


def _check_configuration(configuration: Hyperparameters, joint: JointSpace, plan: StudyPlan) -> None:
    name = configuration.architecture
    if name not in joint.architectures:
        known = list(joint.architectures)
        raise PlanError(
            f"search.configuration.architecture: {name!r} is in none of the study's spaces."
            f"{near_match(name, known)} Known: {', '.join(known)}."
        )
    if configuration.image_size is not None:
        _check_image_size(joint.architectures[name], configuration.image_size, plan)


def _check_image_size(architecture: Architecture, size: int, plan: StudyPlan) -> None:
    from consilia.train.networks.factory import check_image_size

    check_image_size(ModelSpec(architecture=architecture, n_classes=2, channels=plan.data.channels), size)


def _check_parameter(where: str, name: str, parameter: Parameter) -> None:
    known = sorted(set(Hyperparameters.model_fields) - {"architecture"})
    if name not in known:
        raise PlanError(f"{where} is not a hyperparameter.{near_match(name, known)} Known: {', '.join(known)}.")
    values = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
    for value in values:
        try:
            Hyperparameters.model_validate({"architecture": "any", name: value})
        except ValidationError as error:
            raise PlanError(f"{where}: {error.errors()[0]['msg']}, but the range reaches {value!r}.") from None


def _image_sizes(plan: StudyPlan, parameter: Parameter | None) -> list[int]:
    if parameter is None:
        return [plan.image_size]
    values = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
    return [int(value) for value in values]
