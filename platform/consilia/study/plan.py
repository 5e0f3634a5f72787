"""Read a study file, replace every name by the content it stands for, and freeze it."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from consilia.config.card import DataCard
from consilia.config.catalog import Kind, Reference, is_file_reference, load, resolve_path
from consilia.config.frozen import Frozen, Model, validate
from consilia.config.recipe import EnsembleRecipe
from consilia.config.strict_yaml import merge, parse_settings, read_yaml
from consilia.config.study import ClusterProfile, FoldsPlan, SearchPlan, StudyPlan, TrainingPlan
from consilia.study.spaces import check_spaces, read_space


class _StudyFile(Frozen):
    """A study file as people write it: content by name, by file, or in place."""

    name: str
    seed: int = 0
    data: dict[str, Any]
    folds: FoldsPlan = FoldsPlan()
    spaces: tuple[str | dict[str, Any], ...]
    search: SearchPlan = SearchPlan()
    training: TrainingPlan = TrainingPlan()
    ensemble: str | dict[str, Any] = "greedy_calibrated"
    cluster: str | dict[str, Any] = "local"


def read_plan(path: Path, *, settings: Sequence[str] = ()) -> StudyPlan:
    """Read a study file and check everything that can be checked without data.

    A resolved plan (`studies/<name>/study.yaml`) is a study file too: its content stands in place of the names.

    Args:
        path: The study's YAML. Relative paths in it start from its folder.
        settings: `key=value` overrides. Relative paths in them start from the working directory.

    Raises:
        PlanError: A key is unknown or wrong (with file, key and a near match), a timm model does not exist, or a
            network refuses its image size.
    """
    content = read_yaml(path)
    content.pop("digest", None)
    for each in settings:  # a name first, so that changes of single keys apply to what it stands for
        if each.partition("=")[0] in _BY_NAME:
            content = merge(content, _from_here(parse_settings([each])))
    overrides = _from_here(parse_settings([each for each in settings if each.partition("=")[0] not in _BY_NAME]))
    changes = {key: _pop_changes(content, overrides, key) for key in _BY_NAME}
    file = validate(_StudyFile, merge(content, overrides), where=str(path))
    base = path.absolute().parent
    plan = validate(
        StudyPlan,
        {
            **{name: getattr(file, name) for name in ("name", "seed", "folds")},
            "search": file.search.model_copy(update={"warm_start": _folders_from(file.search.warm_start, base)}),
            "training": file.training.model_copy(update={"weights": _weights_from(file.training.weights, base)}),
            "data": _read_card(file.data, base),
            "spaces": tuple(read_space(reference, base) for reference in file.spaces),
            "ensemble": _load("ensembles", file.ensemble, EnsembleRecipe, base, changes["ensemble"]),
            "cluster": _load("cluster", file.cluster, ClusterProfile, base, changes["cluster"]),
        },
        where=str(path),
    )
    check_spaces(plan)
    return plan


def read_card(reference: str, *, settings: Sequence[str] = ()) -> DataCard:
    """Read a card by name or file, with `key=value` overrides; relative paths start from the working directory.

    Raises:
        PlanError: No such card, or a key is unknown or wrong.
    """
    overrides = parse_settings(settings)
    if overrides.get("path") is not None:
        overrides["path"] = str(resolve_path(overrides["path"], Path.cwd()))
    return load("data/cards", reference, DataCard, base=Path.cwd(), overrides=overrides)


def plan_to_yaml(plan: StudyPlan) -> dict[str, Any]:
    """Return the plan as plain values that `read_plan` reads back to an equal plan."""
    return {**plan.model_dump(mode="json"), "digest": plan.digest}  # null is no default: it asks for no threshold


def changed_keys(old: StudyPlan, new: StudyPlan) -> list[str]:
    """Return the dotted keys whose change would make another study of it, with both values.

    Where the study runs, where the same data or earlier studies lie, and how much is searched (trials and budget: a
    study may be extended) are not among them.
    """
    ignored: tuple[str, ...] = ("cluster", "data.path", "search.trials", "search.budget")
    if all("/" in plan.training.weights for plan in (old, new)):
        ignored = (*ignored, "training.weights")  # where the weights lie; which they are is checked by their hashes
    before, after = (_flatten(_without_places(plan)) for plan in (old, new))
    return [
        f"{key}: {before.get(key)!r} in the study folder, {after.get(key)!r} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(ignored)
    ]


_BY_NAME = ("ensemble", "cluster")


def _from_here(overrides: dict[str, Any]) -> dict[str, Any]:
    """Let the files that settings name start from the working directory, not from the study file's folder."""
    data = overrides.get("data")
    here = {key: _file_from_here(value) for key, value in overrides.items() if key in _BY_NAME}
    if isinstance(overrides.get("spaces"), list):
        here["spaces"] = [_file_from_here(each) for each in overrides["spaces"]]
    if isinstance(data, dict):
        here["data"] = data | {"card": _file_from_here(data["card"])} if "card" in data else dict(data)
        if data.get("path") is not None:
            here["data"]["path"] = str(resolve_path(data["path"], Path.cwd()))
    training = overrides.get("training")
    if isinstance(training, dict) and "weights" in training:
        here["training"] = training | {"weights": _weights_from(training["weights"], Path.cwd())}
    search = overrides.get("search")
    if isinstance(search, dict) and isinstance(search.get("warm_start"), list):
        here["search"] = search | {"warm_start": _folders_from(search["warm_start"], Path.cwd())}
    return {**overrides, **here}


def _folders_from(references: Sequence[Any], base: Path) -> tuple[Any, ...]:
    """Let folders of studies start from `base`; a reference without a slash is the name of a study."""
    return tuple(
        str(resolve_path(each, base)) if isinstance(each, str) and "/" in each else each for each in references
    )


def _weights_from(weights: Any, base: Path) -> Any:
    is_path = isinstance(weights, str) and ("/" in weights or weights.endswith(".safetensors"))
    return str(resolve_path(weights, base)) if is_path else weights


def _file_from_here(reference: Any) -> Any:
    return str(resolve_path(reference, Path.cwd())) if is_file_reference(reference) else reference


def _pop_changes(content: Mapping[str, Any], overrides: dict[str, Any], key: str) -> dict[str, Any]:
    """Take single-key changes of something given by name (`cluster.max_slots=1`) out of the overrides."""
    change = overrides.get(key)
    if isinstance(change, Mapping) and not isinstance(content.get(key), Mapping):
        return dict(overrides.pop(key))
    return {}


def _read_card(data: Mapping[str, Any], base: Path) -> DataCard:
    overrides = dict(data)
    reference: Reference = overrides.pop("card", {})
    if overrides.get("path") is not None:
        overrides["path"] = str(resolve_path(overrides["path"], base))
    return load("data/cards", reference, DataCard, base=base, overrides=overrides)


def _load(kind: Kind, reference: Reference, model: type[Model], base: Path, changes: Mapping[str, Any]) -> Model:
    return load(kind, reference, model, base=base, overrides=changes)


def _without_places(plan: StudyPlan) -> dict[str, Any]:
    """Return the plan's values with earlier studies by their names alone."""
    values = plan.model_dump(mode="json")
    values["search"]["warm_start"] = [PurePath(each).name for each in plan.search.warm_start]
    return values


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        name: leaf
        for key, each in value.items()
        for name, leaf in _flatten(each, f"{prefix}.{key}" if prefix else str(key)).items()
    }
