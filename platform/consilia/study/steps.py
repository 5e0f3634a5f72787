"""The training steps of a study that take most memory: what is measured before its search."""

from consilia.config.space import Choice, Hyperparameters, Value
from consilia.config.study import StudyPlan
from consilia.train.context import TrainingContext
from consilia.train.input import Preprocessing
from consilia.train.memory_probe import StepCase, estimate_step
from consilia.tune.space import JointSpace, Range, join_spaces

_MORE_IS_LARGER = ("image_size", "drop_path", "head_dropout", "mixup", "augmentation")  # memory grows with these
_MEASURED = 3  # steps at most
_NEAR = 0.5  # of the largest estimate: estimates hold within a tenth or so on a CPU


def demanding_steps(plan: StudyPlan, context: TrainingContext) -> tuple[StepCase, ...]:
    """Return the steps of which one is the largest of the study, the largest estimate last.

    Of every architecture of all spaces, at the largest image size that its space allows: those whose estimate
    (`train.memory_probe.estimate_step`) is at least half of the largest one, at most three.

    Args:
        plan: The study.
        context: What its trials share: images, classes, architectures.
    """
    joint = join_spaces(plan.spaces, weights=plan.training.weights)
    cases = [_largest_step(plan, context, joint, name) for name in joint.architectures]
    ranked = sorted(((estimate_step(case), case) for case in cases), key=lambda pair: pair[0])
    enough = _NEAR * ranked[-1][0]
    return tuple(case for estimate, case in ranked[-_MEASURED:] if estimate >= enough)


def _largest_step(plan: StudyPlan, context: TrainingContext, joint: JointSpace, architecture: str) -> StepCase:
    def choose(name: str, range_: Range) -> Value:
        if name == "architecture":
            return architecture
        return _largest(range_) if name in _MORE_IS_LARGER else range_.default

    drawn = Hyperparameters.model_validate(joint.draw(choose))
    size = largest_image_size(plan, joint, architecture)
    hyperparameters = drawn.model_copy(update={"image_size": size})
    spec = context.model_spec(hyperparameters)
    return StepCase(
        hyperparameters=hyperparameters,
        spec=spec,
        preprocessing=Preprocessing(
            size=context.store.manifest.size,
            channels=spec.channels,
            image_size=size,
            mean=(0.5,) * spec.channels,
            std=(0.25,) * spec.channels,
        ),
        batch_size=max(2, -(-plan.training.batch_size // plan.cluster.workers_per_trial)),
        n_workers=plan.cluster.workers_per_trial,
        precision=plan.training.precision,
    )


def largest_image_size(plan: StudyPlan, joint: JointSpace, architecture: str) -> int:
    """Return the largest image size that a trial of this architecture may have, pixels."""
    range_ = joint.families[architecture].get("image_size")
    if range_ is None or architecture not in range_.when.get("architecture", (architecture,)):
        return plan.image_size
    largest = int(_largest(range_))
    return max(largest, plan.image_size) if range_.when else largest


def _largest(range_: Range) -> Value:
    return max(range_.values, key=float) if isinstance(range_, Choice) else range_.high
