"""Several families as one space: a configuration is drawn parameter by parameter, conditions included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consilia.config.space import Architecture, Choice, FloatRange, Hyperparameters, IntRange, SearchSpace, Value
from consilia.errors import PlanError

if TYPE_CHECKING:
    import optuna

Range = FloatRange | IntRange | Choice


@dataclass(frozen=True, slots=True)
class JointSpace:
    """All families under one categorical `architecture`; what they share has one name and one range."""

    architectures: Mapping[str, Architecture]
    families: Mapping[str, Mapping[str, Range]]  # by architecture: the parameters of its family
    start_with: tuple[str, ...]

    def draw(self, choose: Callable[[str, Range], Value]) -> dict[str, Value]:
        """Build one configuration, asking `choose` only for parameters whose conditions hold.

        Args:
            choose: Receives a parameter's name and range and returns its value.

        Returns:
            Values by name, `architecture` among them.
        """
        names = tuple(self.architectures)
        values = {"architecture": choose("architecture", Choice(values=names, default=self.start_with[0]))}
        for name, parameter in self.families[str(values["architecture"])].items():
            if all(values.get(key) in allowed for key, allowed in parameter.when.items()):
                values[name] = choose(name, parameter)
        return values

    def defaults(self, architecture: str) -> dict[str, Value]:
        """Return the default configuration of one architecture."""
        return self.draw(lambda name, parameter: architecture if name == "architecture" else parameter.default)

    def suggest(self, trial: "optuna.Trial") -> Hyperparameters:
        """Draw a configuration from Optuna (define-by-run)."""
        return Hyperparameters.model_validate(self.draw(lambda name, range_: _suggest(trial, name, range_)))

    def restore(self, params: Mapping[str, Value]) -> Hyperparameters | None:
        """Return the configuration that `params` records, or None if some of it was never drawn."""
        try:
            return Hyperparameters.model_validate(self.draw(lambda name, _: params[name]))
        except KeyError:
            return None


def join_spaces(spaces: Sequence[SearchSpace], *, weights: str) -> JointSpace:
    """Join families into one space.

    Args:
        spaces: At least one.
        weights: With "none", each family's `from_scratch` ranges replace its ranges for fine-tuning.

    Raises:
        PlanError: Two families name an architecture or a range differently, or a condition names a parameter that
            is not drawn before it.
    """
    architectures: dict[str, Architecture] = {}
    families: dict[str, Mapping[str, Range]] = {}
    shared: dict[str, tuple[str, Range]] = {}
    for space in spaces:
        parameters = {**space.parameters, **(space.from_scratch if weights == "none" else {})}
        _check_conditions(space.family, parameters)
        for name, parameter in parameters.items():
            _check_shared(shared, space.family, name, parameter)
        for name, architecture in space.architectures.items():
            if architectures.get(name, architecture) != architecture:
                raise PlanError(f"{space.family}: architecture {name!r} means something else in another space.")
            architectures[name] = architecture
            families[name] = parameters
    start_with = tuple(dict.fromkeys(name for space in spaces for name in space.start_with))
    return JointSpace(architectures, families, start_with)


def _check_conditions(family: str, parameters: Mapping[str, Range]) -> None:
    drawn = {"architecture"}
    for name, parameter in parameters.items():
        for key in parameter.when:
            if key not in drawn:
                raise PlanError(
                    f"{family}: {name}.when names {key!r}, which is not drawn before it; "
                    f"drawn so far: {', '.join(sorted(drawn))}."
                )
        drawn.add(name)


def _check_shared(shared: dict[str, tuple[str, Range]], family: str, name: str, parameter: Range) -> None:
    other, first = shared.setdefault(name, (family, parameter))
    unconditional = parameter.model_copy(update={"when": {}})
    if unconditional != first.model_copy(update={"when": {}}):
        raise PlanError(
            f"{name} has another range in {family} than in {other}. Shared hyperparameters need one range, so that "
            f"the search learns from all families: make them equal, or search one family at a time."
        )


def _suggest(trial: "optuna.Trial", name: str, parameter: Range) -> Value:
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, parameter.values)  # type: ignore[return-value] # values are ours
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
