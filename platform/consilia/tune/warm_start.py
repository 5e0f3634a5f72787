"""The best configurations of earlier studies, fitted to a new study's space; their scores stay behind.

A score belongs to the images, folds and epochs that it was measured with. A configuration is only worth trying early.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from consilia.config.records import TrialRecord
from consilia.config.space import Choice, IntRange, Value
from consilia.tune.space import JointSpace, Range

TOP = 5  # trials of each earlier study; more would be a search of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierStudy:
    """A study whose best trials are tried again."""

    name: str
    space: JointSpace  # what it searched
    trials: Sequence[TrialRecord]  # finished, the best by its own metric first


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A configuration to try before the sampler suggests its own."""

    values: dict[str, Value]  # by parameter, `architecture` among them, as the new space draws them
    origin: str  # for people: "warm start: pneumonia trial 7"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What to enqueue after the defaults, and what people should know of it."""

    starts: tuple[Start, ...] = ()
    remarks: tuple[str, ...] = ()


def warm_start(earlier: Sequence[EarlierStudy], space: JointSpace, *, n_trials: int) -> WarmStart:
    """Choose the best trials of each earlier study and fit them to the new space by the names of their parameters.

    The best of every study comes first, then every second best. A number outside its new range is clipped; a parameter
    that the earlier study did not search takes its default; a trial whose architecture or named value does not exist
    in the new space is left out, as is one that equals another or a default.

    Args:
        earlier: In the order of the study file.
        space: What the new study searches.
        n_trials: Its budget; the defaults of its families take the first places.
    """
    n_room = max(0, n_trials - len(space.start_with))
    seen = {_identity(space.defaults(name)): f"the defaults of {name}" for name in space.start_with}
    starts: list[Start] = []
    remarks: list[str] = []
    tried: list[str] = []
    without_room: list[str] = []
    for study, record in _by_rank(earlier):
        trial = f"trial {record.number} of {study.name}"
        try:
            values, changes = _fit(record, study.space, space)
        except _UnusableError as error:
            remarks.append(f"{trial} is left out: {error}")
            continue
        twin = seen.setdefault(_identity(values), trial)
        if twin != trial:
            remarks.append(f"{trial} is left out: it equals {twin}")
        elif len(starts) == n_room:
            without_room.append(trial)
        else:
            tried.append(trial)
            starts.append(Start(values=values, origin=f"warm start: {study.name} trial {record.number}"))
            if changes:
                remarks.append(f"{trial}: {', '.join(changes)}")
    if without_room:
        remarks.append(
            f"{', '.join(without_room)}: left out, since {n_trials} trials leave room for {n_room} "
            f"beside {len(space.start_with)} defaults"
        )
    if earlier:
        names = ", ".join(study.name for study in earlier)
        summary = ", ".join(tried) + ", after the defaults" if tried else f"no trial of {names} can be tried here"
        remarks.insert(0, f"warm start: {summary}")
    return WarmStart(starts=tuple(starts), remarks=tuple(remarks))


class _UnusableError(Exception):
    """Why a trial cannot be carried over."""


def _by_rank(earlier: Sequence[EarlierStudy]) -> Iterator[tuple[EarlierStudy, TrialRecord]]:
    for rank in zip_longest(*(study.trials[:TOP] for study in earlier)):
        for study, record in zip(earlier, rank, strict=True):
            if record is not None:
                yield study, record


def _fit(record: TrialRecord, old: JointSpace, new: JointSpace) -> tuple[dict[str, Value], list[str]]:
    """Return the configuration in the new space, and what was changed for it."""
    stored = record.hyperparameters.model_dump()
    if record.hyperparameters.architecture not in old.architectures:
        raise _UnusableError(f"its own study knows no architecture {record.hyperparameters.architecture!r}")
    # A field that was not searched holds whatever it was by default, which nobody has found to be good.
    searched: dict[str, Value] = old.draw(lambda name, _: stored[name])
    changes: list[str] = []

    def choose(name: str, parameter: Range) -> Value:
        if name not in searched:
            return parameter.default
        return _nearest(name, searched[name], parameter, changes)

    return new.draw(choose), changes


def _nearest(name: str, value: Value, parameter: Range, changes: list[str]) -> Value:
    """Return the value as the range allows it."""
    if isinstance(parameter, Choice):
        if value not in parameter.values:
            known = ", ".join(map(_text, parameter.values))
            raise _UnusableError(f"{name} {_text(value)} does not exist in this study, which has {known}")
        return parameter.values[parameter.values.index(value)]
    if not isinstance(value, int | float):
        raise _UnusableError(f"{name} {_text(value)} is not a number, and this study has a range of numbers")
    wanted = round(value) if isinstance(parameter, IntRange) else float(value)
    nearest = min(max(wanted, parameter.low), parameter.high)
    if nearest != wanted:
        changes.append(f"{name} {_text(value)} clipped to {_text(nearest)}")
    elif nearest != value:
        changes.append(f"{name} {_text(value)} rounded to {_text(nearest)}")
    return nearest


def _identity(values: dict[str, Value]) -> frozenset[tuple[str, Value]]:
    return frozenset(values.items())


def _text(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
