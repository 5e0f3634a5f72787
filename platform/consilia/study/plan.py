"""Read a study file, replace every name by the content it stands for, and freeze it."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from consilia.config.card import DataCard
from consilia.config.catalog import Kind, Reference, load, resolve_path
from consilia.config.frozen import Frozen, Model, near_match, validate
from consilia.config.recipe import EnsembleRecipe
from consilia.config.space import Hyperparameters
from consilia.config.strict_yaml import merge, parse_settings, read_yaml
from consilia.config.study import ClusterProfile, FoldsPlan, NoStopping, SearchPlan, StudyPlan, TrainingPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import PlanError
from consilia.study.settings import BY_NAME, Settings, as_texts, folders_from, from_here, key_of, weights_from
from consilia.study.spaces import check_spaces, join_plan_spaces, read_space


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


def read_plan(path: str | Path, *, settings: Settings = (), networks: bool = True) -> StudyPlan:
    """Read a study file and check everything that can be checked without data.

    A resolved plan (`studies/<name>/study.yaml`) is a study file too: its content stands in place of the names.

    Args:
        path: The study's YAML. Relative paths in it start from its folder.
        settings: Overrides, such as `["training.epochs=5"]` or `{"training.epochs": 5}`. Relative paths in them start
            from the working directory.
        networks: Build every network without its weights, and pass an image through its shapes. A search does so in
            one of its workers; importing torch and timm here takes seconds.

    Raises:
        PlanError: A key is unknown or wrong (with file, key and a near match), a timm model does not exist, or a
            network refuses its image size.
    """
    plan = _resolve(read_yaml(Path(path)), Path(path).absolute().parent, as_texts(settings), where=str(path))
    if networks:
        check_spaces(plan)
    return plan


def read_stored_plan(folder: StudyFolder) -> StudyPlan:
    """Return the plan that a study was started with.

    Its networks were checked then: trials of a network that timm no longer knows can still be read.

    Raises:
        PlanError: Its study.yaml is damaged; names the file and the key.
    """
    content = read_yaml(folder.plan)
    content.pop("digest", None)
    return validate(StudyPlan, content, where=str(folder.plan))


def study_name(path: Path) -> str:
    """Return the name that a study file gives its study; nothing else in it is looked up.

    Raises:
        PlanError: It is not a study file; names the key.
    """
    content = read_yaml(path)
    content.pop("digest", None)
    return validate(_StudyFile, content, where=str(path)).name


def change_plan(plan: StudyPlan, settings: Settings) -> StudyPlan:
    """Return the plan with some keys changed.

    Raises:
        PlanError: As of `read_plan`.
    """
    changed = _resolve(plan_to_yaml(plan), Path.cwd(), as_texts(settings), where=plan.name)
    check_spaces(changed)
    return changed


def read_single_plan(path: str | Path, *, architecture: str | None = None, settings: Settings = ()) -> StudyPlan:
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
    texts = as_texts(settings)
    ours = [each for each in texts if "." not in key_of(each) and key_of(each) not in StudyPlan.model_fields]
    plan = read_plan(path, settings=[each for each in texts if each not in ours], networks=False)
    joint = join_plan_spaces(plan)
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


def read_card(reference: str | Path, *, settings: Settings = ()) -> DataCard:
    """Read a card by the name of a shipped one, or from a file of your own.

    Args:
        reference: The name or the file.
        settings: Overrides, as of `read_plan`; relative paths start from the working directory.

    Raises:
        PlanError: There is no such card, or a key is unknown or wrong.
    """
    overrides = parse_settings(as_texts(settings))
    if overrides.get("path") is not None:
        overrides["path"] = str(resolve_path(overrides["path"], Path.cwd()))
    return load("data/cards", str(reference), DataCard, base=Path.cwd(), overrides=overrides)


def plan_to_yaml(plan: StudyPlan) -> dict[str, Any]:
    """Return the plan as plain values that `read_plan` reads back to an equal plan."""
    return {
        **plan.model_dump(mode="json"),
        "digest": plan.digest,
    }  # nulls are kept: some ask for no threshold where a default sets one


def changed_keys(old: StudyPlan, new: StudyPlan) -> list[str]:
    """Return the dotted keys whose change would make another study of it, with both values.

    Where the study runs, where the same data or earlier studies lie, which class figures call positive, and how much
    is searched and confirmed (trials, budget, confirm: a study may be extended) are not among them.
    """
    ignored: tuple[str, ...] = ("cluster", "data.path", "data.positive")
    ignored = (*ignored, "search.trials", "search.budget", "search.confirm")
    if all("/" in plan.training.weights for plan in (old, new)):
        ignored = (*ignored, "training.weights")  # where the weights lie; which they are is checked by their hashes
    before, after = (_flatten(_without_places(plan)) for plan in (old, new))
    return [
        f"{key}: {before.get(key)!r} in the study folder, {after.get(key)!r} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(ignored)
    ]


def _resolve(content: dict[str, Any], base: Path, settings: Sequence[str], *, where: str) -> StudyPlan:
    """Replace names by what they stand for, and check the whole; relative paths in the content start from `base`."""
    content.pop("digest", None)
    for each in settings:  # a name first, so that changes of single keys apply to what it stands for
        if key_of(each) in BY_NAME:
            content = merge(content, from_here(parse_settings([each])))
    overrides = from_here(parse_settings([each for each in settings if key_of(each) not in BY_NAME]))
    changes = {key: _pop_changes(content, overrides, key) for key in BY_NAME}
    file = validate(_StudyFile, merge(content, overrides), where=where)
    plan = validate(
        StudyPlan,
        {
            **{name: getattr(file, name) for name in ("name", "seed", "folds")},
            "search": file.search.model_copy(update={"warm_start": folders_from(file.search.warm_start, base)}),
            "training": file.training.model_copy(update={"weights": weights_from(file.training.weights, base)}),
            "data": _read_card(file.data, base),
            "spaces": tuple(read_space(reference, base) for reference in file.spaces),
            "ensemble": _load("ensembles", file.ensemble, EnsembleRecipe, base, changes["ensemble"]),
            "cluster": _load("cluster", file.cluster, ClusterProfile, base, changes["cluster"]),
        },
        where=where,
    )
    join_plan_spaces(plan)  # two families may contradict each other
    return plan


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
